"""Generates text with a model that is loaded already.

import dllm_env
answer = dllm_env.generate(model, tokenizer, "How many legs have three spiders?", policy="threshold:0.9")
print(answer.texts[0], answer.nfe)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dllm_env.denoisers.base import Denoiser
from dllm_env.dynamics import Rules
from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import Rollout, rollout, row_seeds

Messages = Sequence[Mapping[str, str]]
"""A conversation: ``role`` and ``content`` of each message."""


@dataclass(frozen=True)
class Generated:
    """The responses, in the order of their prompts.

    Attributes:
        texts: up to the end of the text.
        nfe: denoiser evaluations that each needed.
        rollout: tokens, steps, and in which of them each token was written.
    """

    texts: list[str]
    nfe: list[int]
    rollout: Rollout


def generate(
    model: Any,
    tokenizer: Any,
    prompts: str | Sequence[str | Messages],
    policy: str | Policy = "threshold:0.9",
    gen_length: int = 128,
    block_length: int = 32,
    *,
    seed: int = 0,
    batch_size: int = 16,
    options: Any = None,
    **rules: Any,
) -> Generated:
    """Generates a response to each prompt.

    Args:
        model: a loaded diffusion language model: LLaDA, Dream, a masked language model or a converted decoder of
            transformers, or anything that answers ``input_ids`` with ``logits``; or a ``Denoiser``. It is left as
            it is.
        tokenizer: the model's; None with a ``Denoiser``.
        prompts: texts, put into the chat template where the tokenizer has one, or conversations.
        policy: heuristic (``threshold:0.9``), class in a file, folder or Hub name of a learned one, or an object.
        gen_length: tokens to generate, a multiple of ``block_length``.
        block_length: equal to ``gen_length`` for full diffusion.
        seed: everything random follows from it and the place of a prompt.
        batch_size: prompts played at a time; a prompt that is done makes room for the next.
        options: ``dllm_env.denoisers.huggingface.Options``: ``shift``, ``chat`` and ``mask`` where they are
            not found out.
        rules: other fields of ``dllm_env.Rules``, as ``temperature`` and ``prefix_cache``; ``stop_at_eot`` is on
            here, unless it is said not to be.

    Returns:
        Texts and the evaluations that each needed.

    Raises:
        UsageError: settings or a model that do not fit.
    """
    denoiser = _denoiser(model, tokenizer, options)
    played_by = _rules(gen_length, block_length, rules)
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed:
        raise UsageError("generate needs at least one prompt")
    ids = [denoiser.encode(p) if isinstance(p, str) else _conversation(tokenizer, p) for p in listed]
    seeds = row_seeds(len(ids), "generate", seed)
    played = rollout(denoiser, load_policy(policy, denoiser.device), played_by, ids, seeds, batch_size=batch_size)
    texts = [denoiser.response_text(response) for response in played.responses.tolist()]
    return Generated(texts, played.nfe.tolist(), played)


def _rules(gen_length: int, block_length: int, more: Mapping[str, Any]) -> Rules:
    known = [rule.name for rule in fields(Rules) if rule.name not in ("response_length", "block_length")]
    for name in more:
        if name not in known:
            raise UsageError(f"generate has no argument {name!r}; its rules are {', '.join(known)}")
    return Rules(gen_length, block_length, **{"stop_at_eot": True, **more})


def _denoiser(model: Any, tokenizer: Any, options: Any) -> Denoiser:
    if isinstance(model, Denoiser):
        return model
    from dllm_env.denoisers.huggingface import HuggingFaceDenoiser, Options

    if tokenizer is None:
        raise UsageError("generate needs the model's tokenizer")
    return HuggingFaceDenoiser(model, tokenizer, options=options or Options())


def _conversation(tokenizer: Any, messages: Messages) -> list[int]:
    if tokenizer is None:
        raise UsageError("conversations need a tokenizer with a chat template; give texts")
    return list(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

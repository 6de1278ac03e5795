"""Generates text with a model that is loaded already.

import dllm_env
answer = dllm_env.generate(model, tokenizer, "How many legs have three spiders?", policy="threshold:0.9")
print(answer.texts[0], answer.nfe)
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dllm_env.denoisers.base import Denoiser
from dllm_env.dynamics import Wishes, given_by
from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import Rollout, rollout, row_seeds
from dllm_env.rules import Rules

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
    prompts: str | Messages | Sequence[str | Messages],
    policy: str | Policy = "threshold:0.9",
    gen_length: int = 128,
    block_length: int | None = None,
    *,
    template: str = "",
    seed: int = 0,
    batch_size: int = 16,
    options: Any = None,
    **rules: Any,
) -> Generated:
    """Generates a response to each prompt.

    Args:
        model: a loaded diffusion language model: LLaDA, Dream, a masked language model or a converted decoder of
            transformers, or anything that answers ``input_ids`` with ``logits``; or a ``Denoiser``. It is evaluated
            without dropout, and left in the mode that it was in.
        tokenizer: the model's; None with a ``Denoiser``.
        prompts: one text or conversation, or several. Texts are put into the chat template where the tokenizer has
            one. What reads like a special token in them is text.
        policy: heuristic (``threshold:0.9``), class in a file, folder or Hub name of a learned one, or an object.
        gen_length: tokens to generate, a multiple of ``block_length``; with a template those of all of the
            response, or 0 where it ends with the template.
        block_length: equal to ``gen_length`` for full diffusion; None for that of a model which attends in blocks,
            32 of all others, and full diffusion where ``gen_length`` is 0.
        template: what each response begins with, ``[[5]]`` for five masks in it: text that is to be filled in,
            ``The capital is [[2]], on the river [[3]].``; behind it are masks up to ``gen_length``.
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

    Examples:
        >>> from dllm_env import load_denoiser
        >>> prompt = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3"
        >>> model = load_denoiser("tiny")
        >>> answer = generate(model, None, prompt, policy="leftmost:1", gen_length=40, block_length=8)
        >>> answer.texts[0]
        'h 1 i 7 j 1 k 2 l 6 ; b 8 c 6 d 8'
    """
    listed = _listed(prompts)
    length, batch_size = _whole("gen_length", gen_length), _whole("batch_size", batch_size)
    block, seed = None if block_length is None else _whole("block_length", block_length), _whole("seed", seed)
    _check_policy(policy)
    denoiser = _denoiser(model, tokenizer, options)
    length = length or len(denoiser.encode_template(template))
    if block is None:
        block = denoiser.attention_block or (32 if gen_length else length)
    played_by = _rules(length, block, rules)
    ids = [denoiser.encode(p) if isinstance(p, str) else _conversation(denoiser, tokenizer, p) for p in listed]
    seeds = row_seeds(len(ids), "generate", seed)
    chosen = load_policy(policy, denoiser.device)
    wishes = Wishes(given=given_by(denoiser, [template] * len(ids), length))
    played = rollout(denoiser, chosen, played_by, ids, seeds, batch_size=batch_size, wishes=wishes)
    texts = [denoiser.response_text(response) for response in played.responses.tolist()]
    return Generated(texts, played.nfe.tolist(), played)


def _listed(prompts: Any) -> list[str | Messages]:
    """One or several prompts as a list.

    Raises:
        UsageError: anything that is neither a text nor a conversation.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (bytes, Mapping)) or not hasattr(prompts, "__iter__"):
        raise UsageError(f"prompts are texts or conversations (lists of messages), got {_shown(prompts)}")
    listed = list(prompts)
    if not listed:
        raise UsageError("generate needs at least one prompt, got an empty list")
    if isinstance(listed[0], Mapping):
        return [_messages(listed)]
    return [one if isinstance(one, str) else _messages(one) for one in listed]


def _messages(given: Any) -> Messages:
    """A conversation, checked.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(given, (list, tuple)) or not given:
        raise UsageError(f"a prompt is a text or a conversation (a list of messages), got {_shown(given)}")
    for message in given:
        if isinstance(message, str):
            raise UsageError(
                f"a list of prompts holds texts and conversations, got a list of texts in it: {given!r}"
            )
        if not isinstance(message, Mapping):
            raise UsageError(
                f"a prompt is a text or a conversation, got a list with {_shown(message)} in it; decode token ids, "
                "or give them to dllm_env.policies.rollout.rollout"
            )
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), (str, list, tuple)):
            raise UsageError(f"a message has a role and a content, both texts, got {_shown(dict(message))}")
    return list(given)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _whole(name: str, value: Any) -> int:
    """A whole number of any library.

    Raises:
        UsageError: something else.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, got {_shown(value)}") from None


def _check_policy(policy: Any) -> None:
    if not isinstance(policy, str) and not callable(getattr(policy, "act", None)):
        raise UsageError(
            f"policy must be a text such as 'threshold:0.9' or an object with act, got {_shown(policy)}"
        )


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

    if not callable(model) or not hasattr(model, "parameters"):
        raise UsageError(f"model must be a loaded model or a Denoiser, got {_shown(model)}")
    if tokenizer is None:
        raise UsageError("generate needs the model's tokenizer")
    return HuggingFaceDenoiser(model, tokenizer, options=options or Options())


def _conversation(denoiser: Denoiser, tokenizer: Any, messages: Messages) -> list[int]:
    from dllm_env.denoisers.plain_text import PlainText

    if tokenizer is None:
        raise UsageError("conversations need a tokenizer with a chat template; give texts")
    return PlainText(tokenizer, (denoiser.mask_id, *denoiser.end_ids)).conversation(messages)

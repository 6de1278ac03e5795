"""Any policy inside the samplers that people already use: Fast-dLLM, Dream and dInfer.

Each keeps its own loop and calls the model; it asks here which positions of the active block to unmask, and with
which tokens. ``serving.py`` does the same for serving engines. docs/plugins.md says what was tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.block_decoder import BlockDecoder

# ------------------------------------------------------------------------------------------------ Fast-dLLM


class TransferIndex:
    """A drop-in for Fast-dLLM's ``get_transfer_index`` and ``get_transfer_index_dynamic``; see ``transfer_index``.

    Args:
        decoder: decides; its response length has to be the sampler's ``gen_length``.
        block_length: the sampler's.

    Raises:
        UsageError: the block does not divide the response, or the policy does not fit it.
    """

    def __init__(self, decoder: BlockDecoder, block_length: int) -> None:
        _check_block(decoder, block_length)
        self.decoder, self.block_length = decoder, block_length

    def reset(self, seeds: Sequence[int] = ()) -> None:
        """Begins a new generation; needed only to give seeds, as a response that is all masks begins one, too."""
        self.decoder.reset(seeds=seeds)

    def __call__(
        self,
        logits: Tensor,
        temperature: float,
        remasking: str,
        mask_index: Tensor,
        x: Tensor,
        num_transfer_tokens: Tensor | None,
        threshold: float | None = None,
        factor: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chooses one step.

        Args:
            logits: (B, S, V) of the whole sequence, of what follows a cached prefix, or of the block alone.
            temperature: of the tokens.
            remasking, threshold, factor: of the rule that this takes the place of; not used.
            mask_index: (B, S) bool, masks of the active block.
            x: (B, S) int64, tokens.
            num_transfer_tokens: (B,) tokens that the sampler's schedule has for this step, if it has one.

        Returns:
            x0, the predicted tokens in the place of the masks, and transfer_index, where to write; (B, S) each.

        Raises:
            UsageError: masks outside the block, tensors that do not fit, a response of another length, or a
                schedule of the sampler that may end too early for the policy.
        """
        if not isinstance(x, Tensor) or not isinstance(mask_index, Tensor) or x.shape != mask_index.shape:
            raise UsageError(
                "Fast-dLLM has to give x, the tokens, and mask_index, tensors of the same shape (B, S)"
            )
        self._check_schedule(num_transfer_tokens, threshold, factor)
        self._check_length(x)
        length = self.decoder.response_length
        if x.shape[1] >= length and self.decoder.started and bool((x[:, -length:] == self.decoder.mask_id).all()):
            self.decoder.reset()
        choice = self.decoder.in_sequences(logits, mask_index, self.block_length, temperature)
        return torch.where(mask_index, choice.token.to(x.dtype), x), choice.unmask

    def _check_schedule(self, planned: Tensor | None, threshold: float | None, factor: float | None) -> None:
        """Without a threshold the sampler looks each step up in a schedule, and fails at its end.

        A schedule of at most one token a step is as long as the block, which is enough where each step reveals one.
        """
        if threshold is not None or factor is not None or planned is None:
            return
        if self.decoder.force_progress and int(torch.as_tensor(planned).max()) <= 1:
            return
        raise UsageError(
            "without a threshold Fast-dLLM ends each block after steps / blocks steps, and a policy may need more: "
            "give it any threshold (threshold=0.9; it is not used)"
            + (f", or steps={self.decoder.response_length}" if self.decoder.force_progress else "")
        )

    def _check_length(self, x: Tensor) -> None:
        """A response begins with as many masks as the decoder was told."""
        length, masked = self.decoder.response_length, x == self.decoder.mask_id
        if self.decoder.started or x.shape[1] < length:
            return
        if not bool(masked[:, -length:].all()) or bool(masked[:, :-length].any()):
            raise UsageError(
                f"Fast-dLLM's response has to be {length} masks at the end of x; give gen_length={length}, and "
                f"mask_id={self.decoder.mask_id}"
            )


def transfer_index(
    policy: Policy | str,
    mask_id: int,
    response_length: int,
    block_length: int,
    seed: int = 0,
    force_progress: bool = True,
    end_ids: Sequence[int] = (),
) -> TransferIndex:
    """Fast-dLLM's function that chooses positions, deciding by a policy. In the folder of its ``generate.py``::

        import generate
        from dllm_env.policies.plugins import transfer_index

        generate.get_transfer_index = transfer_index("runs/x", 126336, response_length=256, block_length=32)
        x, nfe = generate.generate_with_dual_cache(
            model, prompt, steps=256, gen_length=256, block_length=32, threshold=0.9
        )

    Give any ``threshold``: it is not used, but without one the sampler looks up how many tokens each step writes in
    a schedule of ``steps``, at the end of which it fails; with fewer steps than ``gen_length`` that is refused. It
    works without a cache and with both caches.
    All rows go through the blocks together, so that ``nfe`` is that of the slowest row in each block.

    Arguments are those of ``BlockDecoder``; ``response_length`` and ``block_length`` have to be the sampler's.
    """
    return TransferIndex(
        BlockDecoder(policy, mask_id, response_length, seed, force_progress, end_ids), block_length
    )


# ---------------------------------------------------------------------------------------------------- Dream


DREAM_CODE = (
    "Dream's own code does not run on transformers 5: install transformers 4.46.2 in an environment of its own, "
    "beside dllm-env without its extra hf; or run Dream by dllm_env.generate or dllm-env eval --denoiser, which "
    "need none of that code"
)


class _Generates(Protocol):
    """Dream's model."""

    def diffusion_generate(self, inputs: Tensor, **settings: Any) -> Any: ...


class _Finished(Exception):
    """Nothing is masked any more."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


class DreamHooks:
    """The two hooks of Dream's ``diffusion_generate``, which make a policy's choice come out of it::

        hooks = DreamHooks(BlockDecoder("runs/x", mask_id=151666, response_length=256), block_length=32)
        tokens = hooks.generate(model, input_ids, attention_mask=attention_mask)

    Dream's sampler asks for no set: after the logits hook it writes tokens by its own rule, then calls the tokens
    hook. So the logits hook takes the decision, from the sequence as it was before, and works out how the sequence
    has to look afterwards; the tokens hook overwrites what the sampler left with that: prompt and earlier tokens as
    they were, the policy's choice, masks in all other places. ``alg``, ``temperature`` and so on have no effect.

    Dream's loop takes all of its ``steps``, each with a model call, even when nothing is masked any more. A hook
    cannot end a loop but by an exception, which is what ``generate`` does. With ``diffusion_generate`` itself, give
    both hooks, ``max_new_tokens=response_length``, and as many ``steps``; the text is the same.

    Args:
        decoder: decides; its response length has to be ``max_new_tokens``.
        block_length: generate in blocks of so many, semi-autoregressively; 0 takes the whole response as one block.
        temperature: of the tokens.

    Raises:
        UsageError: the block does not divide the response, or the policy does not fit it.
    """

    def __init__(self, decoder: BlockDecoder, block_length: int = 0, temperature: float = 0.0) -> None:
        check_decoder(decoder)
        self.block_length = block_length or decoder.response_length
        _check_block(decoder, self.block_length)
        self.decoder, self.temperature = decoder, temperature
        self._after: Tensor | None = None
        self._ends_loop = False

    def generate(self, model: _Generates, inputs: Tensor, **settings: Any) -> Tensor:
        """(B, P) prompts to (B, P+L) tokens, with no model call more than the slowest row needs.

        Args:
            model: with ``diffusion_generate``.
            inputs: prompts, padded on the left.
            settings: more arguments of ``diffusion_generate``, like ``attention_mask``.

        Raises:
            UsageError: a model without ``diffusion_generate``, Dream's code on a transformers that it does not run
                on, another response length, or fewer ``steps`` than the policy needed.
        """
        if not callable(getattr(model, "diffusion_generate", None)):
            raise UsageError(
                f"{type(model).__name__} has no diffusion_generate, which Dream's own code has. {DREAM_CODE}"
            )
        length = self.decoder.response_length
        hooks = {"generation_logits_hook_func": self.logits, "generation_tokens_hook_func": self.tokens}
        self._ends_loop = True
        try:
            out = model.diffusion_generate(
                inputs, **{"max_new_tokens": length, "steps": length, **settings, **hooks}
            )
        except _Finished as finished:
            return finished.tokens
        except (AttributeError, ImportError, KeyError, TypeError) as error:
            if (
                "dream" not in f"{type(model).__module__}.{type(model).__name__}".lower()
                or not _on_transformers_5()
            ):
                raise
            raise UsageError(f"Dream failed ({type(error).__name__}: {error}). {DREAM_CODE}") from error
        finally:
            self._ends_loop = False
        tokens: Tensor = getattr(out, "sequences", out)
        left = int((tokens == self.decoder.mask_id).sum())
        if left:
            raise UsageError(
                f"Dream's loop ended after its steps with {left} masks left; leave steps out, or give {length}"
            )
        return tokens

    def logits(self, step: int | None, x: Tensor, logits: Tensor) -> Tensor:
        """``generation_logits_hook_func``: decides; returns the logits (B, S, V) as they are."""
        if not isinstance(logits, Tensor):
            raise UsageError("Dream has to give its logits to generation_logits_hook_func")
        if self._after is not None:
            raise UsageError("give diffusion_generate both hooks: generation_tokens_hook_func is missing")
        masked = x == self.decoder.mask_id
        block = (x.shape[1] - torch.arange(x.shape[1], device=x.device) - 1) // self.block_length
        active = block.masked_fill(~masked, -1).amax(-1, keepdim=True)  # blocks are counted from the end
        choice = self.decoder.in_sequences(logits, masked & (block == active), self.block_length, self.temperature)
        self._after = torch.where(choice.unmask, choice.token.to(x.dtype), x)
        return logits

    def tokens(self, step: int | None, x: Tensor, logits: Tensor | None) -> Tensor:
        """``generation_tokens_hook_func``: writes the decision into x (B, S) in place, and returns x."""
        if step is None:
            self._begin(x)
            return x
        if self._after is None:
            raise UsageError("give diffusion_generate both hooks: generation_logits_hook_func is missing")
        x.copy_(self._after)
        self._after = None
        if self._ends_loop and not bool((x == self.decoder.mask_id).any()):
            raise _Finished(x)
        return x

    def _begin(self, x: Tensor) -> None:
        """A new generation."""
        length, masked = self.decoder.response_length, x == self.decoder.mask_id
        if not bool(masked[:, -length:].all()) or bool(masked[:, :-length].any()):
            raise UsageError(f"Dream's response has to be {length} masks at the end; give max_new_tokens={length}")
        self._after = None
        if self.decoder.started:
            self.decoder.reset()


def _on_transformers_5() -> bool:
    try:
        return int(version("transformers").partition(".")[0]) >= 5
    except PackageNotFoundError:
        return False


# --------------------------------------------------------------------------------------------------- dInfer


class PolicyDecoder:
    """A decoder for dInfer, in the place of its ``ThresholdParallelDecoder``::

        decoder = PolicyDecoder(BlockDecoder("runs/x", mask_id=126336, response_length=256), eos_id=126081)
        dllm = BlockWiseDiffusionLLM(
            model, decoder, BlockIteratorFactory(), cache_factory=None, maximum_unroll=1, early_stop=True
        )
        tokens = dllm.generate(prompt, gen_length=256, block_length=32)

    With ``maximum_unroll`` above 1 dInfer calls the model that often before it looks whether a block is finished;
    the text is the same, the calls are more.

    Args:
        decoder: decides; its response length has to be ``gen_length``.
        eos_id: the end-of-text token, which dInfer's runners ask their decoder for.
        temperature: of the tokens.
    """

    threshold = 0.0
    """Some of dInfer's runners make a threshold of each step from it; ``decode`` does not use one."""

    def __init__(self, decoder: BlockDecoder, eos_id: int, temperature: float = 0.0) -> None:
        check_decoder(decoder)
        self.decoder, self.mask_id, self.eos_id = decoder, decoder.mask_id, eos_id
        self.temperature = temperature

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Called at the beginning of each block (B, W); block 0 begins a new generation."""
        if block_id == 0 and self.decoder.started:
            self.decoder.reset()

    def decode(
        self, logits: Tensor, block_start: int, block_end: int, x: Any, iter_threshold: float | None = None
    ) -> None:
        """Writes the chosen tokens into x in place.

        Args:
            logits: (B, W, V) of the block.
            block_start, block_end: where the block is in x.
            x: (B, S) tokens: a tensor, or an object with slices like dInfer's ``TokenArray``.
            iter_threshold: not used.

        Raises:
            UsageError: logits that do not fit the block.
        """
        block = x[:, block_start:block_end]
        if not isinstance(logits, Tensor) or logits.shape[:-1] != block.shape:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else "nothing"
            raise UsageError(f"dInfer has to give the logits of the block, {(*block.shape, 'V')}, got {shape}")
        choice = self.decoder(logits, block == self.mask_id, temperature=self.temperature)
        x[:, block_start:block_end] = torch.where(choice.unmask, choice.token.to(block.dtype), block)

    def batch_decode(self, *_: Any, **__: Any) -> None:
        """Called by runners with the blocks of several requests at different places, which are not served.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this runner of dInfer decodes blocks at different places together (batch_decode), which is not "
            "served; take BlockWiseDiffusionLLM"
        )


def check_decoder(decoder: BlockDecoder) -> None:
    """Whether this is what an adapter asks for.

    Raises:
        UsageError: something else, as a policy's name.
    """
    if not isinstance(decoder, BlockDecoder):
        raise UsageError(f"give a BlockDecoder(policy, mask_id, response_length), got {decoder!r}")


def _check_block(decoder: BlockDecoder, block_length: int) -> None:
    check_decoder(decoder)
    length = decoder.response_length
    if not isinstance(block_length, int) or block_length < 1 or length % block_length:
        raise UsageError(f"block length {block_length} does not divide the response length {length}")
    decoder.check_width(block_length)

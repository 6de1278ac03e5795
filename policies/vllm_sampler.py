"""Any policy inside newer versions of vLLM's dLLM plugin, whose sampler decides for all requests at once.

The plugin does not have to be installed for this file; docs/plugins.md says what was tested.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.plugins import check_decoder


class BatchedRemask:
    """In the place of the plugin's ``batched_remask``, which its ``DiffusionSampler`` calls for all requests::

        from dllm_env.policies.vllm_sampler import BatchedRemask

        remask = BatchedRemask(BlockDecoder("runs/x", mask_id=156895, response_length=256))
        remask.install()  # in the worker's process, before the engine starts

    The function is not told which requests the blocks are from. ``install`` sees to it that it is, so that a
    request's steps go on over its blocks. Without names, a block is known by what it was left with, and each block
    counts as a response of its own.

    Args:
        decoder: decides.
        temperature: of the tokens, where the plugin gives none.
    """

    def __init__(self, decoder: BlockDecoder, temperature: float = 0.0) -> None:
        check_decoder(decoder)
        self.decoder, self.temperature = decoder, temperature
        self._requests: list[Hashable] | None = None
        self._due: dict[Hashable, tuple[int, ...]] = {}
        self._nameless = itertools.count()

    def requests(self, names: Sequence[Hashable]) -> None:
        """Says which requests the rows of the next call belong to, in order."""
        self._requests = list(names)

    def __call__(
        self,
        logits: Tensor,
        input_draft: Tensor,
        mask_token_id: int,
        threshold: float = 0.0,
        temperature: float = 0.0,
        use_float64: bool = False,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of B blocks.

        Args:
            logits: (B, W, V).
            input_draft: (B, W) integer, the blocks that the model has read; left as they are.
            mask_token_id: has to be the decoder's.
            threshold: of the rule that this takes the place of; not used.
            temperature: of the tokens, if above 0.
            use_float64: not used; tokens are drawn in float64 in any case.
            out: where to write the blocks, if given.

        Returns:
            The blocks as they are now, (B, W); which of them have no mask, (B,) bool; and how many tokens were
            written into each, (B,) int64.

        Raises:
            UsageError: another mask token, or tensors that do not fit.
        """
        names, self._requests = self._requests, None
        if mask_token_id != self.decoder.mask_id:
            raise UsageError(f"the plugin's mask token is {mask_token_id}, the decoder's {self.decoder.mask_id}")
        if not isinstance(input_draft, Tensor) or input_draft.ndim != 2:
            raise UsageError("input_draft, the blocks, must be a tensor (B, W)")
        if names is not None and len(names) != len(input_draft):
            raise UsageError(f"{len(input_draft)} blocks need as many requests, got {len(names)}")
        masked = input_draft == mask_token_id
        rows = self._follow(input_draft) if names is None else names
        choice = self.decoder(logits, masked, rows, temperature if temperature > 0 else self.temperature)
        draft = torch.where(choice.unmask, choice.token.to(input_draft.dtype), input_draft)
        if names is None:
            self._remember(rows, draft)
        if out is not None:
            draft = out.copy_(draft)
        return draft, (draft != mask_token_id).all(-1), choice.unmask.sum(-1)

    def install(self) -> None:
        """Makes the plugin's sampler call this, in this process.

        Raises:
            UsageError: no plugin with a ``DiffusionSampler`` is installed.
        """
        try:
            module: Any = importlib.import_module("dllm_plugin.sampling.diffusion_sampler")
            sampler, plain = module.DiffusionSampler, module.DiffusionSampler.__call__
        except (ImportError, AttributeError):
            raise UsageError(
                "vLLM's dllm-plugin with a DiffusionSampler is not installed; older versions take PolicyRemasking"
            ) from None

        def call(this: Any, logits: Tensor, input_batch: Any) -> Any:
            ends = [int(end) for end in input_batch.cu_num_logits_np]
            counts = [last - first for first, last in itertools.pairwise(ends)]
            names = zip(input_batch.req_ids, counts, strict=False)
            self.requests([name for name, count in names if count == this._draft_size])  # the others are prompts
            this._remask_fn = self
            try:
                return plain(this, logits, input_batch)
            finally:
                self._requests = None

        sampler.__call__ = call
        module.batched_remask = self

    def _follow(self, draft: Tensor) -> list[Hashable]:
        """Names for the rows: that of the block which was left like this, else a new one."""
        known: dict[tuple[int, ...], list[Hashable]] = {}
        for name, block in self._due.items():
            known.setdefault(block, []).append(name)
        names: list[Hashable] = []
        for block in map(tuple, draft.tolist()):
            waiting = known.get(block)
            names.append(waiting.pop(0) if waiting else f"block {next(self._nameless)}")
        return names

    def _remember(self, names: list[Hashable], draft: Tensor) -> None:
        """What the blocks were left with; finished ones are not waited for."""
        for name, block in zip(names, draft.tolist(), strict=True):
            self._due.pop(name, None)
            if self.decoder.mask_id in block:
                self._due[name] = tuple(block)
        for name in list(self._due)[: max(len(self._due) - self.decoder.remember, 0)]:
            del self._due[name]

"""Where the active blocks of rows are, and what of the response a context shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_env.numerics import constant


@dataclass(frozen=True)
class Block:
    """Where the active blocks of B rows are.

    Attributes:
        start: (B,) int64, their first positions; below 0 where that is in the prompt.
        inside: bool, which of L positions are in them; (B, L), or () where the block is all of the response.
        selectable: (B, L) bool, open masks in them.
        shown: (B, 1) rows and (B, W) positions that the context shows; None for all.
    """

    start: Tensor
    inside: Tensor
    selectable: Tensor
    shown: tuple[Tensor, Tensor] | None = None

    def window(self, values: Tensor) -> Tensor:
        """(B, L, …) to (B, W, …): the part that the context shows."""
        if self.shown is None:
            return values
        return values.gather(1, self.shown[1]) if values.ndim == 2 else values[self.shown]

    def spread(self, values: Tensor, length: int) -> Tensor:
        """(B, W) to (B, L), zeros outside of what the context shows."""
        if self.shown is None:
            return values
        return values.new_zeros(len(values), length).scatter(1, self.shown[1], values)


@dataclass(frozen=True)
class Found:
    """Active blocks, and what they were found from.

    Attributes:
        block: the blocks.
        tensors: those that they follow from, and that of the blocks which observations show.
        versions: of these tensors, which go up when one is written to.
    """

    block: Block
    tensors: tuple[Tensor | None, ...]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, block: Block, follows_from: tuple[Tensor | None, ...]) -> Found:
        """Blocks that were found just now."""
        tensors = (*follows_from, block.selectable)
        return cls(block, tensors, _versions(tensors))

    def is_of(self, follows_from: tuple[Tensor | None, ...]) -> bool:
        """Whether they follow from these tensors, and none was written to."""
        same = all(mine is given for mine, given in zip(self.tensors, follows_from, strict=False))
        return same and _versions(self.tensors) == self.versions


def _versions(tensors: Iterable[Tensor | None]) -> tuple[int, ...]:
    return tuple(0 if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors)


@constant
def everywhere(device: torch.device) -> Tensor:
    """() bool, true: a block that is all of the response."""
    return torch.ones((), dtype=torch.bool, device=device)


@constant
def block_starts(length: int, size: int, device: torch.device) -> Tensor:
    """(length,) int64, of each position the first of its block."""
    position = torch.arange(length, device=device)
    return position - position % size

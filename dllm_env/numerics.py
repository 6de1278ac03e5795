"""Numbers that come out the same: products whose rows do not depend on each other, and digests of weights.

A matrix library picks another kernel for few rows, which adds up in another order: the same row alone and in a
batch would differ in the last bit, and a sampled or thresholded decision can turn on that bit. From a dozen rows
on, the kernels agree row by row, so products of fewer rows are filled up with zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

STEADY_ROWS = 16
"""From this many rows on, a row of a product does not depend on its neighbours (measured: 12, MKL, 1–8 threads)."""


def fill_rows(x: Tensor) -> Tensor:
    """(n, d) to (max(n, STEADY_ROWS), d): zero rows follow where n is small."""
    return F.pad(x, (0, 0, 0, max(0, STEADY_ROWS - len(x))))


def steady_batch(length: int) -> int:
    """How many sequences of this length have at least ``STEADY_ROWS`` positions."""
    return -(-STEADY_ROWS // length)


def digest(weights: Mapping[str, Tensor], about: str = "") -> str:
    """Eight letters that stand for these weights and what is said about them."""
    total = hashlib.blake2b(about.encode(), digest_size=4)
    for name, value in sorted(weights.items()):
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def lowest_argmax(logits: Tensor) -> Tensor:
    """(n,) int64: in each row of (n, V) the lowest index among those of the largest value, on any device.

    ``topk`` keeps no order among equal values, and ``argmax`` promises none.
    """
    size = logits.shape[-1]
    index = torch.arange(size, dtype=torch.int32, device=logits.device)
    return torch.where(logits < logits.amax(-1, keepdim=True), size, index).amin(-1).long()


def rotation_angles(
    length: int, dimension: int, device: torch.device, base: float = 10_000.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of RoPE, (length, dimension/2) each (arXiv 2104.09864)."""
    frequency = base ** (-torch.arange(0, dimension, 2, device=device) / dimension)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates (…, n, dimension), the last n positions, by position, halves paired."""
    cosine, sine = (angles[-x.shape[-2] :] for angles in rotation)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)

"""Random numbers with one independent stream per row.

A batch draws from all of its rows at once, yet the numbers that a row receives depend on nothing but the row's
own key and how many it has drawn. Rows can therefore be selected, moved, or replaced by plain indexing, on any
device, and a row gets the same numbers whatever its neighbours do.

The generator is SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014)
used in counter mode: number n of a row is ``mix(key + n * GOLDEN)``.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from dllm_env.numerics import counted

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 (torch shifts arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _uniform(keys: Tensor, counters: Tensor, count: int) -> Tensor:
    """(n, count) float64 on (0, 1): of the streams (n,) with these keys the numbers behind these (n,)."""
    number = counters[:, None] + counted(count + 1, keys.device)[1:]
    bits = _mix(keys[:, None] + number * _GOLDEN)
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def derive_key(*parts: object) -> int:
    """A 64-bit key from any values with a stable text form; equal parts give equal keys on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def torch_generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by ``derive_key(*parts)``."""
    generator = torch.Generator()
    generator.manual_seed(derive_key(*parts))
    return generator


class RowRandom:
    """One random stream per row.

    Args:
        keys: (B,) int64, the rows' keys.
        counters: (B,) int64, how many numbers each row has drawn; zeros when omitted.
    """

    def __init__(self, keys: Tensor, counters: Tensor | None = None) -> None:
        if keys.ndim != 1 or keys.dtype != torch.int64:
            raise ValueError(f"keys must be (B,) int64, got {tuple(keys.shape)} {keys.dtype}")
        self.keys = keys
        self.counters = torch.zeros_like(keys) if counters is None else counters

    @classmethod
    def from_seeds(cls, seeds: list[int], purpose: str, device: torch.device | str = "cpu") -> RowRandom:
        """Streams for rows with these seeds; different purposes give independent streams."""
        keys = [derive_key(seed, purpose) for seed in seeds]
        return cls(torch.tensor(keys, dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Tensor) -> RowRandom:
        """The streams of the chosen rows, as a copy."""
        return RowRandom(self.keys[rows], self.counters[rows])

    def write(self, rows: Tensor, other: RowRandom) -> None:
        """Puts the streams of ``other`` in the places ``rows``."""
        self.keys[rows] = other.keys
        self.counters[rows] = other.counters

    def rand(self, count: int) -> Tensor:
        """(B, count) float64, uniform on the open interval (0, 1); each row's stream moves on by ``count``."""
        uniform = _uniform(self.keys, self.counters, count)
        self.skip(count)
        return uniform

    def peek(self, rows: Tensor, first: Tensor, count: int) -> Tensor:
        """(n, count): of each of these rows (n,) the numbers from ``first`` (n,) on; no stream moves on.

        So a part of the numbers that belong to a row can be made without the others.
        """
        return _uniform(self.keys[rows], self.counters[rows] + first, count)

    def skip(self, count: int) -> None:
        """Moves each row's stream on by ``count`` numbers."""
        self.counters = self.counters + count

    def gumbel(self, count: int) -> Tensor:
        """(B, count) float64 standard Gumbel noise; each row's stream moves on by ``count``."""
        return to_gumbel(self.rand(count))


def to_gumbel(uniform: Tensor, dtype: str = "float64") -> Tensor:
    """Standard Gumbel noise, −log(−log U), in float64 or float32, from float64 uniform numbers.

    In float32 U has 24 bits, as in common implementations: no noise is above 16.7, so that unlikely outcomes are
    drawn too rarely (arXiv 2409.02908).
    """
    if dtype == "float32":
        uniform = ((uniform * 2.0**24).floor() * 2.0**-24).float()
    return -torch.log(-torch.log(uniform))

"""Matrix products whose rows do not depend on how many rows there are.

A matrix library picks another kernel for few rows, which adds up in another order: the same row alone and in a
batch would differ in the last bit, and a sampled or thresholded decision can turn on that bit. From a dozen rows
on, the kernels agree row by row, so products of fewer rows are filled up with zeros.
"""

from __future__ import annotations

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

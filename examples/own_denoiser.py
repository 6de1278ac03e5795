"""A denoiser of your own: the bundled one, surer or less sure of itself.

dllm-env eval --denoiser 'examples/own_denoiser.py:Sharpened(factor=2)' --policies threshold:0.9
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dllm_env import Denoiser, load_denoiser


class Sharpened(Denoiser):
    """Multiplies the logits. Five methods and these attributes are all that a denoiser needs."""

    def __init__(self, factor: float = 1.0, base: str = "tiny") -> None:
        self.base, self.factor = load_denoiser(base), factor
        self.mask_id, self.eot_id, self.pad_id = self.base.mask_id, self.base.eot_id, self.base.pad_id
        self.vocabulary, self.hidden_size = self.base.vocabulary, self.base.hidden_size
        self.max_length, self.device = self.base.max_length, self.base.device

    def features(self, tokens: Tensor, last: int) -> Tensor:
        return self.base.features(tokens, last)

    def head(self, hidden: Tensor) -> Tensor:
        return self.base.head(hidden) * self.factor

    def encode(self, text: str) -> list[int]:
        return self.base.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.base.decode(ids)

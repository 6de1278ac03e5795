"""What a model of transformers attends to, seen while it runs.

Its attention function is replaced by one that computes the same, by transformers' own code, and besides adds up the
weights of the last layers at the last positions. Weights of other layers are never made, and of these only those of
one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from dllm_env.denoisers.base import attending

NAME = "dllm_env_seen"
"""Of the attention function, in transformers' register."""


class Seen:
    """Sums over layers.

    Attributes:
        last: n, the last so many positions are looked at.
        first_layer: those before it are passed over.
        layers: how many were added.
        total: (B, n, n) float32, the mean over the heads, added up.
    """

    def __init__(self, last: int, first_layer: int) -> None:
        self.last, self.first_layer, self.layers, self.total = last, first_layer, 0, torch.zeros(())

    def add(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """Adds a layer.

        Args:
            query, key: (B, heads, S, size); there may be fewer heads of keys.
            mask: (B, 1, 1 or S, S), true or 0 where a key is seen, false or a large negative number elsewhere.
            scaling: of the products; by default 1/√size.
        """
        query, keys = query[:, :, -self.last :].float(), key.float()
        keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
        scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if mask is not None:
            mask = mask[..., -self.last :, : keys.shape[-2]]
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = scores.softmax(-1)[..., -self.last :].mean(1)
        self.total = self.total.to(weights.device) + weights
        self.layers += 1


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    seen = _SEEN.get()
    if seen is not None and getattr(module, "layer_idx", seen.first_layer) >= seen.first_layer:
        seen.add(query, key, attention_mask, settings.get("scaling"))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


@contextmanager
def seeing(base: Any, last: int) -> Iterator[Seen]:
    """As long as this lasts, what the last positions of a base model of transformers attend to is added up."""
    config, layers = base.config, int(base.config.num_hidden_layers)
    seen, before = Seen(last, layers - attending(layers)), config._attn_implementation
    token = _SEEN.set(seen)
    config._attn_implementation = NAME
    try:
        yield seen
    finally:
        config._attn_implementation = before
        _SEEN.reset(token)

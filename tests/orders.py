"""The likelihood of a text under a masked diffusion language model, by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from dllm_env.denoisers.base import Denoiser, Extras


def by_orders(denoiser: Denoiser, context: Sequence[int], continuation: Sequence[int]) -> float:
    """Mean over all orders of the log-probability of writing the continuation in that order, token by token."""
    length, values = len(continuation), []
    for order in itertools.permutations(range(length)):
        shown, value = [denoiser.mask_id] * length, 0.0
        for i in order:
            needed = torch.tensor([[j == i for j in range(length)]])
            tokens = torch.tensor([[*context, *shown]])
            prediction = denoiser.predict(tokens, needed, extras=Extras(log_probability=True))
            value += float(prediction.log_probability[0, i, continuation[i]])
            shown[i] = continuation[i]
        values.append(value)
    return sum(values) / len(values)

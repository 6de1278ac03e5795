"""The networks that give each position a score.

``ConfidenceTransformer`` is one transformer block in DiT style (arXiv 2512.09106): it reads nothing but confidence,
mask and step, so one policy fits any denoiser and any response length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.numerics import fill_rows, steady_batch
from dllm_env.tiny import rotate, rotation_angles

ROTATION_BASE = 100.0
"""Base of RoPE, for waves of 6 to some 500 positions; with the usual 10,000 most are longer than a response."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the policy network."""

    width: int = 128
    """Model width d; 128 gives about 0.3M parameters."""
    heads: int = 2
    """Attention heads; d / heads has to be even."""
    top: int = 1
    """p, how many of a position's largest probabilities are read."""
    bias: float = -2.0
    """Bias of the output, the score that all positions start with; sigmoid(−2) is about 12%."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads or self.width // self.heads % 2:
            raise UsageError(f"policy width {self.width} has to be an even multiple of its heads ({self.heads})")
        if self.top < 1:
            raise UsageError(f"top must be at least 1, got {self.top}")


def sinusoidal(progress: Tensor, dimension: int) -> Tensor:
    """(B,) progress in [0, 1] to (B, dimension) sines and cosines with periods from about 0.006 to 63 responses.

    Progress is stretched to 0 … 1000 and the periods go from 2π to 20,000π, so that steps of a long response
    differ as clearly as those of a short one.
    """
    half = dimension // 2
    frequency = 10_000 ** (-torch.arange(half, device=progress.device) / half)
    angle = 1000.0 * progress[:, None].float() * frequency
    return torch.cat((angle.sin(), angle.cos()), -1)


class SteadySiLU(nn.Module):
    """x · sigmoid(x), the same to the last bit wherever in a tensor a number stands.

    torch's own silu and sigmoid treat the numbers left over behind the last full vector in another way, and what is
    left over depends on the batch size and the number of threads. tanh does not have this.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.5 + 0.5 * torch.tanh(0.5 * x))


class ConfidenceTransformer(nn.Module):
    """One AdaLN-modulated transformer block over positions; output one score per position.

    The conditioning of a position is the sum of an embedding of its mask bit and an MLP of the row's progress. It
    gives scale, shift and gate of attention and feed-forward, zero-initialised, so that the block begins with
    plain normalisation and closed gates (the score then depends on the position's own confidence only).

    Args:
        config: shape.
        generator: draws the weights.
    """

    def __init__(self, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        d = config.width
        self.config = config
        self.confidence = nn.Linear(config.top, d)
        self.mask = nn.Embedding(2, d)
        self.progress = nn.Sequential(nn.Linear(d, d), SteadySiLU(), nn.Linear(d, d))
        self.activation = SteadySiLU()
        self.modulation = nn.Linear(d, 6 * d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.norm = nn.LayerNorm(d)
        self.score = nn.Linear(d, 1)
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                module.bias.zero_()
        # Without this bias the layer norm after it would cancel a single confidence altogether.
        self.confidence.bias.normal_(0.0, 1.0, generator=generator)
        self.mask.weight.normal_(0.0, 1.0, generator=generator)
        # Constant parts of query and key, which RoPE turns into attention by distance: near and far, left and right
        # differ from the first update on. Without them some seeds take long to find out that order matters.
        self.query_key_value.bias[: 2 * self.config.width].normal_(0.0, 0.5, generator=generator)
        self.modulation.weight.zero_()
        self.score.weight.mul_(0.1)
        self.score.bias.fill_(self.config.bias)

    def forward(self, observation: Observation) -> Tensor:
        """(B, W) float32 scores."""
        config, (batch, width) = self.config, observation.masked.shape
        if batch < steady_batch(width):
            repeated = torch.arange(steady_batch(width), device=observation.masked.device) % batch
            return self(observation[repeated])[:batch]
        x = self.confidence(observation.confidence)
        progress = self.progress(fill_rows(sinusoidal(observation.progress, config.width)))[:batch]
        # A row has two conditions only, one for masked positions and one for the others.
        conditions = self.activation(self.mask.weight + progress[:, None]).flatten(0, 1)
        modulation = self.modulation(fill_rows(conditions))[: 2 * batch].view(batch, 2, 1, 6 * config.width)
        modulation = torch.where(observation.masked[..., None], modulation[:, 1], modulation[:, 0])
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = modulation.chunk(6, -1)

        h = F.layer_norm(x, (config.width,)) * (1 + scale_1) + shift_1
        qkv = self.query_key_value(h).view(batch, width, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        rotation = rotation_angles(width, config.width // config.heads, x.device, base=ROTATION_BASE)
        mixed = F.scaled_dot_product_attention(rotate(query, rotation), rotate(key, rotation), value)
        x = x + gate_1 * self.attention_out(mixed.transpose(1, 2).reshape(batch, width, config.width))
        h = F.layer_norm(x, (config.width,)) * (1 + scale_2) + shift_2
        x = x + gate_2 * self.feed_forward(h)
        # A product with one column is the one whose rows always depend on their number; a sum's never do.
        return (self.norm(x) * self.score.weight[0]).sum(-1) + self.score.bias

"""A network of your own: what the shipped one reads, and each position's entropy.

dllm-env train grpo --network examples/own_network.py:WithEntropy --out runs/entropy
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_env import Extras
from dllm_env.dynamics import Observation
from dllm_env.policies.networks import NetworkConfig, PolicyNetwork


class WithEntropy(PolicyNetwork):
    """One transformer block; what goes into it is said here."""

    kinds = 2
    extras = Extras(entropy=True)

    def __init__(self, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__(config, config.top + 1, generator)

    def embed(self, observation: Observation) -> Tensor:
        assert observation.entropy is not None
        return torch.cat((observation.confidence, observation.entropy[..., None]), -1)

    def kind(self, observation: Observation) -> Tensor:
        return observation.masked.long()

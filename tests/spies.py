"""Policies and logits for tests of what decides for other loops."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.policies.base import Decision
from dllm_env.policies.heads import DynamicPlackettLuce, Head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.random import RowRandom, torch_generator


def learned(
    head: Head | None = None, greedy: bool = True, top: int = 1, sight: tuple[str, ...] = ()
) -> LearnedPolicy:
    """A network of random weights that sees the block, its gates open, so that all it reads has a say."""
    network = ConfidenceTransformer(
        NetworkConfig(width=32, bias=4.0, top=top, sight=sight), torch_generator("policy")
    )
    with torch.no_grad():
        network.modulation.weight.normal_(0.0, 0.1, generator=torch_generator("gates"))
        network.score.weight.normal_(0.0, 0.5, generator=torch_generator("score"))
    return LearnedPolicy(network, head or DynamicPlackettLuce(), "block", greedy=greedy)


class Spy:
    """Writes down what it is shown; unmasks the first ``count`` masks and remembers how often it was asked."""

    name, context, top, extras = "spy", "block", 2, Extras(entropy=True, margin=True, log_probability=True)

    def __init__(self, count: int = 1) -> None:
        self.count, self.seen = count, list[Observation]()

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        self.seen.append(observation)
        asked = observation.memory.get("asked", torch.zeros_like(observation.step)) + 1
        first = observation.selectable & (observation.selectable.cumsum(-1) <= self.count)
        return Decision(first | ~observation.selectable, memory={"asked": asked})


def logits(rows: int = 3, width: int = 5, vocabulary: int = 7, name: str = "logits") -> Tensor:
    """(rows, width, vocabulary), other ones for another name."""
    return 3 * torch.randn(rows, width, vocabulary, generator=torch_generator(name))


class Never:
    """Unmasks nothing."""

    name, context, top, extras = "never", "block", 1, Extras()

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        return Decision(torch.zeros_like(observation.selectable))

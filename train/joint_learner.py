"""The weights of policy and denoiser that learn together: all of the denoiser's or adapters, whole or in shares."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dllm_env.denoisers.adapters import MOST, add_adapter
from dllm_env.errors import UsageError
from dllm_env.random import torch_generator
from dllm_env.specs import check_types
from dllm_env.train.callbacks import Learner
from dllm_env.train.config import RATE, above_zero, at_least
from dllm_env.train.setup import Setup
from dllm_env.train.sharded import Kept, Sharded, shares_of
from dllm_env.world import World

Trained = Literal["none", "lora", "full"]
"""What of a denoiser learns."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class JointConfig:
    """How the denoiser learns."""

    train_denoiser: Trained = "lora"
    """What of it: nothing, low-rank adapters (by peft), or all weights."""
    denoiser_learning_rate: float = 1e-4
    """Its peak learning rate; warm-up and decay are those of the policy."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: float = 32.0
    """Adapters are multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers that get one, by the last part of their names; without any, all of the blocks."""
    kl_weight: float = 0.0
    """Weight of the divergence of its tokens from the denoiser at the start, in nats a step."""
    activation_checkpointing: bool = False
    """Keep the inputs of its blocks only, and compute the rest again for the gradient."""
    fsdp: bool = False
    """Divide its gradients and the optimizer's state among the processes (FSDP2), so that none has them all."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.train_denoiser not in get_args(Trained):
            raise UsageError(
                f"train_denoiser is one of {', '.join(get_args(Trained))}, got {self.train_denoiser!r}"
            )
        above_zero(self, "denoiser_learning_rate", "lora_alpha", most=RATE)
        at_least(1, self, "lora_rank", most=MOST)
        at_least(0, self, "kl_weight", most=RATE)
        if self.fsdp and self.train_denoiser != "full":
            raise UsageError(
                f"fsdp divides all weights of a denoiser, and {self.train_denoiser} trains few or none of them; "
                "give --train-denoiser full, or leave fsdp away"
            )


class JointLearner(Learner):
    """The policy's weights and the denoiser's, each with an optimizer.

    Args:
        plain: of the policy alone.
        setup: whose denoiser is to learn.
        joint: how.
        betas: of AdamW.
        seed: of fresh adapters.

    Attributes:
        denoiser: what learns; where it is divided among processes, another one than plays.
        trained: its parameters that learn, by name.
        denoiser_optimizer: of these.
        reference: the denoiser at the start, where its divergence is counted.
        sharded: how the denoiser is divided; None where each process has it as a whole.
    """

    def __init__(
        self, plain: Learner, setup: Setup, joint: JointConfig, betas: tuple[float, float], seed: int
    ) -> None:
        super().__init__(plain.policy, plain.average, plain.optimizer)
        self.denoiser = setup.denoiser
        self.reference = copy.deepcopy(setup.denoiser) if joint.kl_weight else None
        self.sharded: Sharded | None = None
        self._kept: Kept | None = None
        if joint.train_denoiser == "lora":
            generator = torch_generator("adapter", seed)
            add_adapter(self.denoiser, joint.lora_rank, joint.lora_alpha, joint.lora_targets, generator)
        elif joint.fsdp and setup.world.size > 1:
            self._divide(setup)
        else:
            self.denoiser.module.requires_grad_(True)
        named = self.denoiser.module.named_parameters()
        learning = {name: weight for name, weight in named if weight.requires_grad}
        self.trained = nn.ParameterDict({name.replace(".", "/"): weight for name, weight in learning.items()})
        self.denoiser_optimizer = torch.optim.AdamW(
            learning.values(), lr=joint.denoiser_learning_rate, betas=betas, weight_decay=0.0
        )

    def _divide(self, setup: Setup) -> None:
        self.sharded = Sharded(setup.denoiser, setup.world)
        self.denoiser = self.sharded.twin
        if self.reference is not None:
            network = self.reference.module
            self._kept = Kept(network, shares_of(network, setup.denoiser.device, setup.world))
            self._kept.free()

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            **super().parts(),
            "denoiser": self.trained,
            "denoiser_optimizer": self.denoiser_optimizer,
        }

    def restored(self) -> None:
        if self.sharded is not None:
            self.sharded.kept.gather()

    def learning(self) -> AbstractContextManager[None]:
        """While this lasts, the denoiser learns, and the one that plays may have no weights."""
        return nullcontext() if self.sharded is None else self.sharded.kept.away()

    def referring(self) -> AbstractContextManager[None]:
        """While this lasts, the reference can be asked."""
        return nullcontext() if self._kept is None else self._kept.there()

    def __call__(self, function: Callable[[], Value]) -> Value:
        """What a function returns that evaluates the denoiser for a gradient."""
        return function() if self.sharded is None else self.sharded(function)

    def idle(self, passes: int, among: World) -> int:
        """How many passes others make that this process has no steps for, and has to make with them."""
        return max(among.gather(passes)) - passes if self.sharded is not None else 0

    def sum_gradients(self, among: World) -> None:
        """Makes gradients those of all processes."""
        among.sum_gradients(self.network.parameters())
        if self.sharded is None:
            among.sum_gradients(self.trained.parameters())
        else:
            self.sharded.as_sum()


@contextmanager
def checkpointed(network: nn.Module, wanted: bool) -> Iterator[None]:
    """While this lasts, blocks of the network keep their inputs only and compute again what a gradient needs."""
    blocks = [part for found in network.modules() if isinstance(found, nn.ModuleList) for part in found]
    if not wanted:
        blocks = []
    for block in blocks:
        block.forward = _again(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _again(forward: Any) -> Any:
    def run(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **named)
        return checkpoint(forward, *args, use_reentrant=False, **named)

    return run

"""A denoiser whose weights, gradients and optimizer state are divided among processes: FSDP2 (``fully_shard``).

There are two of it. One plays: it has whole weights while it does, is like any other denoiser, and needs nobody to
generate, so that processes may call it as often as they like. Its twin learns: of each of its weights a process has
a share, with the share's gradient and optimizer state, and a block is whole only while it is computed. During
gradient steps the weights of the one that plays are gone; afterwards they are gathered from the twin.

torch's ``fully_shard`` is used itself: accelerate makes replicas, not shards, on a processor, and its ``prepare``
wraps a model that is called by ``forward`` alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dllm_env.denoisers.base import Denoiser
from dllm_env.errors import UsageError
from dllm_env.world import World

Value = TypeVar("Value")


def is_divided(value: object) -> bool:
    """Whether a tensor is a process's share of one."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The tensor that a share is of, for which all processes have to ask; any other as it is."""
    share: Any = value
    found: Tensor = share.full_tensor() if is_divided(value) else value
    return found


def divided_as(value: Tensor, like: Tensor) -> Tensor:
    """The share of a whole tensor that this process has of one like it; the tensor itself where that is whole."""
    if not is_divided(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(value.to(like.device), mesh, placements)


def blocks(network: nn.Module) -> list[nn.Module]:
    """What stands in the outermost lists of modules, where it has weights."""
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            found += [part for part in child if any(True for _ in part.parameters())]
        else:
            found += blocks(child)
    return found


class Kept:
    """A network whose weights are whole only now and then; of each there is a share in every process.

    Args:
        network: which has them.
        shares: by name, what to gather them from.
    """

    def __init__(self, network: nn.Module, shares: Mapping[str, Tensor]) -> None:
        self.network, self.shares = network, shares

    @torch.no_grad()
    def gather(self) -> None:
        """Makes all weights whole, by all processes."""
        for name, weight in self.network.named_parameters():
            weight.data = whole(self.shares[name])

    def free(self) -> None:
        """Takes all weights away."""
        for weight in self.network.parameters():
            weight.data = weight.data.new_empty(0)

    @contextmanager
    def there(self) -> Iterator[None]:
        """Weights are whole while this lasts."""
        self.gather()
        try:
            yield
        finally:
            self.free()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Weights are gone while this lasts, and gathered anew."""
        self.free()
        yield
        self.gather()


class _Root(nn.Module):
    """Around a network whose parts are called on their own: whatever is called within its ``forward``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[], Value]) -> Value:
        return function()


class Sharded:
    """A denoiser that is trained in shares.

    Args:
        denoiser: plays, with whole weights. It is frozen.
        among: the processes, all of which make this at the same time.

    Attributes:
        twin: a copy that learns, of whose weights this process has a share.
        kept: of the denoiser, whose weights are gathered from the twin's.

    Raises:
        UsageError: a denoiser that cannot be divided.
    """

    def __init__(self, denoiser: Denoiser, among: World) -> None:
        check(denoiser)
        self.among = among
        denoiser.module.requires_grad_(False)
        self.twin = copy.deepcopy(denoiser)
        self.twin.module.requires_grad_(True)
        self.root: Any = _Root(self.twin.module)
        _divide(self.twin.module, self.root, denoiser.device, among)
        self.kept = Kept(denoiser.module, dict(self.twin.module.named_parameters()))

    def __call__(self, function: Callable[[], Value]) -> Value:
        """What a function returns that calls the twin; all processes have to call one, and go back as often.

        Tensors that gradients are to come from have to be what it returns, alone or in a tuple.
        """
        result: Value = self.root(function)
        return result

    def as_sum(self) -> None:
        """Makes gradients, which FSDP has divided by the number of processes, sums over them."""
        for weight in self.twin.module.parameters():
            if weight.grad is not None:
                weight.grad.mul_(self.among.size)


def _divide(network: nn.Module, root: nn.Module, device: torch.device, among: World) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (among.size,))
    summed = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in blocks(network):
        fully_shard(block, mesh=mesh, mp_policy=summed)
    made: Any = fully_shard(root, mesh=mesh, mp_policy=summed)
    if hasattr(made, "set_reduce_scatter_unused_params"):
        made.set_reduce_scatter_unused_params(True)  # of experts that one process asks and another one does not


def shares_of(network: nn.Module, device: torch.device, among: World) -> dict[str, Tensor]:
    """A process's shares of the weights of a network that does not learn."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh(device.type, (among.size,))
    return {
        name: distribute_tensor(weight.detach(), mesh, [Shard(0) if weight.ndim else Replicate()])
        for name, weight in network.named_parameters()
    }


def check(denoiser: Denoiser) -> None:
    """Before anything is divided.

    Raises:
        UsageError: processes would call its blocks different numbers of times, or its weights cannot be divided.
    """
    about = f"denoiser {denoiser.name!r} cannot be divided among processes (fsdp):"
    if not denoiser.pads:
        raise UsageError(f"{about} it cannot pad prompts, so that those of each length are computed on their own")
    for name, weight in denoiser.module.named_parameters():
        if weight.device != denoiser.device:
            raise UsageError(f"{about} it is spread over devices; leave device_map away")
        if not weight.is_floating_point() or not weight.ndim:
            raise UsageError(f"{about} its weight {name} is a single number, or held in few bits")

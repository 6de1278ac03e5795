"""Trajectories that several processes draw together: each plays its share of the rows, all get all outcomes.

What a row writes depends on its prompt and seed alone, so it does not matter who plays it. Recorded steps stay with
whoever drew them until it is known which of them carry signal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from dllm_env.dynamics import Observation
from dllm_env.policies.rollout import Attempt, Rollout
from dllm_env.world import World

TOTALS = ("denoiser_calls", "seconds", "denoiser_seconds")
"""Of a rollout, what is no tensor of its rows."""


def shared_attempt(
    world: World,
    play: Callable[[Sequence[int]], Attempt],
    count: int,
    device: torch.device,
    together: int = 1,
) -> Attempt:
    """An attempt by all processes; each gets the whole outcome, but only the steps of its own rows.

    Args:
        world: the processes.
        play: plays these rows, in their order; what a row gives does not depend on which others are played.
        count: how many rows there are.
        device: where the outcome goes.
        together: neighbouring rows that one process plays.
    """
    mine = world.share(count, together)
    part = play(mine) if mine else None
    if world.size == 1:
        assert part is not None
        return part
    rows, told, steps = torch.tensor(mine, dtype=torch.int64), None, None
    if part is not None:
        steps = part.rollout.trajectories
        told = on_processor(replace(part, rollout=replace(part.rollout, trajectories=None)))
    parts = [(place, found) for place, found in world.gather((rows, told)) if found is not None]
    whole = merged(parts, count, device)
    if steps is not None:
        steps.row = rows.to(steps.row.device)[steps.row]
    return replace(whole, rollout=replace(whole.rollout, trajectories=steps))


def on_processor(value: Any) -> Any:
    """A dataclass, its tensors on the processor; parts that are dataclasses, too."""
    moved: dict[str, Any] = {}
    for column in fields(value):
        found = getattr(value, column.name)
        if isinstance(found, Tensor):
            moved[column.name] = found.cpu()
        elif isinstance(found, (Rollout, Observation)):
            moved[column.name] = found.map(Tensor.cpu) if isinstance(found, Observation) else on_processor(found)
    return replace(value, **moved)


def merged(parts: Sequence[tuple[Tensor, Attempt]], count: int, device: torch.device) -> Attempt:
    """The rows of all parts in their places, of which there are so many."""
    place = torch.cat([rows for rows, _ in parts])
    order = place.argsort()
    texts = [text for _, part in parts for text in part.texts]

    def joined(read: Callable[[Attempt], Tensor]) -> Tensor:
        return torch.cat([read(part) for _, part in parts])[order].to(device)

    def column(name: str) -> Any:
        return joined(lambda part: getattr(part.rollout, name))

    names = [column.name for column in fields(Rollout) if column.name not in (*TOTALS, "trajectories")]
    played = [part.rollout for _, part in parts]
    assert len(place) == count
    return Attempt(
        rollout=Rollout(
            **{name: column(name) for name in names},
            denoiser_calls=sum(one.denoiser_calls for one in played),
            seconds=max(one.seconds for one in played),
            denoiser_seconds=max(one.denoiser_seconds for one in played),
        ),
        texts=[texts[i] for i in order.tolist()],
        correct=joined(lambda part: part.correct),
    )


def gathered(world: World, steps: Any, device: torch.device) -> Any:
    """The steps of all processes, sorted by row, in which they keep their order.

    Args:
        world: the processes.
        steps: a dataclass of tensors with an ``observation``, or None of a process that has played no row.
        device: where to.
    """
    if world.size == 1:
        return steps
    parts = [part for part in world.gather(None if steps is None else on_processor(steps)) if part is not None]
    columns = {
        column.name: torch.cat([getattr(part, column.name) for part in parts])
        for column in fields(parts[0])
        if column.name != "observation"
    }
    order = columns["row"].argsort(stable=True)
    seen = Observation.concatenate([part.observation for part in parts])[order]
    moved = {name: value[order].to(device) for name, value in columns.items()}
    return type(parts[0])(observation=seen.map(lambda value: value.to(device)), **moved)

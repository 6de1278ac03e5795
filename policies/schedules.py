"""How many positions a step reveals where a number of steps is asked for, as the published samplers count them.

All share the steps over the blocks and count within each block. Where the blocks do not divide the steps, which
the published code refuses, the first blocks take one step more; every block takes one at least.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError

Schedule = Literal["llada", "dream", "lavida"]
SCHEDULES = get_args(Schedule)

LAST_TIME = 1e-3
"""Dream's ``eps``, the time at which its schedule ends."""
SHIFT = 1 / 3
"""LaViDa's factor of time; below 1 the first steps reveal more than the last ones."""


def new_block(observation: Observation) -> tuple[Tensor, Tensor]:
    """(B,) bool: first step in the active block; and (B,) int64, to be kept in the memory as ``outside``."""
    outside = observation.masked_total - observation.masked.sum(-1) + 1  # 0 is what a new row finds in its memory
    before = observation.memory.get("outside")
    return torch.ones_like(outside, dtype=torch.bool) if before is None else outside != before, outside


@dataclass
class BlockSteps:
    """Where B rows stand in their active block; all are (B,) int64.

    Attributes:
        step: steps that the row has taken in this block.
        steps: steps that it shall take in this block.
        masked: masks of the block when it began.
        left: masks of the block now.
        length: L, masks of the response when it began.
        block: the number of the block, from 0.
        outside: masks outside the block, plus 1.
        began: the row's step in which the block began.
    """

    step: Tensor
    steps: Tensor
    masked: Tensor
    left: Tensor
    length: Tensor
    block: Tensor
    outside: Tensor
    began: Tensor

    def memory(self, unmask: Tensor) -> Mapping[str, Tensor]:
        """What ``block_steps`` has to find in the memory of the next step, after unmasking ``unmask`` (B, W)."""
        kept = {name: getattr(self, name) for name in ("masked", "length", "block", "outside", "began")}
        return {**kept, "left": self.left - unmask.sum(-1)}


def block_steps(observation: Observation, steps: int) -> BlockSteps:
    """Shares the steps of a row over its blocks.

    The number of blocks is that of L positions in blocks of W; L is the number of masks in the row's first step.
    What has to be known of earlier steps is in the memory. Without one the block is taken to be the row's first.

    Args:
        observation: of rules that see the active block, W positions.
        steps: steps of a whole response.
    """
    left, memory = observation.selectable.sum(-1), observation.memory
    new, outside = new_block(observation)
    length, masked, block, began = observation.masked_total, left, torch.zeros_like(left), torch.zeros_like(left)
    if "outside" in memory:
        first = memory["outside"] == 0
        new = new | (left > memory["left"])  # beyond the response length, no mask is outside of any block
        length = torch.where(first, length, memory["length"])
        block = torch.where(first, block, memory["block"] + new)
        masked = torch.where(new, masked, memory["masked"])
        began = torch.where(new, observation.step, memory["began"])
    blocks = -(-length // observation.selectable.shape[1])
    share = (steps // blocks + (block < steps % blocks)).clamp(min=1)
    return BlockSteps(observation.step - began, share, masked, left, length, block, outside, began)


def llada_count(at: BlockSteps) -> Tensor:
    """(B,) positions of this step: masks // steps of the block, one more in each of the first masks % steps steps.

    ``get_num_transfer_tokens`` in ``generate.py`` of ML-GSAI/LLaDA. As long as it is followed, that is what is left
    over the steps that are left, rounded up.
    """
    return -(-at.left // (at.steps - at.step).clamp(min=1))


def llada_plan(at: BlockSteps) -> Tensor:
    """(B,) the same where other steps have revealed more or less than was planned: the plan is kept to.

    After its end it is the rest, and one at least where it plans none.
    """
    planned = at.masked // at.steps + (at.step < at.masked % at.steps)
    return torch.where(at.step < at.steps, planned.clamp(min=1), at.left)


def dream_count(at: BlockSteps) -> Tensor:
    """(B,) positions of this step: floor(masks left · (1 − s/t)), all that are left in the last step.

    t and s are the times before and after the step, evenly from 1 to ``LAST_TIME`` over the steps of the block: the
    rules other than ``origin`` in Dream's ``generation_utils.py``, but for the number of masks left, which there is
    the mean over the batch and here the row's. In blocks as Fast-dLLM's ``generation_utils_block.py``. Early steps
    reveal nothing where there are about as many steps as masks; they cost no evaluation in a rollout.
    """
    count = at.left.clone()
    for steps in at.steps.unique().tolist():
        times = torch.linspace(1, LAST_TIME, steps + 1, device=count.device)  # in float32, as there
        place = at.step.clamp(max=steps - 1)
        share = 1 - times[place + 1] / times[place]
        early = (at.steps == steps) & (at.step < steps - 1)
        count = torch.where(early, (at.left * share).floor().to(count.dtype), count)
    return count


@functools.cache
def lavida_plan(masked: int, steps: int, shift: float) -> tuple[int, ...]:
    """How many of so many masks each of so many steps reveals: the shifted schedule (LaViDa, arXiv 2505.16839).

    At time t, from 0 to 1 in equal steps, ⌊M·s·t / (1 + (s − 1)·t)⌋ of M masks are left, and every step reveals at
    least one; what that is too much is taken from the last steps that reveal several, one from each, as often as it
    takes. Read off ``get_num_transfer_tokens_sch`` of jacklishufan/LaViDa, in float32 as there.
    """
    steps = min(steps, masked)
    time = torch.linspace(0, 1, steps + 1)
    left = (shift * time / (1 + (shift - 1) * time) * masked).long()
    left[-1] = masked
    counts = left.diff().clamp(min=1).tolist()
    surplus = sum(counts) - masked
    while surplus:
        for place in [i for i, count in enumerate(counts) if count > 1][:surplus]:
            counts[place] -= 1
            surplus -= 1
    return tuple(reversed(counts))


def lavida_count(at: BlockSteps, shift: float) -> Tensor:
    """(B,) positions of this step by ``lavida_plan``; after its end, all that are left."""
    counts = []
    for masked, steps, step, left in zip(
        *(column.tolist() for column in (at.masked, at.steps, at.step, at.left)), strict=True
    ):
        plan = lavida_plan(masked, steps, shift)
        counts.append(plan[step] if step < len(plan) else left)
    return torch.tensor(counts, device=at.left.device)


def scheduled(
    rule: str, observation: Observation, steps: int, schedule: Schedule, shift: float = SHIFT
) -> tuple[Tensor, BlockSteps]:
    """(B,) positions to reveal in this step, and what has to be kept of it; ``shift`` is that of ``lavida``.

    Raises:
        UsageError: more steps than tokens in Dream's schedule, which would be cut off before their end.
    """
    at = block_steps(observation, steps)
    if schedule == "llada":
        return llada_count(at), at
    if schedule == "lavida":
        return lavida_count(at, shift), at
    longest = int(at.length.max()) if len(at.length) else steps
    if steps > longest:
        raise UsageError(
            f"{rule}: {steps} steps do not fit into a response of {longest} tokens, which ends after as many; "
            f"give at most {longest}"
        )
    return dream_count(at), at

"""The oracle: what a denoiser could do if one knew where it is right. A reference, neither a rule nor learned.

For each problem a slow policy writes a right response. The oracle then reveals, at each step, every selectable
position whose predicted token is that response's, or the leftmost one where there is none. How many evaluations
that takes is about the fewest that anybody could have written this response with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, Recording, attempt
from dllm_env.random import RowRandom
from dllm_env.rules import Context, Rules
from dllm_env.tasks.base import Problem, Task

REFERENCES = ("leftmost:1",)
"""The slow policies that write its responses, unless others are named."""


class Following:
    """Reveals what agrees with the response in its memory, ``reference`` (B, L), or else the leftmost position."""

    name = "oracle"
    context: Context = "full"
    top = 1
    extras = Extras(token=True)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        reference, selectable = observation.memory["reference"], observation.selectable
        assert observation.token is not None
        agreeing = selectable & (observation.token == reference)
        leftmost = selectable & (selectable.cumsum(-1) <= 1)
        unmask = torch.where(agreeing.any(-1, keepdim=True), agreeing, leftmost)
        return Decision(unmask, memory={"reference": reference})


@dataclass(frozen=True)
class Oracle:
    """The oracle with the rules that its responses come from: ``oracle``, ``oracle:top_k:1+leftmost:1``.

    Of several rules it follows, problem by problem, the slowest that is right; where none is, the first, and is
    wrong, too.
    """

    references: tuple[str, ...] = REFERENCES

    @property
    def name(self) -> str:
        """``oracle``, with the rules where they are not the usual ones."""
        return "oracle" if self.references == REFERENCES else "oracle:" + "+".join(self.references)

    def attempt(
        self,
        denoiser: Denoiser,
        rules: Rules,
        task: Task,
        problems: Sequence[Problem],
        seeds: Sequence[int],
        *,
        batch_size: int = 128,
        record: bool | Recording = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> Attempt:
        """Plays the references and then itself; arguments as in ``rollout``."""
        written = self.responses(denoiser, rules, task, problems, seeds, batch_size)
        return attempt(
            denoiser,
            Following(),
            rules,
            task,
            problems,
            seeds,
            batch_size=batch_size,
            memory={"reference": written},
            record=record,
            on_progress=on_progress,
        )

    def responses(
        self,
        denoiser: Denoiser,
        rules: Rules,
        task: Task,
        problems: Sequence[Problem],
        seeds: Sequence[int],
        batch_size: int = 128,
    ) -> Tensor:
        """(N, L) int64, the responses that it follows."""
        chosen = slowest = None
        for text in self.references:
            played = attempt(denoiser, load_heuristic(text), rules, task, problems, seeds, batch_size=batch_size)
            cost = torch.where(played.correct == 1, played.rollout.nfe, -1)
            if chosen is None or slowest is None:
                chosen, slowest = played.rollout.responses, cost
            better = cost > slowest
            chosen = torch.where(better[:, None], played.rollout.responses, chosen)
            slowest = torch.where(better, cost, slowest)
        assert chosen is not None
        return chosen


def load_oracle(text: str) -> Oracle:
    """``oracle``, or ``oracle:RULE+RULE`` with the rules that it takes its responses from.

    Raises:
        UsageError: not such a text, or a rule that there is not.
    """
    name, _, given = text.partition(":")
    if name != "oracle":
        raise UsageError(f"{text!r} is not the oracle; write oracle, or oracle:leftmost:1+top_k:1")
    references = tuple(given.split("+")) if given else REFERENCES
    for reference in references:
        rule: Heuristic = load_heuristic(reference)
        if rule.remasks:
            raise UsageError(f"the oracle cannot follow {reference}, which puts tokens back to mask")
    return Oracle(references)

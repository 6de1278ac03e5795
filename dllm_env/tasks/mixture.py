"""Several tasks as one."""

from __future__ import annotations

from dataclasses import dataclass

from dllm_env.tasks.base import Problem, Split, Task, count_problems


@dataclass(frozen=True)
class Mixture:
    """Several tasks, their problems in turn.

    Attributes:
        parts: the tasks.
    """

    parts: tuple[Task, ...]

    @property
    def name(self) -> str:
        """Names of the parts with ``+`` between them."""
        return "+".join(part.name for part in self.parts)

    @property
    def prompt_length(self) -> int:
        return max(part.prompt_length for part in self.parts)

    @property
    def response_length(self) -> int:
        return max(part.response_length for part in self.parts)

    @property
    def runs_code(self) -> bool:
        """Whether a part is judged by running programs."""
        return any(getattr(part, "runs_code", False) for part in self.parts)

    @property
    def slow_to_score(self) -> bool:
        """Whether a part has a judge that takes long."""
        return any(getattr(part, "slow_to_score", False) for part in self.parts)

    def size(self, split: Split) -> int | None:
        """Problems until the smallest part is used up; None where no part has an end."""
        sizes = [size for part in self.parts if (size := count_problems(part, split)) is not None]
        return len(self.parts) * min(sizes) if sizes else None

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        part = self.parts[index % len(self.parts)]
        return part.problem(index // len(self.parts), split, seed)

    def score(self, problem: Problem, response: str) -> float:
        """By the part that the problem is of."""
        part = next(part for part in self.parts if part.name == problem.task)
        return part.score(problem, response)

"""A task of your own: of a program with several chains, it is enough to get one right.

dllm-env eval --task examples/own_task.py:OneChain --policies leftmost:2 threshold:0.7
dllm-env train grpo --task 'examples/own_task.py:OneChain(chains=2)' --out runs/one-chain
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.trace import Trace


@dataclass(frozen=True)
class OneChain:
    """A problem is a function of (split, seed, index), so that everybody who names it gets the same one."""

    chains: int = 2

    @property
    def name(self) -> str:
        return f"one-chain:{self.chains}"

    @property
    def prompt_length(self) -> int:
        return Trace(self.chains).prompt_length

    @property
    def response_length(self) -> int:
        return Trace(self.chains).response_length

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return replace(Trace(self.chains).problem(index, split, seed), task=self.name)

    def score(self, problem: Problem, response: str) -> float:
        ends = [" ".join(part.split()[-2:]) for part in response.split(";")]
        return float(any(end in problem.answer for end in ends))

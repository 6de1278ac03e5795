"""Slow judges work while other rows are generated, and say what they would say afterwards."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import toy_denoiser

from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.policies.scoring import Scoring, is_slow
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem
from dllm_env.tasks.benchmarks import BENCHMARKS
from dllm_env.tasks.load import load_task
from dllm_env.tasks.trace import Trace

LONG = 20.0
"""Seconds after which a test has failed."""


@dataclass
class Diary:
    """What happened, in its order, and where threads wait for each other."""

    events: list[str] = field(default_factory=list)
    judging: threading.Event = field(default_factory=threading.Event)
    generating: threading.Event = field(default_factory=threading.Event)


class Watched(TinyDenoiser):
    """Says when it is asked while the first row is judged."""

    diary: Diary

    def features(self, tokens: torch.Tensor, last: int) -> torch.Tensor:
        if self.diary.judging.is_set() and not self.diary.generating.is_set():
            self.diary.events.append("generates")
            self.diary.generating.set()
        return super().features(tokens, last)


class Slow(Trace):
    """Its judge gives the share of a's; of the first row not before the denoiser is asked once more."""

    slow_to_score = True

    def __init__(self, diary: Diary) -> None:
        super().__init__(chains=1)
        object.__setattr__(self, "diary", diary)

    def score(self, problem: Problem, response: str) -> float:
        diary = self.diary  # type: ignore[attr-defined]
        if problem.index == 0 and self.slow_to_score:
            diary.events.append("judges")
            diary.judging.set()
            assert diary.generating.wait(LONG)
            diary.events.append("has judged")
        return float(len(response) % 7)


def play(task: Trace, diary: Diary, count: int = 4, **rules: Any) -> Attempt:
    denoiser = toy_denoiser(Watched)
    denoiser.diary = diary  # type: ignore[attr-defined]
    problems = [task.problem(i) for i in range(count)]
    known = (denoiser, load_heuristic("leftmost:2"), Rules(20, 20, **rules), task, problems, row_seeds(count, "x"))
    return attempt(*known, batch_size=1)


def test_rows_are_judged_while_others_are_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one waits for the other: what was played first and judged afterwards would never end."""
    diary = Diary()
    found = play(Slow(diary), diary)
    assert diary.events == ["judges", "generates", "has judged"]
    monkeypatch.setattr(Slow, "slow_to_score", False)
    plain = play(Slow(diary), diary)
    assert found.texts == plain.texts
    assert torch.equal(found.correct, plain.correct)
    assert len(set(found.correct.tolist())) > 1
    assert torch.equal(found.rollout.responses, plain.rollout.responses)


def test_what_is_cut_off_is_wrong_for_a_slow_judge_too() -> None:
    diary = Diary()
    assert play(Slow(diary), diary, max_steps=3).correct.tolist() == [0.0] * 4
    assert diary.events == []


def test_what_a_slow_judge_raises_arrives() -> None:
    class Broken(Trace):
        slow_to_score = True

        def score(self, problem: Problem, response: str) -> float:
            raise UsageError("no judge here")

    with pytest.raises(UsageError, match="no judge here"):
        play(Broken(chains=1), Diary())


def test_after_an_interruption_nothing_new_is_judged() -> None:
    seen, begun, goes_on = [], threading.Event(), threading.Event()

    class Held(Trace):
        slow_to_score = True

        def score(self, problem: Problem, response: str) -> float:
            seen.append(problem.index)
            begun.set()
            assert goes_on.wait(LONG)
            return 1.0

    task, denoiser = Held(chains=1), toy_denoiser()
    responses, finished = torch.full((3, 4), 5), torch.ones(3, dtype=torch.bool)
    scoring = Scoring(task, [task.problem(i) for i in range(3)], denoiser)
    pool = scoring._pool
    assert pool is not None
    end = pool.shutdown

    def shutdown(**how: Any) -> None:
        end(wait=False, **how)
        goes_on.set()
        end()

    pool.shutdown = shutdown  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt), scoring:
        scoring.take(torch.arange(3), responses, finished)
        assert begun.wait(LONG)
        raise KeyboardInterrupt
    assert seen == [0]


def test_which_tasks_are_slow() -> None:
    """The bundled ones are not, and have no threads."""
    for name in ("trace", "sudoku", "cascade", "choice", "copy", "trace+sudoku"):
        assert not is_slow(load_task(name))
        assert Scoring(load_task(name), [], toy_denoiser())._pool is None
    slow = {name for name, kind in BENCHMARKS.items() if kind.slow_to_score}
    assert slow == {"math", "math500", "humaneval", "mbpp"}
    assert is_slow(load_task("trace+humaneval", allow_code_execution=True))

    class Runs(Trace):
        runs_code = True

    assert is_slow(Runs())

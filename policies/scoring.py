"""Scores of the rows of a rollout: where a judge is slow, by threads while other rows are still generated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

from dllm_env.denoisers.base import Denoiser
from dllm_env.tasks.base import Problem, Task


def is_slow(task: Task) -> bool:
    """Whether a task says of itself that its judge takes long (``slow_to_score``), or runs programs."""
    return bool(getattr(task, "slow_to_score", False) or getattr(task, "runs_code", False))


class Scoring:
    """Texts and scores of rows, which a judge that is slow begins with as soon as a row has ended.

    Programs are run several at a time, as whoever runs them mostly waits. Any other judge is asked by one thread,
    and need not stand more. As a context: what has not begun when it is left, as by an interruption, is not scored.

    Args:
        task: judges.
        problems: one for each row.
        denoiser: tells texts from tokens.

    Attributes:
        early: whether rows are to be handed over by ``take``; otherwise all are scored in ``finish``.
    """

    def __init__(self, task: Task, problems: Sequence[Problem], denoiser: Denoiser) -> None:
        self.task, self.problems, self.denoiser = task, problems, denoiser
        self.early = is_slow(task)
        threads = os.cpu_count() if getattr(task, "runs_code", False) else 1
        self._pool = ThreadPoolExecutor(threads) if self.early else None
        self._taken: dict[int, tuple[str, Future[float]]] = {}

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def take(self, rows: Tensor, responses: Tensor, finished: Tensor) -> None:
        """Begins to score rows that have ended.

        Args:
            rows: (n,) their numbers.
            responses: (n, L) token ids.
            finished: (n,) bool; what is cut off has no score but 0.
        """
        assert self._pool is not None
        for row, response, whole in zip(rows.tolist(), responses.tolist(), finished.tolist(), strict=True):
            text = self.denoiser.response_text(response)
            self._taken[row] = text, self._pool.submit(self._score, row, text, whole)

    def finish(self, responses: Tensor, finished: Tensor) -> tuple[list[str], list[float]]:
        """Texts and scores of all N rows, in their order, of which those that were taken are waited for.

        Args:
            responses: (N, L) token ids.
            finished: (N,) bool.
        """
        if self.early:
            taken = [self._taken[row] for row in range(len(self.problems))]
            return [text for text, _ in taken], [score.result() for _, score in taken]
        texts = [self.denoiser.response_text(response) for response in responses.tolist()]
        rows = enumerate(zip(texts, finished.tolist(), strict=True))
        return texts, [self._score(row, text, whole) for row, (text, whole) in rows]

    def _score(self, row: int, text: str, finished: bool) -> float:
        return self.task.score(self.problems[row], text) if finished else 0.0

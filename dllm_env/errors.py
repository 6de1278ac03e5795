"""The exceptions that mean "the input is wrong, and here is what to do about it"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD, TAIL = 1600, 300
"""Letters at the beginning and end of a message that is too long."""
LONGEST = HEAD + TAIL + 100
"""Letters of a message."""


class UsageError(ValueError):
    """Bad input from the user; its message is one line that says what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2. Of a message that quotes a
    whole file, the middle is left out.

    Examples:
        >>> raise UsageError("unknown split 'dev'; choose one of train, validation, test")
        Traceback (most recent call last):
        dllm_env.errors.UsageError: unknown split 'dev'; choose one of train, validation, test
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:HEAD]} … {message[-TAIL:]}")


class LogitsError(UsageError):
    """A denoiser's logits say nothing: NaN, infinity, or nothing but the mask token.

    Args:
        what: of these, which.
        rows: whose logits; numbers of the batch where it is raised, and of prompts, requests, … further up.
        steps: the step (from 0) that each of them was in; empty where there are no steps.
        kind: what ``rows`` counts.
    """

    def __init__(self, what: str, rows: Sequence[Any], steps: Sequence[int] = (), kind: str = "row") -> None:
        self.what, self.rows, self.steps, self.kind = what, list(rows), list(steps), kind
        super().__init__(self._message())

    def _message(self) -> str:
        shown = ", ".join(map(str, self.rows[:5])) + (", …" if len(self.rows) > 5 else "")
        where = f"{self.kind}{'s' if len(self.rows) > 1 else ''} {shown}"
        if self.steps:
            steps = sorted(set(self.steps))
            shown = ", ".join(map(str, steps[:5])) + (", …" if len(steps) > 5 else "")
            where = f"step{'s' if len(steps) > 1 else ''} {shown} of {where}"
        return (
            f"the denoiser's logits are {self.what} in {where}; its weights are damaged, or its numbers overflow: "
            "try dtype=float32"
        )

    def at(self, rows: Sequence[Any], steps: Sequence[int] = (), kind: str = "") -> LogitsError:
        """The same, with other names for the rows, and their steps."""
        return LogitsError(self.what, rows, steps or self.steps, kind or self.kind)

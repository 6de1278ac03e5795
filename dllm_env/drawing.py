"""Drawing in a process of its own, which loads matplotlib while this one loads torch.

Loading the two takes most of the time of a short evaluation, and neither waits for the other.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from dllm_env.files import drawn

Draws = Callable[[Callable[..., Any], Sequence[Any], Sequence[str]], list[bytes]]
"""``draw``, or what does the same elsewhere."""


def draw(figure_of: Callable[..., Any], arguments: Sequence[Any], formats: Sequence[str]) -> list[bytes]:
    """Makes a figure of matplotlib and returns it in some formats.

    Args:
        figure_of: what makes it.
        arguments: of that.
        formats: ``svg``, ``pdf`` or ``png``.
    """
    figure = figure_of(*arguments)
    return [drawn(figure, kind) for kind in formats]


class Painter:
    """A process that loads what draws from the beginning, and draws once.

    It ends then, or with the process that made it. Interruptions from the keyboard do not reach it.
    """

    def __init__(self) -> None:
        begin = f"import sys; sys.path[:] = {sys.path!r}; from dllm_env.drawing import draw_what_is_read as d; d()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", begin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __call__(
        self, figure_of: Callable[..., Any], arguments: Sequence[Any], formats: Sequence[str]
    ) -> list[bytes]:
        """As ``draw``, which it is if the process comes to nothing.

        Args:
            figure_of: a function that a module of the package has by its name.
            arguments: of it; pickled.
            formats: as there.
        """
        asked = pickle.dumps((figure_of, arguments, formats))
        try:
            pictures: list[bytes] = pickle.loads(self._process.communicate(asked)[0])
            return pictures
        except (OSError, EOFError, pickle.UnpicklingError):
            return draw(figure_of, arguments, formats)


def draw_what_is_read() -> None:
    """The painter's side: reads what to draw, until the end of the input, and writes the pictures.

    Both ends are pickled, which is safe between a process and the one that it has made.
    """
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    asked = sys.stdin.buffer.read()
    if asked:
        sys.stdout.buffer.write(pickle.dumps(draw(*pickle.loads(asked))))

"""What is drawn by a process of its own is what is drawn here; nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dllm_env.drawing import Painter, draw
from dllm_env.pareto import Point, plot_grid

POINTS = [Point("threshold:0.9", "heuristic", 5.0, 0.5, 0.4, 0.6), Point("runs/x", "learned", 4.0, 0.75, 0.7, 0.8)]
GRID = {"trace": {"full": ("full diffusion", POINTS)}}
ASKED = (plot_grid, (GRID, ["full"], "a title", {"runs/x": "Ours"}), ["png", "svg", "pdf"])


def test_the_same_pictures() -> None:
    pictures = Painter()(*ASKED)
    assert pictures == draw(*ASKED)
    assert [picture[:4] for picture in pictures] == [b"\x89PNG", b"<?xm", b"%PDF"]


def test_a_killed_painter_is_replaced() -> None:
    painter = Painter()
    os.killpg(painter._process.pid, signal.SIGKILL)
    assert painter(*ASKED) == draw(*ASKED)


def test_what_is_wrong_is_raised_here() -> None:
    rows = {"a": {"x": ("", []), "y": ("", [])}, "b": {"nowhere": ("", [])}}
    with pytest.raises(ValueError, match="nowhere"):
        Painter()(plot_grid, (rows, ["x", "y"]), ["png"])


def test_ends_with_its_process(tmp_path: Path) -> None:
    """Also when that one is killed."""
    program = textwrap.dedent("""
        import time
        from dllm_env.drawing import Painter
        painter = Painter()
        print(painter._process.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        painter = int(process.stdout.readline())
        process.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{painter}").exists() and "Z" not in Path(f"/proc/{painter}/stat").read_text():
        assert time.monotonic() < until, "the painter goes on"
        time.sleep(0.1)

"""The quick part of the campaigns; ``make campaigns`` plays them at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look into")
def test_a_round_of_a_campaign() -> None:
    script = Path(__file__).parent / "campaigns" / "kills.py"
    done = subprocess.run([sys.executable, str(script), "--rounds", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kills: ")
    assert "kills of train grpo" in done.stdout
    assert done.stdout.endswith(", 0 failures\n")

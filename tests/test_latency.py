"""Times at batch size 1: by hand, and that nothing else depends on them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from dllm_env.cli import main
from dllm_env.eval.latency import Played, Timing, latency_cells, latency_table, read_latency, timing


def test_times_by_hand() -> None:
    played = [Played(0.5, 10, 4), Played(1.5, 20, 6)]
    found = timing("threshold:0.9", ("trace", "tiny", 8), False, played, base=3.0)
    assert found == Timing("threshold:0.9", "trace", "tiny", 8, False, 2, 1.0, 15.0, 5.0, 3.0)
    assert latency_cells(found) == ["threshold:0.9", "trace", "8", "1", "15", "5.0", "3.00×"]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_name_is_cut_short(width: int) -> None:
    """Two settings of a policy may differ in their last letters."""
    name = "runs/a-folder-with-a-long-name:temperature=0.5,alpha=0.125"
    one = timing(name, ("trace:chains=4,order=backward", "tiny", 8), True, [Played(0.5, 10, 4)], base=3.0)
    console = Console(file=io.StringIO(), width=width)
    console.print(latency_table([one]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    cells = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert "".join(cells).replace(" ", "") == f"{name}(defaultdecoding)"


def test_an_evaluation_measures_beside_the_default_and_changes_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = ["leftmost:20", "oracle"]
    command = ["eval", "--policies", *policies, "--problems", "2", "--workers", "1", "--out"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    assert main([*command, str(tmp_path / "timed"), "--latency", "2"]) == 0
    assert "measured on this machine" in capsys.readouterr().out
    found = read_latency(tmp_path / "timed")
    assert found is not None
    assert read_latency(tmp_path / "plain") is None
    machine, timings = found
    assert {"cpus", "threads", "torch", "device"} <= set(machine)
    assert [(one.policy, one.default, one.problems, one.nfe) for one in timings] == [
        ("leftmost:20", False, 2, 2.0),
        ("top_k:1", True, 2, 40.0),
    ]
    assert timings[1].speedup == pytest.approx(1.0)
    assert all(one.seconds > 0 for one in timings)

    def results(name: str) -> list[dict[str, object]]:
        read = json.loads((tmp_path / name / "results.json").read_text())
        return [{key: value for key, value in one.items() if key != "seconds"} for one in read]

    assert results("plain") == results("timed")
    assert main(["report", str(tmp_path / "timed")]) == 0
    page = (tmp_path / "timed" / "report.html").read_text(encoding="utf-8")
    assert "top_k:1 (default decoding)" in page


@pytest.mark.parametrize("given", ["-1", "10001"])
def test_how_many_problems_are_timed_has_bounds(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--policies", "top_k:1", "--latency", given]) == 2
    assert "--latency must be from 1 to 10,000 problems" in capsys.readouterr().err

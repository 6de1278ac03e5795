"""``dllm-env plot``: what is read of a log, which runs are one curve, and what the files hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dllm_env.cli import main
from dllm_env.train.curves import curve, grouped, plot_curves, read_run, shown_names


def make_run(folder: Path, rewards: list[float], begin: int = 0, **settings: object) -> Path:
    """A run with the reward of each update from ``begin`` + 1 on; the accuracy is validated at every second one."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(
        json.dumps({"alpha": 0.1, "seed": 1, "sight": [], **settings}), encoding="utf-8"
    )
    lines = [["rollout/reward", "time/update", "validation/accuracy", "rollout/entropy"]]
    for i, reward in enumerate(rewards, begin + 1):
        lines.append([str(reward), str(i), "0.5" if i % 2 == 0 else "", "nan"])
    name = f"progress-{begin}.csv" if begin else "progress.csv"
    with (folder / "logs" / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return folder


def test_a_log_that_went_on_after_a_stop(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "x", [1, 2, 3])
    make_run(folder, [30, 40], begin=2)
    make_run(folder, [100], begin=10)
    run = read_run(folder)
    assert run.series["rollout/reward"] == {1: 1, 2: 2, 3: 30, 4: 40, 11: 100}
    assert run.series["validation/accuracy"] == {2: 0.5, 4: 0.5}
    assert "rollout/entropy" not in run.series  # it never was a number


def test_half_a_line_is_no_value(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "x", [1, 2])
    with (folder / "logs" / "progress.csv").open("a", encoding="utf-8") as file:
        file.write("7")
    assert read_run(folder).series["rollout/reward"] == {1: 1, 2: 2}


def test_runs_that_differ_in_the_seed_alone_are_one_curve(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "a", [1, 2, 3, 4])),
        read_run(make_run(tmp_path / "b", [3, 4, 8], seed=2)),
        read_run(make_run(tmp_path / "c", [5], alpha=1.0, seed=2, sight=["place", "left"])),
    ]
    groups = grouped(runs)
    assert list(groups) == ["alpha=0.1, sight=none", "alpha=1.0, sight=place left"]
    both = groups["alpha=0.1, sight=none"]
    found = curve(both, "rollout/reward")
    assert found is not None
    assert found.update == [1, 2, 3, 4]
    assert found.mean == [2, 3, 5.5, 4]
    assert (found.low, found.high) == ([1, 2, 3, 4], [3, 4, 8, 4])
    assert found.runs == [2, 2, 2, 1]
    smoothed = curve(both, "rollout/reward", 2)
    assert smoothed is not None
    assert smoothed.mean == [2, 2.5, (2.5 + 6) / 2, 3.5]
    assert curve(both, "rollout/nfe") is None
    assert list(grouped(runs[:1])) == ["a"]
    assert shown_names(runs) == ["rollout/reward", "validation/accuracy"]
    figure = plot_curves(groups, shown_names(runs))
    assert [axes.get_title() for axes in figure.axes] == ["reward", "accuracy on validation problems"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "alpha=0.1, sight=none (2 seeds)",
        "alpha=1.0, sight=place left",
    ]


def test_long_labels_fit_into_the_picture(tmp_path: Path) -> None:
    """A path of a denoiser, say, and many settings that differ."""
    runs = [
        read_run(make_run(tmp_path / str(i), [1, 2], denoiser=f"/{i}/{'x' * 80}", task="t" * i)) for i in (1, 2)
    ]
    figure = plot_curves(grouped(runs), ["rollout/reward"])
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize("updates", [1, 2, 9, 400])
def test_updates_are_counted_in_whole_numbers(updates: int, tmp_path: Path) -> None:
    groups = grouped([read_run(make_run(tmp_path / "a", [1.0] * updates))])
    figure = plot_curves(groups, ["rollout/reward"])
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert list(ticks) == [round(tick) for tick in ticks]


@pytest.mark.parametrize(("name", "begins"), [("c.png", b"\x89PNG"), ("c.pdf", b"%PDF"), ("c.svg", b"<?xml")])
def test_the_command_writes_a_picture_and_a_table(
    name: str, begins: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(make_run(tmp_path / "a", [1, 2])), str(make_run(tmp_path / "b", [3, 5], seed=2))]
    assert main(["plot", *runs, "--out", str(tmp_path / "new" / name), "--figures", "rollout/reward"]) == 0
    assert (tmp_path / "new" / name).read_bytes().startswith(begins)
    with (tmp_path / "new" / "c.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["update"], float(row["mean"]), row["runs"]) for row in rows] == [("1", 2, "2"), ("2", 3.5, "2")]
    assert "c.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give one or more folders"),
        (["nowhere"], "nowhere holds no training"),
        (["empty"], "has logged nothing yet"),
        (["x", "--figures", "rollout/rewards"], "no run has logged 'rollout/rewards'; there are rollout/reward"),
        (["x", "--out", "c.gif"], "--out ends in one of .png, .pdf, .svg"),
        (["x", "--smooth", "0"], "--smooth must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("x"), [1])
    Path("empty").mkdir()
    (Path("empty") / "settings.json").write_text("{}", encoding="utf-8")
    assert main(["plot", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))

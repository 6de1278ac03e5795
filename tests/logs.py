"""What a training run logged, read back from its CSV files and TensorBoard's events."""

from __future__ import annotations

import csv
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def csv_rows(run: Path) -> dict[int, dict[str, str]]:
    """The rows of all CSV files by their update, without times and empty cells; each update may be there once."""
    found: dict[int, dict[str, str]] = {}
    for path in (run / "logs").glob("progress*.csv"):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            update = int(float(row["time/update"]))
            assert update not in found, (path, update)
            found[update] = {name: value for name, value in row.items() if value and not name.startswith("time/")}
    return found


def events(run: Path) -> dict[str, list[tuple[int, float | None]]]:
    """(step, value) of all scalars, in order, without times; of pictures and texts the steps."""
    read = EventAccumulator(str(run / "logs"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    read.purge_orphaned_data = False  # shows what is in the files, not what a reader makes of it
    read.Reload()
    tags = read.Tags()
    found: dict[str, list[tuple[int, float | None]]] = {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith("time/")
    }
    found |= {tag: [(event.step, None) for event in read.Images(tag)] for tag in tags["images"]}
    found |= {tag: [(event.step, None) for event in read.Tensors(tag)] for tag in tags["tensors"]}
    return found


def assert_logged_once(whole: Path, halves: Path) -> None:
    """A run that was stopped and resumed logged what one did that was never stopped, and every step once."""
    assert csv_rows(halves) == csv_rows(whole)
    expected, found = events(whole), events(halves)
    assert found.keys() == expected.keys()
    for tag, series in expected.items():
        assert [step for step, _ in found[tag]] == sorted({step for step, _ in series}), tag
        assert found[tag] == series, tag

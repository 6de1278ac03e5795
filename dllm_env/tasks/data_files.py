"""Rows of published data sets, read by ``datasets``: from the Hugging Face Hub or from files of the same fields."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.tasks.base import SPLITS

Row = Mapping[str, Any]
Source = tuple[str, str, str]
"""Data set, configuration and split on the Hub."""


@functools.cache
def read_rows(kind: str, files: tuple[Path, ...], source: Source, columns: tuple[str, ...]) -> list[Row]:
    """The rows of a split, as they were published.

    Args:
        kind: the benchmark's name.
        files: where they are; without any, on the Hub.
        source: where on the Hub.
        columns: fields that they have to have.

    Raises:
        UsageError: they cannot be read, or lack a field.
    """
    name, configuration, published = source
    place = ", ".join(map(str, files)) or name
    try:
        import datasets
    except ImportError:
        raise UsageError("benchmarks need datasets: pip install 'dllm-env[eval]'") from None
    datasets.disable_progress_bars()
    try:
        if files:
            rows = _read_files(datasets, files)
        else:
            rows = list(datasets.load_dataset(name, configuration or None, split=published))
    except UsageError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "" if files else "; without the Hub, give a file or folder with the same fields (--data)"
        raise UsageError(f"cannot read the problems of {place}: {reason}{hint}") from None
    for number, row in enumerate(rows):
        lacking = next((column for column in columns if row.get(column) is None), None)
        if lacking:
            has = ", ".join(row)
            raise UsageError(f"row {number} of {place} has no {lacking!r}, which {kind} needs; it has {has}")
    return rows


_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def own_place(kind: str, data: str) -> Path | None:
    """The file or folder of a benchmark's data: what was named, or in it what is named as the benchmark is."""
    place = Path(data)
    if not place.is_dir():
        return place
    return next((path for path in sorted(place.iterdir()) if _name(path) == kind), None)


def _name(path: Path) -> str:
    """A folder's name, or a file's without what comes behind the point; nothing where it cannot be read."""
    return path.name if path.is_dir() else path.stem if path.suffix.lower() in _READERS else ""


def all_files(kind: str, data: str, configuration: str, others: Collection[str]) -> dict[Path, list[str]]:
    """The local files of a benchmark, and which splits each names, in its own name or in a folder's.

    A folder of several benchmarks has a folder or a file for each, named as the benchmark is; one of several
    configurations, as on the Hub, has a folder for each.

    Args:
        kind: the benchmark's name.
        data: file or folder.
        configuration: its configuration on the Hub.
        others: names of all benchmarks.

    Raises:
        UsageError: there is nothing, or nothing that can be read.
    """
    place = own_place(kind, data)
    if place is None:
        place = Path(data)
        found = sorted({_name(path) for path in place.iterdir()} & set(others))
        if found:
            raise UsageError(f"{data} has no {kind}; it has {', '.join(found)}")
    if not place.exists():
        raise UsageError(f"no data at {place}")
    if configuration and (place / configuration).is_dir():
        place /= configuration
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    files = [path for path in files if path.suffix.lower() in _READERS]
    if not files:
        raise UsageError(f"nothing to read in {place}; give files in the form of {', '.join(_READERS)}")
    return {path: _splits(path.stem if path == place else str(path.relative_to(place))) for path in files}


def _splits(name: str) -> list[str]:
    """The splits that a name speaks of, as whole words."""
    return [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", name.lower())]


def _read_files(datasets: Any, files: Sequence[Path]) -> list[Row]:
    kinds = {_READERS[path.suffix.lower()] for path in files}
    if len(kinds) != 1:
        raise UsageError(f"{', '.join(map(str, files))}: give files of one kind for each split")
    if not any(path.stat().st_size for path in files):
        return []
    names = [str(path) for path in files]
    return list(datasets.load_dataset(kinds.pop(), data_files=names, split="train", streaming=True))

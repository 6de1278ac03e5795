"""Rows of published data sets, read by ``datasets``: from the Hugging Face Hub or from files of the same fields."""

from __future__ import annotations

import functools
import gzip
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_env import hub
from dllm_env.errors import UsageError
from dllm_env.reading import as_path, exists, is_file, is_folder, read_table
from dllm_env.tasks.base import SPLITS

Row = Mapping[str, Any]
Source = tuple[str, str, str]
"""Data set, configuration and split on the Hub."""
Columns = tuple[str | tuple[str, ...], ...]
"""Fields that a row has to have; of several together, one."""


@functools.cache
def read_rows(
    kind: str, files: tuple[Path, ...], source: Source, columns: Columns, lists: tuple[str, ...] = ()
) -> list[Row]:
    """The rows of a split, as they were published.

    Args:
        kind: the benchmark's name.
        files: where they are; without any, on the Hub.
        source: where on the Hub.
        columns: fields that they have to have.
        lists: those among them that may be lists; the others are text or numbers.

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
            with hub.looked_up():
                rows = list(datasets.load_dataset(name, configuration or None, split=published))
    except UsageError:
        raise
    except Exception as error:
        why = "" if files else hub.silence()
        hint = "" if files else "; without the Hub, give a file or folder with the same fields (--data)"
        raise UsageError(f"cannot read the problems of {place}: {why or _reason(error)}{hint}") from None
    for number, row in enumerate(rows):
        _check(row, f"row {number} of {place}", kind, columns, lists)
    return rows


def _check(row: Row, place: str, kind: str, columns: Columns, lists: Collection[str]) -> None:
    for column in columns:
        names = (column,) if isinstance(column, str) else column
        name = next((name for name in names if row.get(name) is not None), None)
        if name is None:
            said = " nor ".join(map(repr, names))
            raise UsageError(f"{place} has no {said}, which {kind} needs; it has {', '.join(row)}")
        if isinstance(row[name], list | dict) and name not in lists:
            raise UsageError(f"{place}: {name!r} has to be text, got {str(row[name])[:80]}")


def _reason(error: BaseException) -> str:
    """In one line, why something could not be read."""
    if any(isinstance(cause, UnicodeDecodeError) for cause in _causes(error)):
        return "it is not UTF-8 text"
    said = [line.strip() for cause in _causes(error) for line in str(cause).splitlines() if line.strip()]
    named = [line for line in said if not line.startswith("An error occurred while generating")]
    return next(iter(named), type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_READERS = {
    **{".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv"},
    **{".jsonl.gz": "json", ".json.gz": "json", ".csv.gz": "csv", ".tsv.gz": "tsv"},
    **{".parquet": "parquet", ".arrow": "arrow"},
}
"""What reads a file, by how its name ends."""
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files that tell of the others."""


def own_place(kind: str, data: str) -> Path | None:
    """The file or folder of a benchmark's data: what was named, or in it what is named as the benchmark is."""
    place = as_path(data)
    if not is_folder(place):
        return place
    return next((path for path in sorted(place.iterdir()) if _name(path) == _plain(kind)), None)


def kinds_in(data: str, kinds: Collection[str]) -> list[str]:
    """The benchmarks that a folder has an entry for; none where it is a file, or a folder of one benchmark."""
    place = as_path(data)
    names = {_name(path) for path in place.iterdir()} if is_folder(place) else set()
    return sorted(kind for kind in kinds if _plain(kind) in names)


def _ending(path: Path) -> str:
    """The end of a file's name that says how it is read; nothing where it does not."""
    return next((ending for ending in _READERS if path.name.lower().endswith(ending)), "")


def _name(path: Path) -> str:
    """The benchmark that an entry is named after, if it can be read."""
    return _plain(path.name if is_folder(path) else path.name[: -len(_ending(path))] if _ending(path) else "")


def _plain(name: str) -> str:
    """Small letters and digits alone, so that HumanEval, human-eval and humaneval are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def all_files(kind: str, data: str, configuration: str, others: Collection[str]) -> dict[Path, list[str]]:
    """The local files of a benchmark, and which splits each names, in its own name or in a folder's.

    A folder of several benchmarks has a folder or a file for each, named as the benchmark is; one of several
    configurations, as on the Hub, has a folder for each. What ``save_to_disk`` has written says itself what it is.

    Args:
        kind: the benchmark's name.
        data: file or folder.
        configuration: its configuration on the Hub.
        others: names of all benchmarks.

    Raises:
        UsageError: there is nothing, or nothing that can be read.
    """
    try:
        place = own_place(kind, data)
        if place is None:
            place = as_path(data)
            found = kinds_in(data, others)
            if found:
                raise UsageError(f"{data} has no {kind}; it has {', '.join(found)}")
        if not exists(place):
            raise UsageError(f"no data at {place}")
        if configuration and is_folder(place / configuration):
            place /= configuration
        files = (
            [place] if is_file(place) else [path for path in sorted(place.rglob("*")) if _holds_rows(path, place)]
        )
        files = [path for path in files if _ending(path)]
        if not files:
            raise UsageError(f"nothing to read in {place}; give files in the form of {', '.join(_READERS)}")
        return {path: _splits_of(path, place) for path in files}
    except OSError as error:
        raise UsageError(f"cannot look into {data}: {error.strerror or error}") from None


def _holds_rows(path: Path, place: Path) -> bool:
    """Whether a file in a folder is none that is hidden, a cache, or about the others."""
    inside = path.relative_to(place).parts
    hidden = any(part.startswith(".") for part in inside)
    return is_file(path) and not hidden and path.name not in _ABOUT and not re.match(r"cache-.*\.arrow$", path.name)


def _splits_of(path: Path, place: Path) -> list[str]:
    named = _splits(path.name[: -len(_ending(path))] if path == place else str(path.relative_to(place)))
    state = path.with_name("state.json")
    if named or _ending(path) != ".arrow" or not is_file(state):
        return named
    try:
        return _splits(str(read_table(state).get("_split")))
    except UsageError:
        raise UsageError(
            f"{state} says nothing of a split; give the data set as save_to_disk has left it"
        ) from None


def _splits(name: str) -> list[str]:
    """The splits that a name speaks of, as whole words."""
    return [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", name.lower())]


def _read_files(datasets: Any, files: Sequence[Path]) -> list[Row]:
    kinds = {_READERS[_ending(path)] for path in files}
    if len(kinds) != 1:
        raise UsageError(f"{', '.join(map(str, files))}: give files of one kind for each split")
    names = [str(path) for path in files if not _is_empty(path)]
    if not names:
        return []
    kind = kinds.pop()
    if kind == "json":
        for path in files:
            _refuse_null(path)
    settings = {"sep": "\t"} if kind == "tsv" else {}
    reader = "csv" if kind == "tsv" else kind
    return list(datasets.load_dataset(reader, data_files=names, split="train", streaming=True, **settings))


def _is_empty(path: Path) -> bool:
    with _open(path) as file:
        return not file.read(1)


def _refuse_null(path: Path) -> None:
    """Ends where pyarrow 26 would end the whole process: a part of a file that begins with null.

    Raises:
        UsageError: a line that is null.
    """
    with _open(path) as file:
        number, begins = 1, True
        while part := file.readline(1 << 20):
            if begins and part.lstrip(b"\xef\xbb\xbf \t\r").startswith(b"null"):
                raise UsageError(f"{path}, line {number} is null; each has to be an object")
            begins = part.endswith(b"\n")
            number += begins


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")

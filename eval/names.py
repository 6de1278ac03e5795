"""What learned policies are called in pictures, tables and the report: by their algorithm, or as asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.eval.compare import Entry
from dllm_env.policies.learned import CONFIG
from dllm_env.reading import is_file, read_table
from dllm_env.specs import split

ALGORITHMS = {"train_denoiser": "DCoLT", "num_generations": "GRPO", "n_epochs": "PPO"}
"""Of settings that only one of the trainings has; DCoLT has GRPO's, too, and comes first."""

Names = Mapping[str, str]
"""What learned policies are called, by their folders as results have them."""


def learned_names(entries: Sequence[Entry], labels: Sequence[str] = ()) -> dict[str, str]:
    """Names of the learned policies.

    A label that is given, else the algorithm by the settings that it was trained with, else the last part of its
    folder. Several of the same algorithm are told apart by their seeds, or by their folders.

    Args:
        entries: from ``pool``.
        labels: ``folder=name``, as for ``--label``.

    Raises:
        UsageError: a label of no policy here, without a name, or given to two.
    """
    folders = list(dict.fromkeys(split(entry.policy)[0] for entry in entries if entry.learned))
    asked = read_labels(labels, folders)
    settings = {folder: training_of(folder) for folder in folders}
    names = {folder: asked.get(folder) or _algorithm(folder, settings[folder]) for folder in folders}
    for name in set(names.values()):
        alike = [folder for folder in folders if names[folder] == name]
        names |= {
            folder: f"{name} {more}" for folder, more in _apart(alike, settings).items() if folder not in asked
        }
    return names


def _apart(folders: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What tells policies of the same name apart: their seeds, else the last parts of their folders, else all."""
    if len(folders) < 2:
        return {}
    seeds = [f"seed {settings[folder]['seed']}" if "seed" in settings[folder] else "" for folder in folders]
    for way in (seeds, [f"({Path(folder).name})" for folder in folders]):
        if all(way) and len(set(way)) == len(way):
            return dict(zip(folders, way, strict=True))
    return {folder: f"({folder})" for folder in folders}


def _algorithm(folder: str, settings: Mapping[str, Any]) -> str:
    found = (name for setting, name in ALGORITHMS.items() if setting in settings)
    return next(found, Path(folder).name or folder)


def training_of(folder: str) -> Mapping[str, Any]:
    """The settings that a policy was trained with, as its file has them; nothing where it is not here any more."""
    for place in (Path(folder), Path(folder) / "best"):
        try:
            if is_file(place / CONFIG):
                found = read_table(place / CONFIG).get("training")
                return found if isinstance(found, dict) else {}
        except UsageError:  # a damaged file is no reason not to show results
            return {}
    return {}


def read_labels(labels: Sequence[str], folders: Sequence[str]) -> dict[str, str]:
    """``folder=name`` as names by folders.

    Raises:
        UsageError: see ``learned_names``.
    """
    found: dict[str, str] = {}
    for label in labels:
        parts = [(label[:i], label[i + 1 :].strip()) for i, letter in enumerate(label) if letter == "="]
        fits = [(own, name) for place, name in parts for own in folders if _same(place, own)]
        if not parts or not fits:
            there = ", ".join(folders) or "none"
            raise UsageError(
                f"--label takes FOLDER=NAME of a learned policy in the results ({there}), got {label!r}"
            )
        folder, name = fits[-1]
        if not name:
            raise UsageError(f"--label {label!r} has no name after the equals sign")
        if name in found.values() or folder in found:
            raise UsageError(f"--label {label!r}: {name if name in found.values() else folder} is there twice")
        found[folder] = name
    return found


def _same(place: str, folder: str) -> bool:
    return os.path.normpath(place) == os.path.normpath(folder)


def shown_name(entry: Entry, names: Names) -> str:
    """What an entry is called: a learned policy by its name and settings, another one by its label."""
    if not entry.learned:
        return entry.label
    folder, settings = split(entry.label)
    name = names.get(split(entry.policy)[0], Path(folder).name or folder)
    return ":".join(filter(None, [name, settings]))


def shown_front(who: str, names: Names) -> str:
    """What the front of a family is called."""
    folder, settings = split(who) if split(who)[0] in names else (who, "")
    return ":".join(filter(None, [names.get(folder, folder), settings]))

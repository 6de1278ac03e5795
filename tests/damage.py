"""Ways to damage a folder of one JSON and one safetensors file, for tests of what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]


def config(folder: Path) -> Path:
    """The folder's JSON file."""
    (path,) = folder.glob("*.json")
    return path


def weights(folder: Path) -> Path:
    """The folder's safetensors file."""
    (path,) = folder.glob("*.safetensors")
    return path


def edit(change: Callable[[dict], object]) -> Damage:
    """Changes the configuration."""

    def damage(folder: Path) -> None:
        values = json.loads(config(folder).read_text())
        change(values)
        config(folder).write_text(json.dumps(values))

    return damage


def drop(name: str) -> Damage:
    """Leaves a weight out."""

    def damage(folder: Path) -> None:
        state = load_file(weights(folder))
        state.pop(name)
        save_file(state, weights(folder))

    return damage


def pickled(folder: Path) -> None:
    """Writes the weights as a pickle, which no loader may open."""
    weights(folder).write_bytes(pickle.dumps(load_file(weights(folder))))


COMMON: dict[str, Damage] = {
    "truncated weights": lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-9]),
    "empty weights": lambda f: weights(f).write_bytes(b""),
    "noise for weights": lambda f: weights(f).write_bytes(bytes(range(256)) * 20),
    "pickled weights": pickled,
    "another width": edit(lambda c: c["network"].update(width=32)),
    "odd width": edit(lambda c: c["network"].update(width=15)),
    "width in words": edit(lambda c: c["network"].update(width="wide")),
    "no heads": edit(lambda c: c["network"].update(heads=0)),
    "unknown shape": edit(lambda c: c["network"].update(depth=3)),
    "network is a list": edit(lambda c: c.update(network=[1])),
    "configuration is no JSON": lambda f: config(f).write_text("{"),
    "configuration is a list": lambda f: config(f).write_text("[]"),
    "configuration is not text": lambda f: config(f).write_bytes(b"\xff\xfe\x00"),
}
"""What any loader of such a folder has to refuse."""

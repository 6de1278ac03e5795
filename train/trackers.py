"""Weights & Biases and MLflow: what a training logs, sent there by their own libraries, besides its own files.

A tracker is a callback of Stable-Baselines3 that adds an output to the training's logger. A training that goes on
after a stop goes on in the same run there: its name is kept in the run's folder.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from dllm_env.errors import UsageError
from dllm_env.files import write_atomically
from dllm_env.reading import is_file
from dllm_env.train.settings_file import flat

Place = Literal["tensorboard", "wandb", "mlflow"]
"""Where a training is logged; TensorBoard's files and the CSV are there in any case."""
PROJECT = "dllm-env"
LONGEST_VALUE = 500
"""Letters of a parameter that MLflow takes."""


def trackers(places: Sequence[Place], settings: Any, folder: Path) -> list[BaseCallback] | None:
    """A callback for each of the places but for TensorBoard; None without any.

    Args:
        places: where to.
        settings: of the training, which are shown there.
        folder: the run's; its name is that of the run there.

    Raises:
        UsageError: the library of one is not installed.
    """
    kinds: dict[str, type[Output]] = {"wandb": WandB, "mlflow": MLflow}
    chosen = [place for place in dict.fromkeys(places) if place in kinds]
    libraries = {place: _library(place) for place in chosen}
    return [Tracker(kinds[place], libraries[place], flat(settings), folder) for place in chosen] or None


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"--log {name} needs {name}: pip install 'dllm-env[{name}]'") from None


class Output(KVWriter):
    """What is logged, as numbers for a tracker.

    Args:
        library: the tracker's module.
        settings: by name.
        folder: the run's.
    """

    file = ""
    """In the run's folder: the tracker's name of the run."""

    def __init__(self, library: Any, settings: Mapping[str, Any], folder: Path) -> None:
        self.library, self.settings, self.folder = library, settings, folder
        place = folder / self.file
        self.known = place.read_text(encoding="utf-8").strip() if is_file(place) else None
        write_atomically(place, (self.start() + "\n").encode())

    def start(self) -> str:
        """Begins the run, or goes on with the one that is ``known``; returns the tracker's name of it."""
        raise NotImplementedError

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Sends the figures of an update."""
        raise NotImplementedError

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Sends what are finite numbers; pictures and texts are TensorBoard's."""
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        self.send(numbers, step)


class WandB(Output):
    """Weights & Biases."""

    file = "wandb.txt"

    def start(self) -> str:
        self.run = self.library.init(
            project=PROJECT,
            name=self.folder.name,
            dir=str(self.folder),
            config=dict(self.settings),
            id=self.known,
            resume="allow",
        )
        return str(self.run.id)

    def send(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow(Output):
    """MLflow."""

    file = "mlflow.txt"

    def start(self) -> str:
        if self.known:
            return str(self.library.start_run(run_id=self.known).info.run_id)
        self.library.set_experiment(PROJECT)
        run = self.library.start_run(run_name=self.folder.name)
        self.library.log_params({name: str(value)[:LONGEST_VALUE] for name, value in self.settings.items()})
        return str(run.info.run_id)

    def send(self, values: Mapping[str, float], step: int) -> None:
        self.library.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self.library.end_run()


class Tracker(BaseCallback):
    """Adds an output to the training's logger when the training begins; the logger closes it."""

    def __init__(self, kind: type[Output], library: Any, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__()
        self.kind, self.library, self.settings, self.folder = kind, library, settings, folder

    def _on_training_start(self) -> None:
        self.logger.output_formats.append(self.kind(self.library, self.settings, self.folder))

    def _on_step(self) -> bool:
        return True

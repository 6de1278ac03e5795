"""A training run's folder: settings, logs, and checkpoints that a stopped run continues from bit for bit."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import DecodeError
from safetensors.torch import save
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor, nn
from torch.optim import Optimizer

from dllm_env.errors import UsageError
from dllm_env.files import write_atomically
from dllm_env.reading import decode, exists, is_file, read_bytes, reason
from dllm_env.train.checkpoint import optimizer_tensors, read_checkpoint, state_as
from dllm_env.train.settings_file import SETTINGS, Settings, flat, read_settings, write_settings
from dllm_env.train.sharded import is_divided, whole
from dllm_env.weights import DIGESTS, digest_of_tensors

CHECKPOINT = "checkpoint.safetensors"
SAME_WITH_ANY = ("fsdp",)
"""Settings that may be others when a run goes on."""
LARGEST_LOG = 2**31
"""Bytes."""


def default_folder(kind: str) -> Path:
    """``runs/DATE-kind``, the place of a run that was given none."""
    return Path("runs") / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-{kind}"


def machine() -> dict[str, Any]:
    """What a reported figure needs beside it: processor, threads, versions."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


class Run:
    """The folder of one training run.

    Args:
        folder: where everything is written.
        settings: the run's configuration, a dataclass; written once, compared on resume.
        resume: continue the run in ``folder`` instead of beginning a new one.
        writes: whether this process does; of several, the first one.

    Raises:
        UsageError: the folder holds a run already and ``resume`` is off, or ``resume`` is on and there is
            nothing to continue or the settings differ.
    """

    def __init__(self, folder: Path, settings: Any, resume: bool = False, writes: bool = True) -> None:
        self.folder, self.writes = folder, writes
        if resume:
            if not is_file(folder / CHECKPOINT):
                raise UsageError(f"nothing to resume in {folder}: {CHECKPOINT} is missing")
            _compare_settings(flat(settings), flat(settings_of_run(folder, settings, used=False)))
        elif writes:
            if exists(folder / CHECKPOINT):
                raise UsageError(f"{folder} holds a run already; give --resume to continue it, or another --out")
            folder.mkdir(parents=True, exist_ok=True)
            write_settings(folder / SETTINGS, settings)
        self.resume = resume

    def logger(self, at: int) -> Logger:
        """SB3's logger for TensorBoard and CSV; resumed runs go on in files named by where they continue.

        What was logged after update ``at``, which is played again, is removed first, so that no update is there
        twice.
        """
        logs = self.folder / "logs"
        if not self.writes:
            return Logger(str(logs), [])
        cut_logs(logs, at)
        return configure_logger(logs, f"-{at}" if at else "")

    def save(self, parts: Mapping[str, nn.Module | Optimizer], info: Mapping[str, Any]) -> None:
        """Replaces the checkpoint in one step: a kill leaves the old one or the new one, never half of one.

        All processes have to call this; what is divided among them is gathered, a tensor at a time.

        Args:
            parts: networks and optimizers by name.
            info: anything that JSON can hold.
        """
        tensors: dict[str, Tensor] = {}
        for name, part in parts.items():
            values = part.state_dict() if isinstance(part, nn.Module) else optimizer_tensors(part)
            for key, value in values.items():
                if self.writes:
                    tensors[f"{name}.{key}"] = whole(value.detach()).cpu().clone().contiguous()
                elif is_divided(value):
                    whole(value.detach())
        if not self.writes:
            return
        # One entry, because safetensors writes several in any order, and equal checkpoints are to be equal files.
        said = {**info, DIGESTS: digest_of_tensors(tensors, json.dumps(info))}
        write_atomically(self.folder / CHECKPOINT, save(tensors, metadata={"info": json.dumps(said)}))

    def load(
        self, parts: Mapping[str, nn.Module | Optimizer], steps: float = math.inf, last: float = math.inf
    ) -> dict[str, Any]:
        """Puts what ``save`` wrote last back into the parts and returns the info.

        Args:
            parts: networks and optimizers by name.
            steps: how many an optimizer takes in an update at most.
            last: the run's last update.

        Raises:
            UsageError: the checkpoint is damaged, or not one of these parts; none of them is changed then.
        """
        path = self.folder / CHECKPOINT
        try:
            state, info = read_checkpoint(path, parts, steps, last)
        except UsageError as error:
            raise UsageError(f"cannot resume from {path}: {error}") from None
        for name, part in parts.items():
            part.load_state_dict(state_as(part, state[name]))
        return info


def settings_of_run(folder: Path, base: Settings, used: bool = True) -> Settings:
    """The settings that the run in this folder was started with; ``base`` has the defaults of what they lack.

    Args:
        folder: the run's.
        base: see above.
        used: see ``read_settings``.

    Raises:
        UsageError: there are none, or they belong to another version or kind of run, or name code of the user's
            own that nobody has consented to.
    """
    if not is_file(folder / SETTINGS):
        raise UsageError(f"nothing to resume in {folder}: {SETTINGS} is missing")
    try:
        return read_settings(folder / SETTINGS, base, used)
    except UsageError as error:
        raise UsageError(f"cannot resume: {error}") from None


def _compare_settings(now: dict[str, Any], before: dict[str, Any]) -> None:
    changed = [key for key in now if now[key] != before.get(key) and key not in SAME_WITH_ANY]
    if changed:
        key = changed[0]
        raise UsageError(
            f"cannot resume with another {key}: the run has {before.get(key)!r}, now it is {now[key]!r}"
        )


COLUMNS = (
    *(
        "time/update",
        "rollout/reward",
        "rollout/reward_deviation",
        "rollout/accuracy",
        "rollout/nfe",
        "rollout/steps",
        "rollout/edits",
    ),
    *("rollout/finished", "rollout/entropy", "rollout/alpha", "rollout/groups_without_signal"),
    *("rollout/denoiser_evaluations", "time/denoiser_calls"),
    *("train/loss", "train/learning_rate", "train/gradient_norm", "train/denoiser_gradient_norm"),
    *("train/ratio_mean", "train/ratio_max", "train/clip_share", "train/approximate_kl", "train/approx_kl"),
    *("train/step", "train/skipped", "validation/reward", "validation/accuracy", "validation/nfe"),
)
"""The first columns of ``progress.csv``, where a training logs them; others follow in the order of their names."""


def in_order(names: Iterable[str]) -> list[str]:
    """Names of figures in the order of the columns."""
    places = {name: i for i, name in enumerate(COLUMNS)}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


class CSVFile(CSVOutputFormat):
    """Stable-Baselines3's CSV file with columns in a fixed order; a new one, for which it is written anew, cannot
    cost the lines before.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Adds a line."""
        new = filter_excluded_keys(key_values, key_excluded, "csv").keys() - self.keys
        if new:
            self.file.seek(0)
            lines = list(csv.DictReader(self.file))
            self.keys = in_order([*self.keys, *new])
            written = io.StringIO()
            out = csv.DictWriter(written, self.keys, lineterminator="\n")
            out.writeheader()
            out.writerows(lines)
            self.file.close()
            write_atomically(self.path, written.getvalue().encode())
            self.file = self.path.open("r+", encoding="utf-8")
            self.file.seek(0, io.SEEK_END)
        super().write(key_values, key_excluded, step)


def configure_logger(folder: Path, suffix: str = "") -> Logger:
    """SB3's logger, writing TensorBoard events and CSV into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    formats = [CSVFile(folder / f"progress{suffix}.csv"), TensorBoardOutputFormat(str(folder))]
    return Logger(str(folder), formats)


def cut_logs(folder: Path, last: int) -> None:
    """Removes what was logged after update ``last`` from a folder of CSV files and TensorBoard events.

    The files are written anew rather than marked (``purge_step`` of ``SummaryWriter``): not every reader of events
    heeds the mark, and which of two files comes first is not certain where both began in the same second.
    """
    for path in sorted(folder.glob("progress*.csv")):
        text = decode(read_bytes(path, LARGEST_LOG), str(path))
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut off the last line
        try:
            lines = list(csv.reader(io.StringIO(whole)))
            kept = lines[:1] + [line for line in lines[1:] if _update(lines[0], line) <= last]
        except (csv.Error, ValueError) as error:
            raise UsageError(f"cannot read the log {path}: {reason(error)}; move it away to go on") from None
        if kept != lines or whole != text:
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows(kept)
            write_atomically(path, out.getvalue().encode())
    for path in sorted(folder.glob("events.out.tfevents.*")):
        events = list(_events(path))
        kept_events = [data for data, step in events if step <= last]
        if len(kept_events) < len(events):
            with io.BytesIO() as stream:
                writer = RecordWriter(stream)
                for data in kept_events:
                    writer.write(data)
                write_atomically(path, stream.getvalue())


def _update(head: list[str], line: list[str]) -> float:
    """Which update a line of ``progress.csv`` is about; infinite where the line is no whole one."""
    found = dict(zip(head, line, strict=False)).get("time/update", "")
    return float(found) if found and len(line) == len(head) else math.inf


def _events(path: Path) -> Iterator[tuple[bytes, int]]:
    """The events of a file with their steps, up to one that a kill cut off."""
    if not is_file(path):
        raise UsageError(f"cannot read the log {path}: it is no regular file; move it away to go on")
    try:
        for data in RawEventFileLoader(str(path)).Load():
            yield data, Event.FromString(data).step
    except (DecodeError, ValueError, OSError) as error:
        raise UsageError(f"cannot read the log {path}: {reason(error)}; move it away to go on") from None


def is_due(update: int, every: int, last: int) -> bool:
    """Whether something that happens every so many updates, and at the end, happens now."""
    return update == last or (every > 0 and update % every == 0)

"""``dllm-env doctor``: what this machine has, what cannot work on it, and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from dllm_env.commands.arguments import without_arguments
from dllm_env.errors import UsageError
from dllm_env.progress import terminal

PACKAGE = "dllm-env"
EXTRAS = {
    "hf": "LLaDA, Dream and other models; several processes",
    "eval": "published benchmarks, the lm-evaluation-harness",
    "lora": "adapters of denoisers",
    "report": "the HTML report",
    "wandb": "trainings logged by Weights & Biases",
    "mlflow": "trainings logged by MLflow",
}
"""What the extras are for that users may want."""
SECONDS = 3.0
"""To wait for the Hub."""
State = Literal["ok", "missing", "broken"]
STYLES: dict[State, str] = {"ok": "green", "missing": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        what: was looked at.
        state: ``missing`` is what one can do without.
        found: what there is.
        advice: how to get what is not there.
    """

    what: str
    state: State
    found: str
    advice: str = ""


def doctor(arguments: list[str]) -> None:
    """``dllm-env doctor``; the exit status is 1 where something is broken."""
    without_arguments("doctor", arguments)
    table = Table("", "", "found", "what to do", title="dllm-env doctor")
    broken = False
    for finding in findings():
        state = Text(finding.state, STYLES[finding.state])
        table.add_row(finding.what, state, finding.found, finding.advice)
        broken |= finding.state == "broken"
    terminal(120).print(table)
    if broken:
        raise SystemExit(1)


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in order."""
    yield Finding(PACKAGE, "ok", f"{metadata.version(PACKAGE)} on Python {platform.python_version()}")
    yield _machine()
    yield _torch()
    yield _requirements("")
    for extra in EXTRAS:
        yield _requirements(extra)
    yield _sandbox()
    yield _hub()
    yield _bundled()


def _machine() -> Finding:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    shown = f"{platform.system()} {platform.machine()}, {count} processors, {free:.0f} GiB free in this folder"
    if free < 1:
        return Finding("machine", "broken", shown, "make room: a run writes checkpoints and logs")
    return Finding("machine", "ok", shown)


def _torch() -> Finding:
    import torch

    threads = torch.get_num_threads()
    devices = [f"{threads} thread{'s' if threads > 1 else ''}"]
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} {about.name} ({about.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        devices.append("mps")
    shown = f"torch {torch.__version__}, {', '.join(devices)}"
    if torch.version.cuda and not torch.cuda.is_available():
        return Finding(
            "device", "missing", shown, "this torch is built for CUDA, and sees no GPU: look at nvidia-smi"
        )
    if len(devices) == 1:
        return Finding("device", "ok", shown, "no GPU: enough for the bundled models, not for LLaDA or Dream")
    return Finding("device", "ok", shown)


def _requirements(extra: str) -> Finding:
    """The packages that an extra needs, or without one those that are always needed."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    found: list[str] = []
    wrong: list[str] = []
    for one in wanted:
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        if always == bool(extra) or (one.marker is not None and not one.marker.evaluate({"extra": extra})):
            continue
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(one.name)
            continue
        (found if one.specifier.contains(version, prereleases=True) else wrong).append(f"{one.name} {version}")
    what = f"extra {extra}" if extra else "packages"
    purpose = f" ({EXTRAS[extra]})" if extra else ""
    if wrong:
        advice = f"pip install '{PACKAGE}{f'[{extra}]' if extra else ''}'"
        shown = f"not there, or not as needed: {', '.join(wrong)}{purpose}"
        return Finding(what, "missing" if extra else "broken", shown, advice)
    return Finding(what, "ok", f"{', '.join(found)}{purpose}")


def _sandbox() -> Finding:
    from dllm_env.grading.sandbox import find_sandbox

    what = "sandbox"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = find_sandbox()
        except UsageError as error:
            return Finding(what, "missing", str(error), "needed for HumanEval and MBPP only")
    if found.warning:
        return Finding(what, "missing", "generated programs run with limits alone", "apt install bubblewrap")
    return Finding(what, "ok", found.name, " ".join(str(one.message) for one in said))


def _hub() -> Finding:
    """Whether models and data sets can be fetched."""
    from huggingface_hub import constants, get_token

    what = "Hugging Face Hub"
    if constants.HF_HUB_OFFLINE:
        return Finding(what, "missing", "HF_HUB_OFFLINE is set", "give folders and files, or unset it")
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    except urllib.error.HTTPError:  # it answers
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding(what, "missing", f"{constants.ENDPOINT} does not answer: {reason}", "give folders and files")
    shown = "logged in" if get_token() else "not logged in"
    return Finding(what, "ok", f"{constants.ENDPOINT}, {shown}", "" if get_token() else "hf auth login, for push")


def _bundled() -> Finding:
    """One problem, from the weights to the score."""
    from dllm_env.eval.show import GenerationConfig, make_generation

    try:
        made = make_generation(GenerationConfig(policy="leftmost:1"))
    except (OSError, UsageError) as error:
        return Finding("bundled model", "broken", str(error), f"pip install --force-reinstall --no-deps {PACKAGE}")
    if not made.correct:
        advice = "its answer is wrong on this machine: please report that with the versions above"
        return Finding("bundled model", "broken", f"{made.prompt} → {made.text}", advice)
    return Finding("bundled model", "ok", f"tiny answers a problem of trace in {made.nfe} evaluations, rightly")

"""Denoisers by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NewType

import torch

from dllm_env import consent, hub
from dllm_env.denoisers import adapters
from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.sedd import is_sedd, load_sedd
from dllm_env.denoisers.tiny import CONFIG, WEIGHTS, TinyDenoiser
from dllm_env.errors import UsageError
from dllm_env.reading import exists, is_file, meant, read_json
from dllm_env.specs import read_settings, split, typed
from dllm_env.user_code import FilePart, file_part, load_from_file, parameters

ASSETS = Path(__file__).parent / "assets"


def bundled_denoisers() -> list[str]:
    """Names of the denoisers that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/model.safetensors"))


if TYPE_CHECKING:
    DenoiserLike = str | Denoiser
else:
    DenoiserLike = NewType("DenoiserLike", str)  # what a command line can say; an object is for Python
"""A denoiser, or the text that names one."""


def load_denoiser(name: str | Path | Denoiser, device: str | torch.device | None = None) -> Denoiser:
    """A denoiser by name or class in a file.

    A name is that of a bundled one (``tiny``, ``tiny-b``, ``many``, ``many-b``), a folder, or one on the Hub.

    Settings stand behind a colon, by the grammar of ``specs``: ``tiny:device=cuda:1``, for a checkpoint in Hugging
    Face's format ``path:dtype=bfloat16,chat=true``; see ``dllm_env.denoisers.huggingface.Options``.

    Args:
        name: what to load.
        device: where to; by default the processor, for a checkpoint in Hugging Face's format a GPU if there is one.

    Raises:
        UsageError: no such name or folder, its files cannot be read, or settings that it does not have.

    Examples:
        >>> denoiser = load_denoiser("tiny")
        >>> denoiser.name, denoiser.hidden_size, denoiser.attention_block
        ('tiny', 128, 0)
    """
    return name if isinstance(name, Denoiser) else _load(str(name), device, ())


def _load(text: str, device: str | torch.device | None, above: tuple[Path, ...]) -> Denoiser:
    """The same by text; ``above`` are the folders of the adapters that it is to be loaded for."""
    if (code := file_part(text)) is not None:
        return _from_file(code)
    place, _ = split(text, bundled_denoisers())
    folder = ASSETS / place if place in bundled_denoisers() else _of_run(Path(place))
    if not exists(folder) and place.count("/") == 1:
        with hub.looked_up():
            return _loaded(_of_hub(place) or folder, text, device, above)
    return _loaded(folder, text, device, above)


def _loaded(folder: Path, text: str, device: str | torch.device | None, above: tuple[Path, ...]) -> Denoiser:
    """The denoiser in a folder, or, where there is no such folder, with a name on the Hub."""
    place, written = split(text, bundled_denoisers())
    settings = read_settings(written)
    if is_file(folder / adapters.CONFIG):
        if written:
            raise UsageError(f"an adapter has the settings of what it is of; leave {written!r} away")
        return _adapted(folder, text, device, above)
    if is_sedd(folder):
        chosen = typed(settings, {"device": str}, f"denoiser {place!r}").get("device") or device or "cpu"
        return load_sedd(folder, text, check_device(chosen))
    if _is_tiny(folder):
        chosen = typed(settings, {"device": str}, f"denoiser {place!r}").get("device") or device or "cpu"
        return TinyDenoiser.load(folder, name=text, device=check_device(chosen))
    if not (exists(folder) and folder.is_dir()) and place.count("/") != 1:
        near, known = meant(place, bundled_denoisers()), ", ".join(bundled_denoisers())
        raise UsageError(
            f"unknown denoiser {text!r}{near}; choose one of {known}, or give a folder, a name on the Hub, or a "
            "class in a file: my.py:MyDenoiser"
        )
    from dllm_env.denoisers.checkpoints import load_huggingface
    from dllm_env.denoisers.huggingface import Options

    options = Options(**typed(settings, parameters(Options), "a denoiser"))
    if device is not None and options.device == "auto":
        options = replace(options, device=str(device))
    if options.device != "auto":
        check_device(options.device)
    return load_huggingface(str(folder) if exists(folder) else place, options, text)


SEDD_FILES = [CONFIG, WEIGHTS, "*.json", "merges.txt"]
DENOISER = "denoiser"
"""In the folder of a training, or of a policy: the denoiser that was trained."""


def holds_denoiser(folder: Path) -> bool:
    """Whether a folder has a denoiser of a bundled kind, a checkpoint, or an adapter."""
    return is_file(folder / CONFIG) or is_file(folder / adapters.CONFIG)


def _of_run(folder: Path) -> Path:
    """The folder itself, or where it is that of a training or a policy, what was trained."""
    if exists(folder / CONFIG) or exists(folder / adapters.CONFIG):
        return folder
    inner = (folder / "best" / DENOISER, folder / "last" / DENOISER, folder / DENOISER)
    return next((place for place in inner if holds_denoiser(place)), folder)


def copy_denoiser(source: Path, to: Path, rename: Callable[[str], str] | None = None) -> None:
    """Copies a denoiser's files; ``rename`` says how to call what an adapter is of."""
    to.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if is_file(file):
            shutil.copyfile(file, to / file.name)
    if rename is not None and is_file(to / adapters.CONFIG):
        adapters.rename_base(to, rename)


def _of_hub(name: str) -> Path | None:
    """A repository's denoiser that was trained with a policy, or its SEDD; None where the Hub has neither."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[f"{DENOISER}/*", CONFIG]))
        if holds_denoiser(folder / DENOISER):
            return folder / DENOISER
        return Path(snapshot_download(name, allow_patterns=SEDD_FILES)) if is_sedd(folder) else None
    except Exception:  # whatever it is, reading a checkpoint of this name says it better
        return None


def _adapted(folder: Path, text: str, device: str | torch.device | None, above: tuple[Path, ...]) -> Denoiser:
    """What an adapter is of, with it."""
    if folder.resolve() in above:
        raise UsageError(f"{folder} holds an adapter of itself")
    about = adapters.read_adapter(folder)
    base = str(about["base_model_name_or_path"])
    consent.check_read(base, folder / adapters.CONFIG)
    made = _load(base, device, (*above, folder.resolve()))
    adapters.apply_adapter(made, folder, about)
    made.name = text
    return made


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it.

    Raises:
        UsageError: it is none, or not here.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"no device {str(device)!r} here, use cpu or another: {reason}") from None
    return found


def _from_file(code: FilePart) -> Denoiser:
    made = load_from_file(code, "denoiser", ("predict", "encode", "decode")).value
    if not isinstance(made, Denoiser):
        raise UsageError(f"{code.text} is no denoiser: derive its class from dllm_env.Denoiser (docs/extending.md)")
    made.name = code.text
    return made


def _is_tiny(folder: Path) -> bool:
    """Whether a folder holds a bundled kind of denoiser; what cannot be told from a checkpoint is taken for one."""
    if not exists(folder) or not folder.is_dir():
        return False
    try:
        about = read_json(folder / CONFIG)
        return not isinstance(about, dict) or "model_type" not in about
    except UsageError:
        return True

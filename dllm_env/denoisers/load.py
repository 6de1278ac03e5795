"""Denoisers by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.errors import UsageError

ASSETS = Path(__file__).parent / "assets"


def bundled_denoisers() -> list[str]:
    """Names of the denoisers that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/model.safetensors"))


def load_denoiser(name: str | Path | Denoiser, device: str | torch.device | None = None) -> Denoiser:
    """A denoiser by bundled name (``tiny``, ``tiny-b``), folder, or name on the Hugging Face Hub.

    A checkpoint in Hugging Face's format takes settings behind a colon: ``path:dtype=bfloat16,chat=1``; see
    ``dllm_env.denoisers.huggingface.Options``.

    Args:
        name: what to load.
        device: where to; by default the processor, for a checkpoint in Hugging Face's format a GPU if there is one.

    Raises:
        UsageError: no such name or folder, its files cannot be read, or settings that it does not have.
    """
    if isinstance(name, Denoiser):
        return name
    text = str(name)
    place, colon, settings = text.rpartition(":")
    if not colon or "=" not in settings:
        place, settings = text, ""
    folder = ASSETS / place if place in bundled_denoisers() else Path(place)
    if _is_tiny(folder):
        if settings:
            raise UsageError(f"denoiser {place!r} has no settings, got {settings!r}")
        return TinyDenoiser.load(folder, name=text, device=device or "cpu")
    if not folder.is_dir() and place.count("/") != 1:
        known = ", ".join(bundled_denoisers())
        raise UsageError(
            f"unknown denoiser {text!r}; choose one of {known}, or give the path of a folder or a name on the Hub"
        )
    from dllm_env.denoisers.checkpoints import load_huggingface
    from dllm_env.denoisers.huggingface import Options

    options = Options.parse(settings)
    if device is not None and options.device == "auto":
        options = replace(options, device=str(device))
    return load_huggingface(place, options, text)


def _is_tiny(folder: Path) -> bool:
    """Whether a folder holds a bundled kind of denoiser; what cannot be told from a checkpoint is taken for one."""
    if not folder.is_dir():
        return False
    try:
        return "model_type" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True

"""Checkpoints in Hugging Face's format that were trained here, written in the format that they were read in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllm_env.denoisers.backbones import without_bars
from dllm_env.denoisers.families import find_family
from dllm_env.denoisers.tiny import CONFIG
from dllm_env.denoisers.translations import TRANSLATED
from dllm_env.errors import UsageError
from dllm_env.files import UNFINISHED, write_atomically
from dllm_env.reading import as_table, check_value

ENTRY = "dllm_env"
"""Of ``config.json``: how the denoiser was used, as far as settings or the name of its folder had said it."""
USED: dict[str, Any] = {"chat": bool, "shift": bool, "mask": int, "attention_block": int, "blocks_from": str}
"""What stands there, named as in ``Options``."""
LEFT_OPEN = (None, -1, "")
"""Values of these options by which nothing is said."""
OLD = ".old"


def refuse_unsaved(denoiser: Any) -> None:
    """Before anything is trained.

    Args:
        denoiser: a ``HuggingFaceDenoiser``.

    Raises:
        UsageError: a denoiser whose weights are not those of its checkpoint, one by one.
    """
    about, model = f"denoiser {denoiser.name!r} cannot be saved as a whole", denoiser.model
    how = TRANSLATED.get(find_family(denoiser.name, denoiser.raw, getattr(model, "config", None)).name)
    if not type(model).__module__.startswith("transformers."):
        raise UsageError(f"{about}: its model is none of transformers'; train an adapter: lora")
    if how is not None and how.weights is not None:
        raise UsageError(f"{about}: its weights are put together anew when it is read; train an adapter: lora")
    if denoiser.options.bits or getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(f"{about}: its weights are held in few bits; train an adapter: lora")


def save_huggingface(denoiser: Any, folder: Path) -> None:
    """Writes weights, configuration and tokenizer; a folder that was there is replaced when all is written.

    Raises:
        UsageError: see ``refuse_unsaved``.
    """
    refuse_unsaved(denoiser)
    new, old = (folder.with_name(folder.name + ending) for ending in (UNFINISHED, OLD))
    for place in (new, old):
        shutil.rmtree(place, ignore_errors=True)
    new.mkdir(parents=True)
    denoiser.tokenizer.save_pretrained(new)
    with without_bars():
        denoiser.model.save_pretrained(new)
    written = as_table(json.loads((new / CONFIG).read_text(encoding="utf-8")), CONFIG)
    about = {**(denoiser.raw or written), ENTRY: used(denoiser)}
    about.pop("dtype", None)
    about["torch_dtype"] = str(denoiser.dtype).removeprefix("torch.")
    write_atomically(new / CONFIG, (json.dumps(about, indent=1) + "\n").encode())
    if folder.exists():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def used(denoiser: Any) -> dict[str, bool | int]:
    """How a denoiser is used."""
    return {
        "chat": denoiser.chat,
        "shift": denoiser.shift,
        "mask": denoiser.mask_id,
        "attention_block": denoiser.attention_block,
        "blocks_from": "response" if denoiser.blocks_from_response else "prompt",
    }


def as_used(raw: Mapping[str, Any], options: Any) -> dict[str, bool | int | str]:
    """What the configuration of a checkpoint that was trained here says of its use, where the options say nothing.

    Args:
        raw: the configuration.
        options: ``Options`` of the checkpoint.

    Raises:
        UsageError: it says it in another way.
    """
    said = as_table(raw.get(ENTRY, {}), f"{CONFIG}: {ENTRY}")
    known = {name: said[name] for name in USED if name in said and getattr(options, name) in LEFT_OPEN}
    for name, value in known.items():
        check_value(value, USED[name], f"{CONFIG}: {ENTRY}: {name}")
    return known

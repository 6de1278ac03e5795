"""Low-rank adapters (LoRA, arXiv 2106.09685) of denoisers, by peft: added for training, saved, and read again.

A folder with an adapter has peft's own two files, which ``peft.PeftModel.from_pretrained`` reads on the denoiser's
network, and says in ``adapter_config.json`` which denoiser it is of. ``load_denoiser`` takes such a folder as it
takes any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from dllm_env.denoisers.base import Denoiser
from dllm_env.errors import UsageError
from dllm_env.files import write_atomically, write_together
from dllm_env.reading import is_file, read_table
from dllm_env.weights import check_weights, read_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST = 4096
"""The largest rank."""
PREFIX = "base_model.model."
"""What peft puts before the names of a network's parts."""


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UsageError("adapters need peft: pip install 'dllm-env[lora]'") from None
    return peft


def linear_layers(network: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers within blocks: of what stands in a list of modules."""
    found = {
        _tail(name)
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear) and any(piece.isdigit() for piece in name.split("."))
    }
    return sorted(found)


def _tail(name: str) -> str:
    """What tells a layer from others of its block: its name from the last part that is no number on."""
    parts = name.split(".")
    first = next(i for i in reversed(range(len(parts))) if not parts[i].isdigit())
    return ".".join(parts[first:])


def add_adapter(
    denoiser: Denoiser, rank: int, alpha: float, targets: tuple[str, ...], generator: torch.Generator
) -> None:
    """Freezes the denoiser and adds adapters, which change nothing at first and are all that learns then.

    Args:
        denoiser: changed in place.
        rank: r of the added product B·A.
        alpha: what is added is B·A times alpha / r.
        targets: last parts of the names of linear layers; none takes those of all blocks.
        generator: draws A; B is 0.

    Raises:
        UsageError: no peft, a denoiser that cannot be trained, or no linear layers of these names.
    """
    peft, network = _peft(), denoiser.module
    known = linear_layers(network)
    chosen = list(targets) or known
    if missing := [name for name in chosen if name not in known]:
        raise UsageError(
            f"denoiser {denoiser.name!r} has no linear layers named {missing[0]!r} within its blocks; it has "
            f"{', '.join(known) or 'none'}"
        )
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws, too, from torch's own generator
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, lora_dropout=0.0, bias="none")
        peft.inject_adapter_in_model(config, network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_A" in name:
                bound = weight.shape[1] ** -0.5
                drawn = torch.rand(weight.shape, generator=generator) * 2 * bound - bound
                weight.copy_(drawn.to(weight))


def adapter_weights(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    """The adapter's weights, by peft's names."""
    parts = denoiser.module.state_dict().items()
    return {
        PREFIX + name.replace(".default.", "."): value.detach().cpu().contiguous()
        for name, value in parts
        if ".lora_A." in name or ".lora_B." in name
    }


def save_adapter(denoiser: Denoiser, base: str, rank: int, alpha: float, folder: Path) -> None:
    """Writes the adapter in peft's format.

    Args:
        denoiser: with an adapter.
        base: text for ``load_denoiser``: what it is an adapter of.
        rank, alpha: as given to ``add_adapter``.
        folder: where to.
    """
    state = adapter_weights(denoiser)
    targets = sorted({_tail(name.split(".lora_")[0]) for name in state})
    about = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_together(folder, {WEIGHTS: save(state), CONFIG: (json.dumps(about, indent=1) + "\n").encode()})


def read_adapter(folder: Path) -> Mapping[str, Any]:
    """What ``adapter_config.json`` says.

    Raises:
        UsageError: it lacks something, or is no LoRA adapter.
    """
    about = read_table(folder / CONFIG)
    if about.get("peft_type") != "LORA":
        raise UsageError(f"{folder / CONFIG}: only adapters of the type LORA can be read")
    for name, kind in (("base_model_name_or_path", str), ("r", int), ("lora_alpha", (int, float))):
        if isinstance(about.get(name), bool) or not isinstance(about.get(name), kind):
            raise UsageError(f"{folder / CONFIG}: {name} is missing or of another kind")
    if not 1 <= about["r"] <= MOST or not 0 < about["lora_alpha"] < math.inf:
        raise UsageError(f"{folder / CONFIG}: r has to be from 1 to {MOST:,}, and lora_alpha above 0")
    if not isinstance(about.get("target_modules"), list) or not is_file(folder / WEIGHTS):
        raise UsageError(f"{folder}: target_modules or {WEIGHTS} is missing")
    return about


def rename_base(folder: Path, rename: Callable[[str], str]) -> None:
    """Changes what the adapter in a folder says that it is of."""
    about = dict(read_adapter(folder))
    about["base_model_name_or_path"] = rename(about["base_model_name_or_path"])
    write_atomically(folder / CONFIG, (json.dumps(about, indent=1) + "\n").encode())


def apply_adapter(denoiser: Denoiser, folder: Path, about: Mapping[str, Any]) -> None:
    """Adds the adapter in a folder to the denoiser that it is of, and merges it into its weights.

    Raises:
        UsageError: weights that are damaged or do not fit.
    """
    targets = tuple(str(name) for name in about["target_modules"])
    add_adapter(denoiser, int(about["r"]), float(about["lora_alpha"]), targets, torch.Generator())
    state, _ = read_safetensors(folder / WEIGHTS)
    mine = {PREFIX + n.replace(".default.", "."): p for n, p in denoiser.module.named_parameters() if ".lora_" in n}
    check_weights(state, mine, WEIGHTS)
    with torch.no_grad():
        for name, weight in mine.items():
            weight.copy_(state[name])
    _merge(denoiser.module)
    denoiser.module.requires_grad_(False)


def _merge(network: nn.Module) -> None:
    """Puts plain layers, whose weights have the adapters' in them, in the adapters' places."""
    from peft.tuners.lora import LoraLayer

    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()
                setattr(part, name, child.base_layer)
    if hasattr(network, "peft_config"):  # where peft remembers what it has added
        del network.peft_config

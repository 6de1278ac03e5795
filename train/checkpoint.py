"""What a checkpoint holds, checked against networks and optimizers before any of them is changed.

A file that was written by this version has a digest of all its tensors and of what is said beside them. Whatever
was changed on the way is noticed by it; the other checks are for files of older versions and of other runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dllm_env.errors import UsageError
from dllm_env.reading import as_table, parse_json, shown
from dllm_env.train.sharded import divided_as
from dllm_env.weights import DIGESTS, check_tensor, check_weights, digest_of_tensors, read_safetensors

Parts = Mapping[str, nn.Module | Optimizer]


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as tensors: ``0.exp_avg`` is that of parameter 0."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def read_checkpoint(path: Path, parts: Parts, steps: float, last: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint's file holds.

    Args:
        path: the file.
        parts: networks and optimizers that it is for, by name.
        steps: how many an optimizer takes in an update at most.
        last: the run's last update.

    Returns:
        What each part's ``load_state_dict`` takes, by name; and the info.

    Raises:
        UsageError: it is damaged, or of other parts.
    """
    tensors, about = read_safetensors(path)
    if "info" not in about:
        raise UsageError("it is no checkpoint of a training run")
    info = as_table(parse_json(about["info"], "its info", infinities=True), "its info")
    known = info.pop(DIGESTS, None)
    if known is not None and known != digest_of_tensors(tensors, json.dumps(info)):
        raise UsageError("it is damaged: its digest is not that of what it holds; take a copy of it, or start anew")
    update = info.get("update")
    if isinstance(update, bool) or not isinstance(update, int) or not 0 <= update <= last:
        raise UsageError(f"its update has to be a whole number from 0 to {last:g}, got {shown(update)}")
    state: dict[str, Any] = {}
    for name in tensors:
        if name.partition(".")[0] not in parts:
            raise UsageError(f"there is no place for its tensor {shown(name)}")
    for name, part in parts.items():
        values = {key[len(name) + 1 :]: v for key, v in tensors.items() if key.startswith(name + ".")}
        if isinstance(part, nn.Module):
            check_weights(values, part.state_dict(), name)
            state[name] = values
        else:
            state[name] = _optimizer_state(part, values, name, update * steps, known is not None)
    return state, info


def state_as(part: nn.Module | Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """What ``load_state_dict`` takes of a part of which each process has a share; of others what is given.

    Args:
        part: network or optimizer.
        state: whole, as ``read_checkpoint`` gives it.
    """
    if isinstance(part, nn.Module):
        return {name: divided_as(state[name], value) for name, value in part.state_dict().items()}
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    entries = {
        i: {key: divided_as(value, parameters[i]) for key, value in entry.items()}
        for i, entry in state["state"].items()
    }
    return {**state, "state": entries}


def _optimizer_state(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], about: str, most: float, whole: bool
) -> dict[str, Any]:
    """What an optimizer's ``load_state_dict`` takes.

    Args:
        optimizer: whose.
        tensors: as ``optimizer_tensors`` gives them.
        about: its name, for messages.
        most: steps that it has taken at most.
        whole: whether it is known that nothing is missing; else all parameters have to have a state, or none.

    Raises:
        UsageError: a state that is not that of these parameters, or missing.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if not (index.isascii() and index.isdigit() and len(index) < 8 and int(index) < len(parameters)):
            raise UsageError(f"the {about} has no parameter {shown(index)}, only {len(parameters)} of them")
        _check_entry(value, parameters[int(index)], key, f"{about}: {name}", most)
        state.setdefault(int(index), {})[key] = value
    kinds = {tuple(sorted(entry)) for entry in state.values()}
    wanted = _keys(optimizer)
    if len(kinds) > 1 or (wanted is not None and kinds and kinds != {wanted}):
        raise UsageError(f"the {about}'s state is not whole: its parameters have {_said(kinds)}")
    if state and not whole and len(state) < len(parameters):
        raise UsageError(f"the {about}'s state is not whole: {len(state)} of {len(parameters)} parameters have one")
    if len({float(entry["step"]) for entry in state.values() if "step" in entry}) > 1:
        raise UsageError(f"the {about}'s parameters have taken different numbers of steps")
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def _said(kinds: set[tuple[str, ...]]) -> str:
    return " or ".join(", ".join(keys) for keys in sorted(kinds))


def _keys(optimizer: Optimizer) -> tuple[str, ...] | None:
    """What a parameter's state has, where that is known."""
    adam = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
    return ("exp_avg", "exp_avg_sq", "step") if adam else getattr(optimizer, "state_keys", None)


def _check_entry(value: Tensor, parameter: Tensor, key: str, about: str, most: float) -> None:
    """A parameter's state has its shape, but for the number of its steps."""
    if key != "step":
        check_tensor(value, parameter, about)
        return
    if value.dtype != torch.float32 or value.numel() != 1 or not math.isfinite(value.item()) or value.item() % 1:
        raise UsageError(f"{about} has to be a whole number in float32, got {shown(value.tolist())}")
    if value.item() < 1:
        raise UsageError(f"{about} is {value.item():.0f}, but a state comes with the first step")
    if value.item() > most:
        raise UsageError(f"{about} is {value.item():,.0f}, more than the {most:,.0f} steps of so many updates")

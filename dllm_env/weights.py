"""Weights in safetensors files: read, compared with what they are for, and told from damaged ones by a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.reading import is_file, name_of, reason, shown

DIGESTS = "sha256"
"""The entry of a checkpoint's JSON with the digests of its other files: name → SHA-256 in hexadecimal."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and the texts that stand beside them.

    Raises:
        UsageError: no such file, or one that is damaged.
    """
    if not is_file(path):
        raise UsageError(f"cannot read {name_of(path)}: it is missing, or no regular file")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, dict(about)  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"cannot read {name_of(path)}: {reason(error)}") from None


SHAPES = "shapes"
"""The text beside the tensors of a packed file: the names of its weights, and their shapes, as JSON."""
PLANES = 4
"""Bytes of a float32."""


def pack(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """float32 weights as four tensors, all first bytes of their numbers, all second ones, …, and a text beside.

    The exponents of weights have much in common. Side by side an archive finds that, and gets smaller by a tenth.
    """
    numbers = torch.cat([value.detach().cpu().float().reshape(-1) for value in weights.values()])
    planes = numbers.view(torch.uint8).view(-1, PLANES).T.contiguous()
    shapes = {name: list(value.shape) for name, value in weights.items()}
    return {f"byte_{i}": plane for i, plane in enumerate(planes.unbind())}, {SHAPES: json.dumps(shapes)}


def unpack(planes: Mapping[str, Tensor], beside: Mapping[str, str]) -> dict[str, Tensor]:
    """What ``pack`` was given, bit for bit.

    Raises:
        UsageError: the file is not what ``pack`` makes.
    """
    try:
        shapes = {str(name): torch.Size(shape) for name, shape in json.loads(beside[SHAPES]).items()}
        together = torch.stack([planes[f"byte_{i}"] for i in range(PLANES)], 1)
        if together.dtype != torch.uint8:
            raise ValueError("what should be bytes is of another type")
        numbers = together.view(torch.float32)[:, 0]
        parts = numbers.split([shape.numel() for shape in shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise UsageError(f"the packed weights are damaged: {reason(error)}") from None


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compares weights with those of a module, which are to be replaced by them.

    Args:
        found: by name.
        expected: the module's ``state_dict()``.
        where: which file, for messages.

    Raises:
        UsageError: a weight is missing, too many, of another shape or type, or holds NaN or infinity.
    """
    for name in expected:
        if name not in found:
            raise UsageError(f"{where}: the weight {shown(name)} is missing")
    for name, value in found.items():
        if name not in expected:
            raise UsageError(f"{where}: there is no weight {shown(name)} in such a network")
        check_tensor(value, expected[name], f"{where}: the weight {name}")


def check_tensor(value: Tensor, like: Tensor, about: str) -> None:
    """Compares a tensor with one that it has to be like.

    Raises:
        UsageError: another shape or type, or NaN or infinity in it.
    """
    if value.shape != like.shape:
        raise UsageError(f"{about} has the shape {tuple(value.shape)}, not {tuple(like.shape)}")
    if value.dtype != like.dtype:
        raise UsageError(f"{about} is {_kind(value)}, not {_kind(like)}; convert it")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise UsageError(f"{about} holds NaN or infinity")


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


# --------------------------------------------------------------------------------------------------- digests


def digest_of_bytes(data: bytes) -> str:
    """SHA-256 of what a file holds, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 of tensors with their names and of a text beside them, in hexadecimal."""
    total = hashlib.sha256(about.encode())
    for name, value in sorted(tensors.items()):
        total.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def fits(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether the files of a folder are those that its JSON was written with; those of older versions say nothing.

    Raises:
        UsageError: the entry of digests is none.
    """
    digests = about.get(DIGESTS, {})
    if not isinstance(digests, dict) or not all(isinstance(value, str) for value in digests.values()):
        raise UsageError(f"{DIGESTS} has to be a table of file names and digests, got {shown(digests)}")
    return all(_is_as(folder, name, digest) for name, digest in digests.items())


def _is_as(folder: Path, name: str, digest: str) -> bool:
    file = folder / name
    return Path(name).name == name and is_file(file) and digest_of_file(file) == digest


def not_fitting(folder: Path, config: str, file: str) -> UsageError:
    """The error about weights that are not those that the JSON beside them was written with."""
    return UsageError(
        f"{name_of(folder / file)} is not the file that {config} was written with: it is damaged, or was replaced; "
        f"copy both anew, or remove {DIGESTS!r} from {config} if you replaced it on purpose"
    )

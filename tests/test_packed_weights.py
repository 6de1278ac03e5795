"""Weights whose bytes are sorted: what comes out is what went in, bit for bit, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dllm_env.denoisers.load import ASSETS, bundled_denoisers
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.errors import UsageError
from dllm_env.weights import DIGESTS, SHAPES, pack, read_safetensors, unpack

WEIGHTS = {
    "a": torch.tensor([[1.0, -0.0], [torch.inf, 1e-45], [3.4e38, torch.pi]]),
    "b": torch.tensor(7.0),
    "none": torch.zeros(0, 3),
    "c": torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0)).transpose(0, 2),
}


def test_packed_and_unpacked(tmp_path: Path) -> None:
    packed, texts = pack(WEIGHTS)
    save_file(packed, tmp_path / "x.safetensors", texts)
    planes, beside = read_safetensors(tmp_path / "x.safetensors")
    found = unpack(planes, beside)
    assert list(found) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert found[name].shape == value.shape
        assert torch.equal(found[name].view(torch.int32), value.contiguous().view(torch.int32))


def test_bytes_are_sorted() -> None:
    planes, _ = pack({"x": torch.tensor([1.0, 2.0])})
    assert {name: value.tolist() for name, value in planes.items()} == {
        "byte_0": [0, 0],
        "byte_1": [0, 0],
        "byte_2": [0x80, 0],
        "byte_3": [0x3F, 0x40],
    }


@pytest.mark.parametrize(
    ("planes", "shapes"),
    [
        ({"byte_3": None}, {}),
        ({"byte_3": torch.zeros(1, dtype=torch.uint8)}, {}),
        ({f"byte_{i}": torch.zeros(2) for i in range(4)}, {}),
        ({}, {"x": [3]}),
        ({}, {"x": [-2]}),
        ({}, {"x": "two"}),
        ({}, []),
        ({}, None),
    ],
)
def test_damaged_files_are_refused(planes: dict[str, Any], shapes: Any) -> None:
    made, beside = pack({"x": torch.tensor([1.0, 2.0])})
    made = {name: value for name, value in {**made, **planes}.items() if value is not None}
    beside = beside if shapes == {} else {SHAPES: json.dumps(shapes)}
    with pytest.raises(UsageError, match="packed weights are damaged"):
        unpack(made, beside)


@pytest.mark.parametrize("name", bundled_denoisers())
def test_a_packed_denoiser_is_the_plain_one(name: str, tmp_path: Path) -> None:
    bundled = TinyDenoiser.load(ASSETS / name, name)
    bundled.save(tmp_path / "plain")
    bundled.save(tmp_path / "packed", packed=True)
    packed, shipped = tmp_path / "packed" / "model.safetensors", ASSETS / name / "model.safetensors"
    assert packed.read_bytes() == shipped.read_bytes()
    plain = TinyDenoiser.load(tmp_path / "plain", name)
    assert plain.fingerprint() == bundled.fingerprint()
    about = [json.loads((tmp_path / kind / "config.json").read_text()) for kind in ("plain", "packed")]
    assert about[0].pop(DIGESTS) != about[1].pop(DIGESTS)
    assert about[0] == about[1]

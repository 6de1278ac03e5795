"""SEDD in its published format, against an independent computation, and as a denoiser like any other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import sedd_log_scores
from make_checkpoint import make_sedd
from safetensors.torch import load_file, save_file

from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.sedd import SEDDDenoiser
from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.train.dcolt import DCoLT, train_dcolt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sedd(tmp_path_factory.mktemp("sedd") / "small")


@pytest.fixture(scope="module")
def denoiser(folder: Path) -> SEDDDenoiser:
    made = load_denoiser(folder)
    assert isinstance(made, SEDDDenoiser)
    return made


def partly(denoiser: SEDDDenoiser, masks: int, length: int = 8) -> torch.Tensor:
    """(1, 4 + length) tokens, the first of the response masked."""
    tokens = torch.randint(0, denoiser.mask_id, (1, 4 + length), generator=torch_generator("tokens", masks))
    tokens[0, 4 : 4 + masks] = denoiser.mask_id
    return tokens


@pytest.mark.parametrize("masks", [1, 3, 8])
def test_predictions_are_the_normalised_scores(folder: Path, denoiser: SEDDDenoiser, masks: int) -> None:
    """At σ = −log(1 − 0.999 · share): scores over their sum, whatever the factor of time is."""
    tokens = partly(denoiser, masks)
    sigma = -math.log(1 - 0.999 * masks / 8)
    assert denoiser.sigma(tokens, 8).item() == pytest.approx(sigma, rel=1e-4)
    scores = sedd_log_scores(folder, tokens[0], sigma).exp()[4:]
    expected = scores[:, :-1] / scores[:, :-1].sum(-1, keepdim=True)
    with torch.no_grad():
        logits = denoiser.head(denoiser.features(tokens, 8)[0])[:, :-1]
    found = logits.softmax(-1)[:masks]
    assert torch.allclose(found, expected[:masks], atol=1e-5)
    assert torch.allclose(found.log(), expected[:masks].log(), atol=1e-3)
    needed = torch.zeros(1, 8, dtype=torch.bool)
    needed[0, :masks] = True
    prediction = denoiser.predict(tokens, needed)
    assert prediction.token[0, :masks].tolist() == expected[:masks].argmax(-1).tolist()
    assert torch.allclose(prediction.confidence[0, :masks, 0], expected[:masks].max(-1).values, atol=1e-5)


def test_padding_and_neighbours_change_nothing(denoiser: SEDDDenoiser) -> None:
    tokens = torch.cat([partly(denoiser, masks) for masks in (2, 5, 8)])
    with torch.no_grad():
        together = denoiser.features(tokens, 8)
        for row in range(3):
            assert torch.equal(denoiser.features(tokens[row : row + 1], 8)[0], together[row])
        padded = torch.cat((torch.full((3, 6), denoiser.pad_id), tokens), 1)
        assert torch.allclose(denoiser.features(padded, 8), together, atol=1e-4)


def test_the_time_follows_from_the_row_s_own_masks(denoiser: SEDDDenoiser) -> None:
    tokens = torch.cat([partly(denoiser, masks) for masks in (1, 8)])
    first, last = denoiser.sigma(tokens, 8).tolist()
    assert first < 0.2
    assert last == pytest.approx(-math.log(1e-3), rel=1e-3)
    assert denoiser.sigma(tokens, 12).tolist()[1] < last  # a prompt of four tokens counted in


def test_it_is_unmasked_like_any_other(denoiser: SEDDDenoiser) -> None:
    prompts = [denoiser.encode("a 6 b +2"), denoiser.encode("a 1")]
    played = rollout(denoiser, load_heuristic("top_k:2"), Rules(response_length=8), prompts, [1, 2])
    assert played.nfe.tolist() == [4, 4]
    assert (played.responses < denoiser.mask_id).all()
    assert denoiser.decode(denoiser.encode("a 6 b +2")) == "a 6 b +2"
    assert denoiser.text([*denoiser.encode("a"), denoiser.eot_id, denoiser.mask_id]) == "a"
    assert "<mask>" in denoiser.decode([denoiser.mask_id])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_dcolt_trains_it_and_it_is_read_again(folder: Path, tmp_path: Path, kind: str) -> None:
    settings = DCoLT().changed(
        denoiser=str(folder),
        response_length=8,
        updates=1,
        prompts=2,
        num_generations=4,
        width=8,
        warmup=1,
        validation_problems=2,
        validation_rules=(),
        reward=(lengths,),
        train_denoiser=kind,
        denoiser_learning_rate=0.05,
    )
    train_dcolt(settings, tmp_path / "run")
    plain, tuned = load_denoiser(folder), load_denoiser(tmp_path / "run")
    assert isinstance(tuned, SEDDDenoiser)
    tokens = partly(tuned, 4)
    with torch.no_grad():
        assert not torch.allclose(plain.features(tokens, 8), tuned.features(tokens, 8), atol=1e-4)
    assert tuned.encode("a 6") == plain.encode("a 6")


def lengths(text: list[str], **_: object) -> list[float]:
    """Longer is better."""
    return [float(len(one)) for one in text]


def _about(**parts: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        for part, value in parts.items():
            about[part] = {**about[part], **value} if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(about))

    return change


def _weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["blocks.0.norm1.weight"]
    save_file(weights, folder / "model.safetensors")


def write(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "uniform graph": (_about(graph={"type": "uniform"}), "only a SEDD of the graph 'absorb' .* is 'uniform'"),
    "other noise": (_about(noise={"type": "geometric"}), "of the noise 'loglinear'"),
    "no noise": (_about(noise=3), "of the noise 'loglinear'"),
    "no tokens": (_about(tokens=None), "tokens has to be a whole number from 1 to"),
    "too many blocks": (_about(model={"n_blocks": 10**9}), "n_blocks has to be a whole number from 1 to 1,024"),
    "odd heads": (_about(model={"n_heads": 3}), "has to be an even multiple of heads"),
    "another width": (_about(model={"hidden_size": 64}), "the weight"),
    "a weight too few": (_weight, "the weight 'blocks.0.norm1.weight' is missing"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "no tokenizer that can be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoints_are_one_line(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    place = make_sedd(tmp_path / "x")
    damage(place)
    with pytest.raises(UsageError, match=message):
        load_denoiser(place)


def test_one_on_the_hub_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, "model.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_denoiser("louaaron/sedd-small").name == "louaaron/sedd-small"
    assert asked == [("louaaron/sedd-small", False), ("louaaron/sedd-small", True)]

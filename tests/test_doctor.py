"""``dllm-env doctor``: what it says of machines that lack something."""

from __future__ import annotations

import collections
import shutil
import urllib.request
from importlib import metadata
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from dllm_env.cli import main
from dllm_env.commands import doctor
from dllm_env.denoisers.base import Denoiser
from dllm_env.errors import UsageError
from dllm_env.grading import sandbox


def test_a_machine_that_has_everything_but_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "extra hf", "extra eval", "extra lora", "extra report", "HF_HUB_OFFLINE", "rightly"):
        assert word in said
    assert "broken" not in said
    assert main(["doctor", "--fast"]) == 2


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda name: ["torch>=1", "numpy>=999", "nowhere>=1; extra == 'hf'", "rich>=1; extra == 'report'"],
    )
    always = doctor._requirements("")
    assert (always.state, always.advice) == ("broken", "pip install 'dllm-env'")
    assert f"numpy {metadata.version('numpy')}" in always.found
    missing = doctor._requirements("hf")
    assert (missing.state, missing.advice) == ("missing", "pip install 'dllm-env[hf]'")
    assert "nowhere" in missing.found
    assert "LLaDA" in missing.found
    there = doctor._requirements("report")
    assert there.state == "ok"
    assert there.found.startswith("rich ")


def test_what_to_install_is_said_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In square brackets, which rich would take for markup."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(metadata, "requires", lambda name: ["nowhere>=1; extra == 'lora'"])
    assert main(["doctor"]) == 0
    assert "pip install 'dllm-env[lora]'" in capsys.readouterr().out


def test_what_is_broken_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(1, 1, 2**20))
    assert main(["doctor"]) == 1
    assert "make room" in capsys.readouterr().out


def test_a_bundled_model_that_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Denoiser:
        raise UsageError("cannot load the denoiser")

    monkeypatch.setattr("dllm_env.eval.show.load_denoiser", fail)
    found = doctor._bundled()
    assert (found.state, found.found) == ("broken", "cannot load the denoiser")


@pytest.mark.parametrize(("works", "state"), [(True, "missing"), (False, "missing")])
def test_no_sandbox(monkeypatch: pytest.MonkeyPatch, works: bool, state: str) -> None:
    def find() -> sandbox.Sandbox:
        if not works:
            raise UsageError("generated programs cannot be run on this machine")
        return sandbox.Bare()

    monkeypatch.setattr(sandbox, "find_sandbox", find)
    found = doctor._sandbox()
    assert found.state == state
    assert ("bubblewrap" in found.advice) == works


def test_the_hub_that_does_not_answer_or_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert doctor._hub().state == "missing"
    assert "no route to host" in doctor._hub().found

    def answer(*_: Any, **__: Any) -> Any:
        raise urllib.error.HTTPError("", 405, "", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert doctor._hub().state == "ok"


def test_a_torch_for_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = doctor._torch()
    assert found.state == "missing"
    assert "nvidia-smi" in found.advice

"""Look-ups on the Hub where it does not answer."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest
from huggingface_hub import constants

from dllm_env import hub
from dllm_env.errors import UsageError


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_asked", {})


def answers(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    asked = [0]

    def urlopen(*_: Any, **__: Any) -> Any:
        asked[0] += 1
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def fail(expected: bool) -> None:
    """As what is looked up in vain does."""
    with hub.looked_up():
        assert expected == constants.HF_HUB_OFFLINE
        raise UsageError("no denoiser 'a/b'.")


def test_without_the_hub_nothing_is_tried_and_errors_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, urllib.error.URLError(OSError("no route")))
    with pytest.raises(UsageError, match=r"^no denoiser 'a/b'; https://.* does not answer: no route$"):
        fail(True)
    assert not constants.HF_HUB_OFFLINE
    with hub.looked_up():  # what was downloaded before is found
        pass
    assert asked == [1]  # its silence is remembered for a while


@pytest.mark.parametrize(
    "error",
    [urllib.error.HTTPError("", 403, "", None, None), urllib.error.URLError(ssl.SSLError("certificate"))],  # type: ignore[arg-type]
)
def test_an_answer_or_a_certificate_changes_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answers(monkeypatch, error)
    with pytest.raises(UsageError, match=r"^no denoiser 'a/b'.$"):
        fail(False)


def test_who_is_offline_on_purpose_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, OSError("no route"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub.looked_up():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE
    assert asked == [0]

"""No way to pass without solving passes, in any sandbox; ``campaigns/fake_success.py`` runs all."""

from __future__ import annotations

import pytest
from fakes import CHANGED, FAKES, PROBLEMS, RIGHT, SLOW, play, sandboxes

from dllm_env.grading.sandbox import Sandbox

SANDBOXES = sandboxes()


@pytest.fixture(params=SANDBOXES, ids=lambda sandbox: sandbox.name)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name in FAKES if name not in SLOW])
def test_a_fake_fails(name: str, sandbox: Sandbox) -> None:
    """What changes functions is tried on the tests that use some."""
    verdict = play("humaneval" if name in CHANGED else "mbpp", FAKES[name], sandbox)
    assert not verdict.passed, verdict


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_what_is_right_passes(kind: str, name: str, sandbox: Sandbox) -> None:
    verdict = play(kind, RIGHT[name], sandbox)
    assert verdict.passed, verdict
    assert ("hello" in verdict.output) == ("words" in name)


def test_there_are_many_ways() -> None:
    assert len(FAKES) >= 90
    assert set(FAKES) >= SLOW

"""The process at its edges: what it asks the denoiser, rows that come and go, beginnings, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from conftest import Scripted
from test_dynamics_row_by_row import LENGTH, PROMPTS, confidence, table
from torch import Tensor

from dllm_env.denoisers.base import NO_EXTRAS, Extras, Prediction, PrefixCache
from dllm_env.dynamics import Dynamics, Observation
from dllm_env.errors import UsageError
from dllm_env.rules import Rules, View

# ------------------------------------------------------------------------------- what the denoiser is asked


class Asked(Scripted):
    """Writes down what it is asked to predict."""

    caches_prefix = True

    def predict(self, *arguments: Any, **named: Any) -> Prediction:
        names = ("tokens", "needed", "top", "temperature", "random", "extras", "noise")
        self.asked = {**dict(zip(names, arguments, strict=False)), **named}
        return super().predict(*arguments, **named)

    def cached_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        return self.features(tokens, last)

    def shadow_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        return self.features(tokens, last), self.features(tokens, last)


@pytest.mark.parametrize("context", ["full", "block"])
def test_a_prediction_is_asked_for_as_the_rules_say(context: Any) -> None:
    denoiser, extras = Asked(table(), 2), Extras(entropy=True, margin=True)
    rules = Rules(LENGTH, 3, temperature=0.5, noise="float32", prefix_cache=True)
    dynamics = Dynamics(denoiser, rules, 2, View(context, 2, extras))
    state = dynamics.reset([[5], [4]], [0, 1])
    dynamics.predict(state)
    dynamics.apply(state, torch.ones(2, dynamics.width, dtype=torch.bool))  # the first block of each
    state.masked[1, :2] = True  # the second goes on in its first block
    dynamics.predict(state)
    asked = denoiser.asked
    assert (asked["top"], asked["temperature"], asked["noise"], asked["extras"]) == (2, 0.5, "float32", extras)
    assert asked["random"] is state.random
    assert asked["prefix"] is state.prefix
    assert state.prefix is not None
    assert state.prefix.start.tolist() == [5, 2]
    everything = [[False] * 3 + [True] * 3, [True] * 2 + [False] + [True] * 3]
    active = [[False] * 3 + [True] * 3, [True] * 2 + [False] * 4]
    assert asked["needed"].tolist() == (everything if context == "full" else active)
    assert asked["judged"] is None


@pytest.mark.parametrize("context", ["full", "block"])
def test_written_tokens_of_the_active_block_are_judged(context: Any) -> None:
    denoiser, view = Asked(table()), View(context, extras=Extras(support=True))
    dynamics = Dynamics(denoiser, Rules(LENGTH, 3, allow_remask=True), 0, view)
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    dynamics.apply(state, torch.arange(dynamics.width)[None] < 3)
    dynamics.predict(state)
    column = torch.arange(dynamics.width)[None] == (4 if context == "full" else 1)
    dynamics.apply(state, column)
    dynamics.predict(state)
    assert denoiser.asked["judged"].tolist() == [[False] * 4 + [True, False]]
    support = dynamics.observe(state).support
    assert support is not None
    assert support[column].item() == pytest.approx(confidence(4))
    assert not support[~column].any()


def test_every_feature_reaches_the_observation() -> None:
    names = ("entropy", "margin", "hidden", "log_probability", "support")
    dynamics = Dynamics(Asked(table()), Rules(LENGTH, 3), 0, View(extras=Extras(*[True] * 5)))
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    seen = dynamics.observe(state)
    for name in ("confidence", *names):
        assert getattr(seen, name) is getattr(state.prediction, name) is not None, name


def test_only_rows_that_changed_are_asked_for_again() -> None:
    denoiser = Asked(table())
    dynamics = Dynamics(denoiser, Rules(LENGTH, 6), 0)
    state = dynamics.reset([[]] * 3, [0, 1, 2])
    dynamics.predict(state)
    before = state.prediction.confidence.clone()
    dynamics.apply(state, torch.tensor([[False] * 6, [True] + [False] * 5, [False] * 6]))
    dynamics.predict(state)
    dynamics.predict(state)
    assert denoiser.rows_per_call == [3, 1]
    assert torch.equal(state.prediction.confidence[[0, 2]], before[[0, 2]])
    assert state.prediction.confidence[1, 0].item() == 0


def test_a_row_that_changed_stays_stale_until_it_is_predicted() -> None:
    dynamics = Dynamics(Scripted(table()), Rules(LENGTH, 6, allow_remask=True), 0)
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    first, nothing = torch.arange(LENGTH)[None] < 1, torch.zeros(1, LENGTH, dtype=torch.bool)
    for changes in ((first, None), (nothing, first)):
        dynamics.apply(state, *changes)
        for _ in range(2):
            dynamics.apply(state, nothing, nothing)
            assert state.stale.tolist() == [True]
        dynamics.predict(state)
        dynamics.apply(state, nothing, nothing)
        assert state.stale.tolist() == [False]


# ------------------------------------------------------------------------------------ rows in and out


def full_observation(rows: int, start: int) -> Observation:
    """Every feature there is, each number another one."""
    numbers = iter(range(start, 10_000))

    def values(*shape: int) -> Tensor:
        return torch.tensor([next(numbers) for _ in range(math.prod(shape))]).view(shape)

    names = [column.name for column in fields(Observation) if column.name != "memory"]
    return Observation(**{name: values(rows, 2) for name in names}, memory={"seen": values(rows)})  # type: ignore[arg-type]


def test_rows_of_an_observation() -> None:
    whole = full_observation(3, 1)
    part, rows = whole[torch.tensor([2, 0])], torch.tensor([2, 0])
    assert (len(whole), len(part)) == (3, 2)
    for column in fields(Observation):
        if column.name == "memory":
            assert part.memory.keys() == {"seen"}
            assert torch.equal(part.memory["seen"], whole.memory["seen"][rows])
        else:
            assert torch.equal(getattr(part, column.name), getattr(whole, column.name)[rows]), column.name
    part.masked.zero_()
    part.memory["seen"].zero_()
    assert whole.masked.all(), "the part has to be a copy"
    assert whole.memory["seen"].all()


def test_observations_end_to_end() -> None:
    first, second = full_observation(2, 1), full_observation(3, 500)
    joined = Observation.concatenate([first, second])
    for column in fields(Observation):
        if column.name != "memory":
            parts = getattr(first, column.name), getattr(second, column.name)
            assert torch.equal(getattr(joined, column.name), torch.cat(parts)), column.name
    assert joined.memory == {}
    first.hidden = second.hidden = None
    assert Observation.concatenate([first, second]).hidden is None
    assert Observation.concatenate([first])[torch.tensor([1])].entropy is not None


def test_a_prefix_cache_goes_with_its_row() -> None:
    dynamics = Dynamics(Asked(table()), Rules(LENGTH, 2, prefix_cache=True), 0)
    state = dynamics.reset([[]] * 3, [0, 1, 2])
    assert state.prefix is not None
    state.prefix.kept = torch.tensor([4, 5, 6])
    part = state[torch.tensor([2, 1])]
    assert part.prefix is not None
    assert part.prefix.kept.tolist() == [6, 5]
    part.prefix.kept += 10
    assert state.prefix.kept.tolist() == [4, 5, 6]
    state.write(torch.tensor([0, 1]), part)
    assert state.prefix.kept.tolist() == [16, 15, 6]
    assert Dynamics(Asked(table()), Rules(LENGTH, 2), 0).reset([[]], [0]).prefix is None


# ------------------------------------------------------------------------------------------- beginnings


@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize("extra", [None, "entropy", "margin", "hidden", "log_probability", "support"])
def test_a_row_begins_with_nothing_predicted(context: Any, extra: str | None) -> None:
    extras = Extras(**{extra: True}) if extra else NO_EXTRAS
    denoiser = Asked(table(), 2)
    dynamics = Dynamics(denoiser, Rules(LENGTH, 2), 2, View(context, 3, extras))
    state = dynamics.reset([[5], [4]], [0, 1])
    width, last = dynamics.width, {"hidden": denoiser.hidden_size, "log_probability": denoiser.vocabulary}
    expected = {"token": (2, width), "confidence": (2, width, 3)}
    if extra:
        expected[extra] = (2, width, last[extra]) if extra in last else (2, width)
    for column in fields(Prediction):
        value = getattr(state.prediction, column.name)
        assert (value is not None) == (column.name in expected), column.name
        if value is not None:
            assert value.shape == expected[column.name]
            assert value.dtype == (torch.int64 if column.name == "token" else torch.float32)
            assert not value.any()
    for name in ("tokens", "step", "nfe", "revealed_at", "remasks", "ignored"):
        assert getattr(state, name).dtype == torch.int64, name
    assert len(state) == 2
    drawn = [dynamics.reset([[5]], [seed]).random.keys.item() for seed in (0, 1)]
    assert state.random.keys.tolist() == drawn
    assert drawn[0] != drawn[1]


def test_a_process_stays_on_the_device_of_its_denoiser() -> None:
    """A device that holds no numbers refuses tensors of another one."""
    denoiser = Asked(table(), 2)
    denoiser.device = torch.device("meta")
    extras = Extras(entropy=True, margin=True, hidden=True, log_probability=True)
    for context in ("full", "block"):
        rules = Rules(LENGTH, 2, prefix_cache=True, allow_remask=True)
        dynamics = Dynamics(denoiser, rules, 2, View(context, extras=extras))  # type: ignore[arg-type]
        state = dynamics.reset(PROMPTS, [0, 1, 2])
        seen = dynamics.observe(state)
        assert state.prefix is not None
        tensors = [
            value
            for part in (state, state.prediction, state.random, state.prefix, seen)
            for value in vars(part).values()
        ]
        assert {value.device.type for value in tensors if isinstance(value, Tensor)} == {"meta"}
        dynamics._stop_at_eot(state)
        assert {part.device.type for part in (dynamics.terminated(state), dynamics.truncated(state))} == {"meta"}


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"response_length": -1}, "response_length must be at least 1, or 0 for its default, got -1"),
        ({"block_length": -1}, "block_length must be at least 1, or 0 for its default, got -1"),
        ({"max_steps": -1}, "max_steps must be at least 1, or 0 for its default, got -1"),
        ({"remask_budget": -1}, "remask_budget must be at least 1, or 0 for its default, got -1"),
        ({"block_length": 4}, "block length 4 does not divide response length 6; use 1, 2, 3, 6"),
        ({"temperature": -0.1}, "temperature must be a finite number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a finite number, got nan"),
        ({"noise": "float16"}, "unknown noise 'float16'; choose float64 or float32"),
    ],
)
def test_a_refusal_says_what_is_wrong(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        Rules(**{"response_length": LENGTH, "block_length": 2, **rules})


def test_a_view_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^unknown context 'half'; choose full or block$"):
        View("half")  # type: ignore[arg-type]
    for top in (0, 1.5, True):
        with pytest.raises(UsageError, match=f"^top must be a whole number of at least 1, got {top}$"):
            View(top=top)  # type: ignore[arg-type]
    assert View("block", 1).context == "block"


def test_the_smallest_of_everything_works() -> None:
    rules = Rules(1, 1, 0.0, "float32", max_steps=0, remask_budget=0)
    assert (rules.step_limit, rules.remasks_allowed) == (1, 0)
    assert Rules(4, 4, remask_budget=1).step_limit == 4, "a budget without leave to remask is none"
    assert Rules(4, 2, allow_remask=True, remask_budget=1, max_steps=1).step_limit == 1
    assert Rules(4, 4, allow_remask=True, max_steps=9).remasks_allowed == 4


def test_rules_within_more_settings() -> None:
    @dataclass(frozen=True)
    class More(Rules):
        seed: int = 3

    more = More(6, 2, 0.5, stop_at_eot=True, prefix_cache=True)
    assert Rules.of(more) == Rules(6, 2, 0.5, stop_at_eot=True, prefix_cache=True)
    assert Rules.of(more, block_length=3, temperature=0.0) == Rules(6, 3, stop_at_eot=True, prefix_cache=True)
    assert type(Rules.of(more)) is Rules


def test_lengths_left_open_need_a_response_length() -> None:
    assert Rules(temperature=0.5, max_steps=3).resolve(1) == Rules(1, 1, 0.5, max_steps=3)
    assert Dynamics(Scripted(table()), Rules(LENGTH), 0).rules == Rules(LENGTH, LENGTH)
    with pytest.raises(UsageError, match=r"^the rules need a response length of at least 1$"):
        Dynamics(Scripted(table()), Rules(block_length=2), 0)


def test_what_a_denoiser_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^denoiser 'scripted' has no prefix cache$"):
        Dynamics(Scripted(table()), Rules(LENGTH, 2, prefix_cache=True), 0)
    both = Rules(LENGTH, 2, prefix_cache=True), 0, View(extras=Extras(support=True))
    with pytest.raises(UsageError, match=r"^a policy that judges .* does not work with the prefix cache$"):
        Dynamics(Asked(table()), *both)
    with pytest.raises(UsageError, match=r"^denoiser 'scripted' has no prefix cache$"):
        Dynamics(Scripted(table()), *both)
    with pytest.raises(
        UsageError, match=r"^prompt of 1 and response of 6 tokens exceed .* 'scripted' \(6\); shorten"
    ):
        Dynamics(Scripted(table()), Rules(LENGTH, 2), 1)


def test_actions_of_another_shape_are_refused() -> None:
    dynamics = Dynamics(Scripted(table()), Rules(LENGTH, 2, allow_remask=True), 0, View("block"))
    state = dynamics.reset([[]] * 2, [0, 1])
    dynamics.predict(state)
    good = torch.zeros(2, 2, dtype=torch.bool)
    for wrong in (good[:1], good[:, :1], torch.zeros(2, 6, dtype=torch.bool), good.int()):
        for action in ((wrong,), (good, wrong)):
            with pytest.raises(ValueError, match=r"^an action must be \(2, 2\) bool, got"):
                dynamics.apply(state, *action)
    dynamics.apply(state, good, good)


def test_remasking_without_leave_is_refused() -> None:
    dynamics = Dynamics(Scripted(table()), Rules(LENGTH, 2), 0)
    state, nothing = dynamics.reset([[]], [0]), torch.zeros(1, LENGTH, dtype=torch.bool)
    with pytest.raises(UsageError, match=r"^this policy puts tokens back to mask; set allow_remask$"):
        dynamics.apply(state, nothing, nothing)

"""The process against one that plays a single row with plain lists, over random actions and all kinds of rules."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
import torch
from conftest import END, MASK, PAD, Scripted, favouring
from torch import Tensor

from dllm_env.denoisers import NO_EXTRAS, Extras, Prediction, PrefixCache
from dllm_env.dynamics import Dynamics, Observation, Rules, State
from dllm_env.errors import UsageError

TOKENS = [3, END, 5, 3, 4, 5]
STRENGTHS = [1.0, 2.0, 3.0, 0.5, 4.0, 1.5]
LENGTH = len(TOKENS)
PROMPTS = [[5], [3, 4], []]


def table() -> Tensor:
    """Logits whose best token is ``TOKENS`` and whose confidence is another one at each position."""
    return torch.stack([favouring([t], strength=s)[0] for t, s in zip(TOKENS, STRENGTHS, strict=True)])


def confidence(position: int) -> float:
    """Of the token that is favoured, among five that may be written."""
    best = math.exp(STRENGTHS[position])
    return best / (best + 4)


@dataclass
class Row:
    """One row by the definition, position by position."""

    rules: Rules
    response: list[int] = field(default_factory=lambda: [MASK] * LENGTH)
    masked: list[bool] = field(default_factory=lambda: [True] * LENGTH)
    revealed_at: list[int] = field(default_factory=lambda: [-1] * LENGTH)
    sureness: list[float] = field(default_factory=lambda: [0.0] * LENGTH)
    step: int = 0
    nfe: int = 0
    remasks: int = 0
    ignored: int = 0
    stale: bool = True

    @property
    def block(self) -> range:
        first = self.masked.index(True) if any(self.masked) else 0
        while first % self.rules.block_length:
            first -= 1
        return range(first, first + self.rules.block_length)

    @property
    def window(self) -> range:
        return range(LENGTH) if self.rules.context == "full" else self.block

    @property
    def budget(self) -> int:
        return (self.rules.remask_budget or LENGTH) if self.rules.allow_remask else 0

    def selectable(self) -> list[bool]:
        return [self.masked[i] and i in self.block for i in range(LENGTH)]

    def remaskable(self) -> list[bool]:
        return [not self.masked[i] and i in self.block and self.remasks < self.budget for i in range(LENGTH)]

    def play(self, unmask: list[bool], remask: list[bool] | None) -> None:
        if self.stale:
            self.nfe, self.stale = self.nfe + 1, False
        selectable, remaskable, window = self.selectable(), self.remaskable(), self.window
        for place, i in enumerate(window):
            if remask is not None and remask[place]:
                if remaskable[i] and self.remasks < self.budget:
                    self.write(i, MASK, True, -1, 0.0)
                    self.remasks += 1
                else:
                    self.ignored += 1
        for place, i in enumerate(window):
            if unmask[place] and selectable[i]:
                self.write(i, TOKENS[i], False, self.step, confidence(i))
            elif unmask[place]:
                self.ignored += 1
        self.step += 1
        read = list(itertools.takewhile(lambda token: token not in (MASK, END), self.response))
        if self.rules.stop_at_eot and self.response[len(read) : len(read) + 1] == [END]:
            for i in range(LENGTH):
                if self.masked[i]:
                    self.response[i], self.masked[i] = END, False

    def write(self, i: int, token: int, masked: bool, revealed_at: int, sureness: float) -> None:
        self.response[i], self.masked[i], self.revealed_at[i] = token, masked, revealed_at
        self.sureness[i], self.stale = sureness, True


def assert_same(dynamics: Dynamics, state: State, rows: list[Row]) -> None:
    for name in ("masked", "revealed_at", "step", "nfe", "remasks", "ignored", "stale"):
        assert getattr(state, name).tolist() == [getattr(row, name) for row in rows], name
    torch.testing.assert_close(state.sureness, torch.tensor([row.sureness for row in rows]))
    assert dynamics.responses(state).tolist() == [row.response for row in rows]
    assert dynamics.block_start(state).tolist() == [row.block.start for row in rows]
    assert dynamics.selectable(state).tolist() == [row.selectable() for row in rows]
    assert dynamics.remaskable(state).tolist() == [row.remaskable() for row in rows]
    limit = dynamics.rules.max_steps or LENGTH + rows[0].budget
    assert dynamics.terminated(state).tolist() == [not any(row.masked) for row in rows]
    assert dynamics.truncated(state).tolist() == [row.step >= limit and any(row.masked) for row in rows]


def assert_seen(seen: Observation, rows: list[Row], allow_remask: bool) -> None:
    """After ``predict``: confidences of the masks that the context shows, and nothing elsewhere."""
    assert seen.progress.tolist() == pytest.approx([row.step / LENGTH for row in rows])
    assert seen.step.tolist() == [row.step for row in rows]
    assert seen.masked_total.tolist() == [sum(row.masked) for row in rows]
    assert (seen.remaskable is not None) == allow_remask
    for i, row in enumerate(rows):
        shown = {"masked": row.masked, "selectable": row.selectable(), "remaskable": row.remaskable()}
        for name, values in shown.items():
            if name != "remaskable" or allow_remask:
                assert getattr(seen, name)[i].tolist() == [values[j] for j in row.window], name
        expected = [confidence(j) if row.masked[j] else 0.0 for j in row.window]
        assert seen.confidence[i, :, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("block_length", [1, 2, 3, 6])
@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize(
    "rules",
    [{}, {"stop_at_eot": True}, {"allow_remask": True}, {"allow_remask": True, "remask_budget": 2, "max_steps": 5}],
    ids=["plain", "stop", "remask", "budget"],
)
def test_rows_go_as_each_would_by_the_definition(block_length: int, context: Any, rules: dict[str, Any]) -> None:
    coin = random.Random(f"{block_length} {context} {rules}")
    settings = Rules(LENGTH, block_length, context, **rules)
    for density in (0.2, 0.5, 0.9):
        dynamics = Dynamics(Scripted(table(), 2), settings, 2)
        state, rows = dynamics.reset(PROMPTS, [0, 1, 2]), [Row(settings) for _ in PROMPTS]
        assert_same(dynamics, state, rows)
        for _ in range(12):
            unmask, remask = (
                [[coin.random() < share for _ in range(settings.width)] for _ in rows] for share in (density, 0.3)
            )
            taken_back = settings.allow_remask and coin.random() < 0.7
            dynamics.predict(state)
            assert not state.stale.any()
            assert_seen(dynamics.observe(state), rows, settings.allow_remask)
            dynamics.apply(state, torch.tensor(unmask), torch.tensor(remask) if taken_back else None)
            for row, *action in zip(rows, unmask, remask, strict=True):
                row.play(action[0], action[1] if taken_back else None)
            assert_same(dynamics, state, rows)
        assert state.tokens[:, :2].tolist() == [[PAD, 5], [3, 4], [PAD, PAD]]


def test_the_active_block_is_that_of_the_first_mask() -> None:
    """Every pattern of masks, at every block length."""
    masked = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
    for block_length in (1, 2, 3, 6):
        dynamics = Dynamics(Scripted(table()), Rules(LENGTH, block_length), 0)
        state = dynamics.reset([[]] * len(masked), range(len(masked)))
        state.masked = masked
        rows = [Row(dynamics.rules, masked=pattern) for pattern in masked.tolist()]
        assert dynamics.block_start(state).tolist() == [row.block.start for row in rows]
        assert dynamics.selectable(state).tolist() == [row.selectable() for row in rows]


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
    rules = Rules(LENGTH, 3, context, 0.5, "float32", prefix_cache=True, top=2, extras=extras)
    dynamics = Dynamics(denoiser, rules, 2)
    state = dynamics.reset([[5], [4]], [0, 1])
    dynamics.predict(state)
    dynamics.apply(state, torch.ones(2, rules.width, dtype=torch.bool))  # the first block of each
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
    denoiser, extras = Asked(table()), Extras(support=True)
    dynamics = Dynamics(denoiser, Rules(LENGTH, 3, context, extras=extras, allow_remask=True), 0)
    state = dynamics.reset([[]], [0])
    dynamics.predict(state)
    dynamics.apply(state, torch.arange(dynamics.rules.width)[None] < 3)
    dynamics.predict(state)
    column = torch.arange(dynamics.rules.width)[None] == (4 if context == "full" else 1)
    dynamics.apply(state, column)
    dynamics.predict(state)
    assert denoiser.asked["judged"].tolist() == [[False] * 4 + [True, False]]
    support = dynamics.observe(state).support
    assert support is not None
    assert support[column].item() == pytest.approx(confidence(4))
    assert not support[~column].any()


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
    rules = Rules(LENGTH, 2, context, top=3, extras=extras)
    denoiser = Asked(table(), 2)
    state = Dynamics(denoiser, rules, 2).reset([[5], [4]], [0, 1])
    width, last = rules.width, {"hidden": denoiser.hidden_size, "log_probability": denoiser.vocabulary}
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
    drawn = [Dynamics(denoiser, rules, 2).reset([[5]], [seed]).random.keys.item() for seed in (0, 1)]
    assert state.random.keys.tolist() == drawn
    assert drawn[0] != drawn[1]


def test_a_process_stays_on_the_device_of_its_denoiser() -> None:
    """A device that holds no numbers refuses tensors of another one."""
    denoiser = Asked(table(), 2)
    denoiser.device = torch.device("meta")
    extras = Extras(entropy=True, margin=True, hidden=True, log_probability=True)
    for context in ("full", "block"):
        rules = Rules(LENGTH, 2, context, prefix_cache=True, allow_remask=True, extras=extras)  # type: ignore[arg-type]
        dynamics = Dynamics(denoiser, rules, 2)
        state = dynamics.reset(PROMPTS, [0, 1, 2])
        seen = dynamics.observe(state)
        assert state.prefix is not None
        tensors = [
            value
            for part in (state, state.prediction, state.random, state.prefix, seen)
            for value in vars(part).values()
        ]
        assert {value.device.type for value in tensors if isinstance(value, Tensor)} == {"meta"}
        assert {part.device.type for part in (dynamics.terminated(state), dynamics.truncated(state))} == {"meta"}


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"response_length": 0}, "response length must be at least 1, got 0"),
        ({"block_length": 4}, "block length 4 does not divide response length 6; use 1, 2, 3, 6"),
        ({"block_length": 0}, "block length 0 does not divide response length 6; use 1, 2, 3, 6"),
        ({"context": "half"}, "unknown context 'half'; choose full or block"),
        ({"temperature": -0.1}, "temperature must be a finite number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a finite number of at least 0, got nan"),
        ({"max_steps": -1}, "maximum steps must be at least 1 .or 0 for L., got -1"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"noise": "float16"}, "unknown noise 'float16'; choose float64 or float32"),
        ({"remask_budget": -1}, "the remask budget must be at least 1 .or 0 for L., got -1"),
    ],
)
def test_a_refusal_says_what_is_wrong(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        Rules(**{"response_length": LENGTH, "block_length": 2, **rules})


def test_the_smallest_of_everything_works() -> None:
    rules = Rules(1, 1, "block", 0.0, "float32", max_steps=0, remask_budget=0, top=1)
    assert (rules.width, rules.step_limit, rules.remasks_allowed) == (1, 1, 0)
    assert Rules(4, 4, remask_budget=1).step_limit == 4, "a budget without leave to remask is none"
    assert Rules(4, 2, allow_remask=True, remask_budget=1, max_steps=1).step_limit == 1
    assert Rules(4, 4, allow_remask=True, max_steps=9).remasks_allowed == 4


def test_what_a_denoiser_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="^denoiser 'scripted' has no prefix cache$"):
        Dynamics(Scripted(table()), Rules(LENGTH, 2, prefix_cache=True), 0)
    both = Rules(LENGTH, 2, prefix_cache=True, extras=Extras(support=True))
    with pytest.raises(
        UsageError, match="^a policy that judges written tokens does not work with the prefix cache$"
    ):
        Dynamics(Asked(table()), both, 0)
    with pytest.raises(UsageError, match="^denoiser 'scripted' has no prefix cache$"):
        Dynamics(Scripted(table()), both, 0)
    with pytest.raises(
        UsageError, match=r"^prompt of 1 and response of 6 tokens exceed .* 'scripted' \(6\); shorten"
    ):
        Dynamics(Scripted(table()), Rules(LENGTH, 2), 1)


def test_actions_of_another_shape_are_refused() -> None:
    dynamics = Dynamics(Scripted(table()), Rules(LENGTH, 2, "block", allow_remask=True), 0)
    state = dynamics.reset([[]] * 2, [0, 1])
    dynamics.predict(state)
    good = torch.zeros(2, 2, dtype=torch.bool)
    for wrong in (good[:1], good[:, :1], torch.zeros(2, 6, dtype=torch.bool), good.int()):
        for action in ((wrong,), (good, wrong)):
            with pytest.raises(ValueError, match=r"^an action must be \(2, 2\) bool, got"):
                dynamics.apply(state, *action)
    dynamics.apply(state, good, good)

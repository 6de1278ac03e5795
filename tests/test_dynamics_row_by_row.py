"""The process against one that plays a single row with plain lists, over random actions and all kinds of rules."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import END, MASK, PAD, Scripted, favouring
from torch import Tensor

from dllm_env.dynamics import Dynamics, Observation, State, Wishes
from dllm_env.rules import Rules, View

TOKENS = [3, END, 5, 3, 4, 5]
STRENGTHS = [1.0, 2.0, 3.0, 0.5, 4.0, 1.5]
LENGTH = len(TOKENS)
PROMPTS = [[5], [3, 4], []]
GIVEN = [[MASK, 5, MASK, MASK, 4, MASK], [3, 3, 3, MASK, MASK, 3], [MASK] * LENGTH]


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
    context: str = "full"
    response: list[int] = field(default_factory=lambda: [MASK] * LENGTH)
    masked: list[bool] = field(default_factory=list)
    revealed_at: list[int] = field(default_factory=lambda: [-1] * LENGTH)
    sureness: list[float] = field(default_factory=lambda: [0.0] * LENGTH)
    step: int = 0
    nfe: int = 0
    remasks: int = 0
    ignored: int = 0
    stale: bool = True

    def __post_init__(self) -> None:
        self.masked = self.masked or [token == MASK for token in self.response]

    @property
    def block(self) -> range:
        first = self.masked.index(True) if any(self.masked) else 0
        while first % self.rules.block_length:
            first -= 1
        return range(first, first + self.rules.block_length)

    @property
    def window(self) -> range:
        return range(LENGTH) if self.context == "full" else self.block

    @property
    def budget(self) -> int:
        return (self.rules.remask_budget or LENGTH) if self.rules.allow_remask else 0

    def selectable(self) -> list[bool]:
        return [self.masked[i] and i in self.block for i in range(LENGTH)]

    def remaskable(self) -> list[bool]:
        written = [step >= 0 for step in self.revealed_at]
        return [written[i] and i in self.block and self.remasks < self.budget for i in range(LENGTH)]

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
@pytest.mark.parametrize("given", [None, GIVEN], ids=["", "given"])
@pytest.mark.parametrize(
    "rules",
    [{}, {"stop_at_eot": True}, {"allow_remask": True}, {"allow_remask": True, "remask_budget": 2, "max_steps": 5}],
    ids=["plain", "stop", "remask", "budget"],
)
def test_rows_go_as_each_would_by_the_definition(
    block_length: int, context: Any, rules: dict[str, Any], given: list[list[int]] | None
) -> None:
    coin = random.Random(f"{block_length} {context} {rules}")
    settings = Rules(LENGTH, block_length, **rules)
    for density in (0.3, 0.8):
        dynamics = Dynamics(Scripted(table(), 2), settings, 2, View(context))
        state = dynamics.reset(PROMPTS, [0, 1, 2], Wishes(given=None if given is None else torch.tensor(given)))
        rows = [Row(settings, context, list(begin)) for begin in given or [[MASK] * LENGTH] * 3]
        assert_same(dynamics, state, rows)
        for _ in range(10):
            unmask, remask = (
                [[coin.random() < share for _ in range(dynamics.width)] for _ in rows] for share in (density, 0.3)
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

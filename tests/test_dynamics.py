"""The process on cases worked by hand, and the denoiser's predictions against brute force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import END, MASK, PAD, Scripted, favouring
from torch import Tensor

from dllm_env.denoisers.base import Extras, Prediction
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import Dynamics, State
from dllm_env.errors import UsageError
from dllm_env.random import RowRandom
from dllm_env.rules import Rules, View


def process(
    tokens: list[int], block: int, prompt: int = 0, view: View | None = None, **rules: Any
) -> tuple[Dynamics, Scripted]:
    denoiser = Scripted(favouring(tokens), prompt)
    return Dynamics(denoiser, Rules(len(tokens), block, **rules), prompt, view or View()), denoiser


def act(dynamics: Dynamics, state: State, *rows: str) -> None:
    """A step; a row is written as one 0 or 1 per position."""
    dynamics.predict(state)
    dynamics.apply(state, torch.tensor([[letter == "1" for letter in row] for row in rows]))


def bits(values: Tensor) -> list[str]:
    return ["".join(str(int(value)) for value in row) for row in values]


# ------------------------------------------------------------------------------------------- the process


def test_each_row_has_its_own_block() -> None:
    dynamics, _ = process([3, 4, 5, 3, 4, 5], block=2)
    state = dynamics.reset([[], []], [0, 1])
    assert bits(dynamics.selectable(state)) == ["110000", "110000"]
    act(dynamics, state, "110000", "010000")
    assert dynamics.block_start(state).tolist() == [2, 0]
    assert bits(dynamics.selectable(state)) == ["001100", "100000"]
    act(dynamics, state, "000100", "100000")
    assert bits(dynamics.selectable(state)) == ["001000", "001100"]
    act(dynamics, state, "001000", "001100")
    assert dynamics.block_start(state).tolist() == [4, 4]
    act(dynamics, state, "000011", "000010")
    assert dynamics.terminated(state).tolist() == [True, False]
    assert state.revealed_at.tolist() == [[0, 0, 2, 1, 3, 3], [1, 0, 2, 2, 3, -1]]
    assert dynamics.responses(state).tolist() == [[3, 4, 5, 3, 4, 5], [3, 4, 5, 3, 4, MASK]]


def test_what_cannot_be_selected_is_ignored_and_counted() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=2)
    state = dynamics.reset([[], []], [0, 1])
    act(dynamics, state, "101100"[:4], "1000")
    assert state.ignored.tolist() == [2, 0]
    assert bits(state.masked) == ["0111", "0111"]
    act(dynamics, state, "1000", "0100")  # unmasked already; and one that counts
    assert state.ignored.tolist() == [3, 0]
    assert state.step.tolist() == [2, 2]
    assert state.revealed_at[:, :2].tolist() == [[0, -1], [0, 1]]


def test_an_empty_action_costs_a_step_but_no_evaluation() -> None:
    dynamics, denoiser = process([3, 4, 5, 3], block=4)
    state = dynamics.reset([[], []], [0, 1])
    act(dynamics, state, "0000", "1000")
    act(dynamics, state, "0000", "0000")
    act(dynamics, state, "0000", "0000")
    assert denoiser.rows_per_call == [2, 1]
    assert state.nfe.tolist() == [1, 2]
    assert state.step.tolist() == [3, 3]


def test_a_row_is_cut_off_when_its_steps_are_used_up() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=4, max_steps=2)
    state = dynamics.reset([[], []], [0, 1])
    act(dynamics, state, "1000", "1000")
    assert not dynamics.truncated(state).any()
    act(dynamics, state, "0100", "0111")
    assert dynamics.truncated(state).tolist() == [True, False]
    assert dynamics.terminated(state).tolist() == [False, True], "done with the last step is done"
    assert Rules(4, 4).step_limit == 4


def test_stop_at_eot_waits_for_the_gap() -> None:
    dynamics, denoiser = process([3, 4, END, 5, 3], block=5, stop_at_eot=True)
    state = dynamics.reset([[], []], [0, 1])
    act(dynamics, state, "00100", "00010")
    assert bits(state.masked) == ["11011", "11101"]
    act(dynamics, state, "10000", "11000")
    assert dynamics.terminated(state).tolist() == [False, False]
    act(dynamics, state, "01000", "00100")
    assert dynamics.terminated(state).tolist() == [True, True]
    assert dynamics.responses(state).tolist() == [[3, 4, END, END, END], [3, 4, END, 5, END]]
    assert state.revealed_at.tolist() == [[1, 2, 0, -1, -1], [1, 1, 2, 0, -1]]
    assert state.nfe.tolist() == [3, 3]
    assert denoiser.response_text([3, 4, END, 5, END]) == "3 4"


def test_without_stop_at_eot_the_rest_is_generated() -> None:
    dynamics, _ = process([END, 4, 5], block=3)
    state = dynamics.reset([[]], [0])
    act(dynamics, state, "100")
    assert bits(state.masked) == ["011"]


def test_block_context_shows_the_active_block() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=2, prompt=1, view=View("block"))
    state = dynamics.reset([[5], [4]], [0, 1])
    act(dynamics, state, "11", "01")
    dynamics.predict(state)
    seen = dynamics.observe(state)
    assert bits(seen.masked) == bits(seen.selectable) == ["11", "10"]
    assert state.prediction.token.tolist() == [[5, 3], [3, 0]]
    assert (seen.confidence[..., 0] > 0).tolist() == [[True, True], [True, False]]
    assert seen.masked_total.tolist() == [2, 3]
    act(dynamics, state, "01", "10")
    assert dynamics.responses(state).tolist() == [[3, 4, MASK, 3], [3, 4, MASK, MASK]]
    assert state.ignored.tolist() == [0, 0]


def test_progress_is_steps_over_length() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=4)
    state = dynamics.reset([[]], [0])
    for step in range(3):
        dynamics.predict(state)
        assert dynamics.observe(state).progress.tolist() == [step / 4]
        act(dynamics, state, "0000")


def test_prompts_are_padded_on_the_left() -> None:
    dynamics, _ = process([3, 4], block=2, prompt=3)
    state = dynamics.reset([[5], [3, 4, 5]], [0, 1])
    assert state.tokens.tolist() == [[PAD, PAD, 5, MASK, MASK], [3, 4, 5, MASK, MASK]]
    with pytest.raises(UsageError, match="4 tokens"):
        dynamics.reset([[3, 3, 3, 3]], [0])


def test_rows_can_be_taken_out_and_put_back() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=2)
    state = dynamics.reset([[], [], []], [0, 1, 2])
    act(dynamics, state, "1000", "0100", "1100")
    part = state[torch.tensor([2, 0])]
    assert bits(part.masked) == ["0011", "0111"]
    state.write(torch.tensor([1]), dynamics.reset([[]], [9]))
    assert (state.step.tolist(), state.stale.tolist()) == ([1, 0, 1], [True, True, True])
    assert bits(state.masked) == ["0111", "1111", "0011"]
    assert bits(part.masked) == ["0011", "0111"], "the part has to be a copy"


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"response_length": -1}, "response_length"),
        ({"block_length": 3}, "divide"),
        ({"block_length": -2}, "block_length"),
        ({"block_length": True}, "whole number"),
        ({"response_length": "4"}, "whole number"),
        ({"stop_at_eot": 5}, "true or false"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"max_steps": -1}, "max_steps"),
        ({"temperature": "hot"}, "a number"),
    ],
)
def test_rules_out_of_range_are_refused(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Rules(**{"response_length": 4, "block_length": 2, **wrong})


def test_a_view_out_of_range_is_refused() -> None:
    for wrong, word in (({"context": "all"}, "context"), ({"top": 0}, "top"), ({"top": 1.5}, "top")):
        with pytest.raises(UsageError, match=word):
            View(**wrong)  # type: ignore[arg-type]


def test_lengths_that_were_left_open_are_filled_in() -> None:
    assert Rules().resolve(8) == Rules(8, 8)
    assert Rules(block_length=4).resolve(8) == Rules(8, 4)
    assert Rules(6).resolve(8) == Rules(6, 6)
    with pytest.raises(UsageError, match="does not divide"):
        Rules(block_length=3).resolve(8)
    with pytest.raises(UsageError, match="response length"):
        Rules().resolve()


def test_what_does_not_fit_the_context_is_refused(toy: TinyDenoiser) -> None:
    with pytest.raises(UsageError, match="exceed the context"):
        Dynamics(toy, Rules(100, 100), 29)
    Dynamics(toy, Rules(100, 100), 28)


def test_a_wrong_action_is_refused() -> None:
    dynamics, _ = process([3, 4], block=2)
    state = dynamics.reset([[]], [0])
    for action in (torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2)):
        with pytest.raises(ValueError, match="an action must be"):
            dynamics.apply(state, action)


# ------------------------------------------------------------------------------------------- predictions

TOLD = ("entropy", "margin", "hidden", "log_probability", "support", "token_log_prob", "log_mass", "rewrite")
ALL = Extras(**dict.fromkeys(TOLD, True))


def told(prediction: Prediction) -> list[Tensor]:
    """All that there is but attention; it and support are of different evaluations, see test_attention."""
    assert prediction.attention is None
    values = [value for value in prediction.values() if value is not None]
    assert len(values) == len(prediction.values()) - 1
    return values


def example(toy: TinyDenoiser, rows: int = 24, prompt: int = 6, length: int = 10) -> tuple[Tensor, Tensor]:
    """Tokens (rows, P+L) with left padding, and needed positions: 1, 2, … of them in the first rows."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, toy.vocabulary, (rows, prompt + length), generator=generator)
    needed = torch.rand(rows, length, generator=generator) < 0.5
    for row in range(min(length, rows)):
        needed[row] = torch.arange(length) <= row
    needed[:, 3] = True
    tokens[:, prompt:][needed] = toy.mask_id
    tokens[::3, :2] = toy.pad_id
    return tokens, needed


def test_features_against_brute_force(toy: TinyDenoiser) -> None:
    tokens, needed = example(toy)
    prediction = toy.predict(tokens, needed, top=3, extras=ALL, judged=~needed)
    hidden = toy.features(tokens, tokens.shape[1])[:, 6:]
    logits = toy.head(hidden).double()
    logits[..., toy.mask_id] = -torch.inf
    probability = logits.softmax(-1)
    largest = probability.sort(-1, descending=True).values
    entropy = -(probability * probability.clamp(min=1e-300).log()).sum(-1)
    assert prediction.entropy is not None
    assert prediction.margin is not None
    assert prediction.hidden is not None
    assert prediction.log_probability is not None
    for got, expected in (
        (prediction.confidence, largest[..., :3]),
        (prediction.entropy, entropy),
        (prediction.margin, largest[..., 0] - largest[..., 1]),
        (prediction.hidden, hidden.double()),
        (prediction.log_probability, logits.log_softmax(-1)),
    ):
        torch.testing.assert_close(got[needed].double(), expected[needed], rtol=1e-4, atol=1e-6)
        assert not got[~needed].any()
    assert torch.equal(prediction.token[needed], logits.argmax(-1)[needed])
    assert not (prediction.token == toy.mask_id).any()
    assert largest[..., 0].std() > 0.05, "a toy whose confidence is always the same would prove little"


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_row_alone_is_the_row_in_a_batch_bit_for_bit(toy: TinyDenoiser, temperature: float) -> None:
    for prompt, length in ((6, 10), (2, 4), (24, 40)):
        tokens, needed = example(toy, 60 if length < 40 else 45, prompt, length)
        seeds = list(range(len(tokens)))

        def predict(
            rows: slice, tokens: Tensor = tokens, needed: Tensor = needed, seeds: Any = seeds
        ) -> Prediction:
            random = RowRandom.from_seeds(seeds[rows], "tokens")
            part = tokens[rows].clone(), needed[rows]
            return toy.predict(*part, 2, temperature, random, ALL, judged=~part[1])

        together = predict(slice(None))
        for rows in [slice(row, row + 1) for row in range(20)] + [slice(3, 5), slice(1, 4), slice(0, 11)]:
            alone = predict(rows)
            for value, expected in zip(told(alone), told(together), strict=True):
                assert torch.equal(value, expected[rows])


def test_any_number_of_needed_positions_gives_the_same_bits(toy: TinyDenoiser) -> None:
    """Few rows take another path through a matrix library than many; the results may not show it."""
    tokens, _ = example(toy, 1, 24, 40)
    everything = torch.ones(1, 40, dtype=torch.bool)
    reference = toy.predict(tokens, everything, 2, extras=ALL, judged=everything)
    for count in range(1, 40):
        for first in (0, 40 - count):
            needed = torch.zeros_like(everything)
            needed[:, first : first + count] = True
            prediction = toy.predict(tokens, needed, 2, extras=ALL, judged=needed)
            for got, expected in zip(told(prediction), told(reference), strict=True):
                assert torch.equal(got[needed], expected[needed]), count


def test_left_padding_does_not_change_a_row(toy: TinyDenoiser) -> None:
    tokens, needed = example(toy)
    tokens = tokens[1::3]
    needed = needed[1::3]
    padded = torch.cat((torch.full((len(tokens), 7), toy.pad_id), tokens), -1)
    plain, shifted = toy.predict(tokens, needed, 2), toy.predict(padded, needed, 2)
    torch.testing.assert_close(plain.confidence, shifted.confidence, rtol=1e-4, atol=1e-5)
    assert torch.equal(plain.token, shifted.token)


def test_gumbel_max_draws_from_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, 9.0, 2.0, 0.5, -1.0])
    logits = logits[[0, 2, 1, 3, 4, 5]]  # the largest logit stands at the mask, which is never drawn
    denoiser = Scripted(logits.repeat(40, 1))
    rows, temperature = 1_000, 0.7
    tokens = torch.full((rows, 40), MASK)
    random = RowRandom.from_seeds(list(range(rows)), "tokens")
    drawn = denoiser.predict(tokens, tokens == MASK, 1, temperature, random).token.flatten()
    expected = (logits.double() / temperature).masked_fill(torch.arange(6) == MASK, -torch.inf).softmax(-1)
    counts = torch.bincount(drawn, minlength=6).double()
    assert counts[MASK] == 0
    keep = torch.arange(6) != MASK
    mean = expected[keep] * len(drawn)
    assert ((counts[keep] - mean) ** 2 / mean).sum() < 23.5  # chi-square, 4 degrees of freedom, p < 0.0001


def test_confidence_is_that_of_temperature_one() -> None:
    denoiser = Scripted(favouring([3, 4]))
    tokens = torch.full((1, 2), MASK)
    warm = denoiser.predict(tokens, tokens == MASK, 2, 2.0, RowRandom.from_seeds([0], "tokens"))
    assert torch.equal(warm.confidence, denoiser.predict(tokens, tokens == MASK, 2).confidence)


def test_draws_do_not_depend_on_neighbours() -> None:
    denoiser = Scripted(torch.zeros(8, 6))
    rules = Rules(8, 8, temperature=1.0)
    dynamics = Dynamics(denoiser, rules, 0)
    together = dynamics.reset([[]] * 5, [4, 3, 2, 1, 0])
    alone = [dynamics.reset([[]], [seed]) for seed in (4, 3, 2, 1, 0)]
    # Row 2 waits a step, which must not move the streams of the others, nor its own.
    for step in range(3):
        actions = torch.zeros(5, 8, dtype=torch.bool)
        actions[:, step] = True
        actions[2] &= step != 1
        dynamics.predict(together)
        dynamics.apply(together, actions)
        for row, state in enumerate(alone):
            dynamics.predict(state)
            dynamics.apply(state, actions[row : row + 1])
    for row, state in enumerate(alone):
        assert torch.equal(dynamics.responses(state)[0], dynamics.responses(together)[row])
    assert len({tuple(row) for row in dynamics.responses(together)[:, :1].tolist()}) > 1


def test_sampling_needs_streams_and_shapes_are_checked(toy: TinyDenoiser) -> None:
    tokens, needed = example(toy)
    with pytest.raises(ValueError, match="random streams"):
        toy.predict(tokens, needed, temperature=1.0)
    with pytest.raises(ValueError, match="do not fit"):
        toy.predict(tokens[:3], needed)


def test_extras_reach_the_observation(toy: TinyDenoiser) -> None:
    rules, view = Rules(8, 4), View("block", 2, ALL)
    dynamics = Dynamics(toy, rules, 3, view)
    state = dynamics.reset([[5, 6], [7, 8, 9]], [0, 1])
    dynamics.predict(state)
    seen = dynamics.observe(state)
    assert seen.confidence.shape == (2, 4, 2)
    assert seen.hidden is not None
    assert seen.hidden.shape == (2, 4, toy.hidden_size)
    plain = Dynamics(toy, rules, 3, replace(view, extras=Extras()))
    other = plain.reset([[5, 6], [7, 8, 9]], [0, 1])
    plain.predict(other)
    assert plain.observe(other).hidden is None
    assert torch.equal(plain.observe(other).confidence, seen.confidence)


# ------------------------------------------------------------------------------------------- blocks that end


def test_a_block_ends_after_its_steps_with_what_is_masked_in_it() -> None:
    """L = 6, BL = 2: row 0 leaves a mask in block 0 and all of block 2; row 1 is done with block 0 in one step."""
    dynamics, _ = process([3, 4, 5, 3, 4, 5], block=2, limit_block_steps=True)
    state = dynamics.reset([[], []], [0, 1])
    act(dynamics, state, "100000", "110000")
    assert bits(dynamics.selectable(state)) == ["010000", "001100"]
    act(dynamics, state, "000000", "001000")
    assert bits(dynamics.selectable(state)) == ["001100", "000100"]  # row 1's second step in its block is to come
    act(dynamics, state, "011100", "000100")
    assert state.ignored.tolist() == [1, 0]  # what a block has left behind cannot be selected any more
    assert bits(dynamics.selectable(state)) == ["000011", "000011"]
    act(dynamics, state, "000000", "000011")
    assert dynamics.terminated(state).tolist() == [False, True]
    act(dynamics, state, "000000", "000000")
    assert dynamics.terminated(state).tolist() == [True, True]
    assert dynamics.truncated(state).tolist() == [False, False]
    assert dynamics.responses(state).tolist() == [[3, MASK, 5, 3, MASK, MASK], [3, 4, 5, 3, 4, 5]]


def test_a_row_that_does_nothing_ends_with_its_last_block() -> None:
    for block in (1, 2, 4):
        dynamics, _ = process([3, 4, 5, 3], block=block, limit_block_steps=True)
        state = dynamics.reset([[]], [0])
        for step in range(4):
            assert not dynamics.terminated(state).any(), (block, step)
            act(dynamics, state, "0000")
        assert dynamics.terminated(state).all()
        assert not dynamics.truncated(state).any()
        assert state.nfe.tolist() == [1]  # nothing was written, so the first prediction held


@pytest.mark.parametrize("limit", [False, True])
def test_without_the_limit_a_block_waits(limit: bool) -> None:
    dynamics, _ = process([3, 4, 5, 3], block=2, limit_block_steps=limit)
    state = dynamics.reset([[]], [0])
    for _ in range(3):
        act(dynamics, state, "0000")
    assert bits(dynamics.selectable(state)) == ["0011" if limit else "1100"]
    act(dynamics, state, "0000")
    assert (dynamics.terminated(state).item(), dynamics.truncated(state).item()) == (limit, not limit)


def test_a_policy_that_sees_its_block_sees_the_next_one() -> None:
    dynamics, _ = process([3, 4, 5, 3], block=2, limit_block_steps=True, view=View(context="block"))
    state = dynamics.reset([[]], [0])
    for action in ("10", "00"):
        act(dynamics, state, action)
    act(dynamics, state, "11")
    assert dynamics.responses(state).tolist() == [[3, MASK, 5, 3]]
    assert state.nfe.tolist() == [3]


def test_an_end_of_text_ends_a_row_whose_earlier_blocks_were_ended() -> None:
    dynamics, _ = process([3, 4, END, 3, 4, 5], block=2, limit_block_steps=True, stop_at_eot=True)
    state = dynamics.reset([[]], [0])
    for action in ("100000", "000000", "001000"):
        act(dynamics, state, action)
    assert dynamics.terminated(state).all()
    assert dynamics.responses(state).tolist() == [[3, MASK, END, END, END, END]]


def test_what_blocks_left_behind_does_not_depend_on_neighbours() -> None:
    """Rows alone and together, over random actions."""
    dynamics, _ = process([3, 4, 5, 3, 4, 5], block=3, limit_block_steps=True)
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(6, 5, 6, generator=generator) < 0.2
    together = dynamics.reset([[]] * 5, list(range(5)))
    for action in actions:
        dynamics.predict(together)
        dynamics.apply(together, action)
    for row in range(5):
        alone = dynamics.reset([[]], [row])
        for action in actions:
            dynamics.predict(alone)
            dynamics.apply(alone, action[row : row + 1])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(dynamics.block_start(alone)[0], dynamics.block_start(together)[row])


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("context", ["full", "block"])
def test_the_active_block_follows_what_is_written_to_the_state(inference: bool, context: Any) -> None:
    dynamics, _ = process([3, 4, 5, 3, 4, 5, 3, 4], block=2, view=View(context, 1))
    with torch.inference_mode() if inference else torch.no_grad():
        state = dynamics.reset([[], []], [0, 1])
        assert dynamics.block_start(state).tolist() == [0, 0]
        state.masked[1, :3] = False  # in place
        assert dynamics.block_start(state).tolist() == [0, 2]
        state.masked = state.masked & (torch.arange(8) >= 4)  # another tensor
        assert dynamics.block_start(state).tolist() == [4, 4]
        part = state[torch.tensor([1])]
        part.masked[:, :6] = False
        assert dynamics.block_start(part).tolist() == [6]
        assert dynamics.block_start(state).tolist() == [4, 4]
        state.write(torch.tensor([0]), part)
        assert dynamics.block_start(state).tolist() == [6, 4]
        dynamics.predict(state)
        seen = dynamics.observe(state)
        seen.selectable.zero_()  # by a policy that uses the memory of what it sees
        assert dynamics.selectable(state).sum(-1).tolist() == [2, 2]
        dynamics.apply(state, torch.ones_like(seen.selectable))
        assert state.masked.sum(-1).tolist() == [0, 2]

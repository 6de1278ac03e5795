"""A policy's decisions from logits: what it is shown, row by row, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from spies import Never, Spy, learned, logits

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.learned import load_policy
from dllm_env.random import RowRandom

# ------------------------------------------------------------------------------------- what a policy is shown


def test_an_observation_by_hand() -> None:
    spy, given = Spy(2), logits()
    masked = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    decoder = BlockDecoder(spy, 0, 10)
    before = given.clone()
    choice = decoder(given, masked)
    assert torch.equal(given, before)
    seen = spy.seen[0]
    others = given[:2, :, 1:].softmax(-1)
    ordered = others.sort(-1, descending=True).values * masked[:2, :, None]
    assert len(seen) == 2  # a row without masks is not asked about
    torch.testing.assert_close(seen.confidence, ordered[..., :2])
    torch.testing.assert_close(seen.margin, ordered[..., 0] - ordered[..., 1])
    torch.testing.assert_close(seen.entropy, -(others * others.log()).sum(-1) * masked[:2])
    assert seen.log_probability is not None
    assert (seen.log_probability[0, :, 0] == -torch.inf).all()
    assert torch.equal(seen.masked, masked[:2])
    assert torch.equal(seen.selectable, masked[:2])
    assert (seen.step.tolist(), seen.progress.tolist(), seen.masked_total.tolist()) == ([0, 0], [0, 0], [10, 10])
    assert not seen.memory
    assert torch.equal(choice.token, (given[..., 1:].argmax(-1) + 1) * masked)
    assert choice.unmask.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]  # masked positions only

    decoder(given, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]).bool())
    seen = spy.seen[1]
    assert seen.step.tolist() == [1, 1, 0]
    torch.testing.assert_close(seen.progress, torch.tensor([0.1, 0.1, 0.0]))
    assert seen.masked_total.tolist() == [8, 8, 10]
    assert seen.memory["asked"].tolist() == [1, 1, 0]  # a new row's memory is zero


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.uint8, None])
def test_a_policy_decides_by_sets(kind: torch.dtype | None) -> None:
    class Other(Spy):
        def act(self, observation: Observation, random: RowRandom) -> Decision:
            masked = observation.masked
            return Decision(masked[:, 1:] if kind is None else masked.to(kind))

    with pytest.raises(UsageError, match="must decide by"):
        BlockDecoder(Other(), 1, 8)(logits(1, 4), torch.ones(1, 4, dtype=torch.bool))


def test_only_what_is_asked_for() -> None:
    spy = Spy()
    spy.extras = Extras()
    BlockDecoder(spy, 0, 5)(logits(), torch.ones(3, 5).bool())
    assert (spy.seen[0].entropy, spy.seen[0].margin, spy.seen[0].log_probability) == (None, None, None)


def test_beyond_the_response_length_progress_stays_at_its_end() -> None:
    decoder = BlockDecoder(spy := Spy(), 0, 2)
    for _ in range(4):
        decoder(logits(1), torch.ones(1, 5).bool())
    assert [float(seen.progress) for seen in spy.seen] == [0, 0.5, 1, 1]
    assert [int(seen.masked_total) for seen in spy.seen] == [5, 5, 5, 5]


@pytest.mark.parametrize("name", ["klass:tau=0.1,kappa=9", "random:2", "learned"])
def test_a_row_depends_on_itself_alone(name: str) -> None:
    policy = learned(greedy=False) if name == "learned" else load_policy(name)
    steps = [logits(20, 6, 50, f"step {t}") for t in range(3)]
    together, alone = BlockDecoder(policy, 0, 12), BlockDecoder(policy, 0, 12)
    masked = torch.ones(20, 6).bool()
    names = [f"request {i}" for i in range(20)]
    for t, given in enumerate(steps):
        live = torch.arange(20)[t:]  # requests go
        many = together(given[live], masked[live], [names[i] for i in live], temperature=0.7)
        for row, i in ((0, t), (4, t + 4), (len(live) - 1, 19)):
            if t == 0 or i in (4, 19):
                one = alone(given[i : i + 1], masked[i : i + 1], [names[i]], temperature=0.7)
                assert torch.equal(one.unmask[0], many.unmask[row])
                assert torch.equal(one.token[0], many.token[row])
        masked[live] &= ~many.unmask


def test_a_row_without_masks_draws_nothing() -> None:
    policy = load_policy("random:1")
    waiting, straight = BlockDecoder(policy, 0, 12), BlockDecoder(policy, 0, 12)
    masked = torch.ones(1, 6).bool()
    for t in range(3):
        given = logits(1, 6, 9, f"{t}")
        for _ in range(t):
            rest = waiting(given, torch.zeros_like(masked), temperature=1.0)
            assert not rest.unmask.any()
        one, other = (decoder(given, masked, temperature=1.0) for decoder in (waiting, straight))
        assert torch.equal(one.unmask, other.unmask)
        assert torch.equal(one.token, other.token)


def test_bfloat16() -> None:
    given, masked = logits(3, 6, 30).bfloat16(), torch.ones(3, 6).bool()
    low, high = (BlockDecoder("threshold:0.5", 0, 12)(x, masked) for x in (given, given.float()))
    assert torch.equal(low.unmask, high.unmask)
    assert torch.equal(low.token, high.token)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["leftmost:9", "threshold:0", "margin:9", "entropy:9", "klass:tau=0"])
def test_of_equal_logits_the_lowest_token_is_written(name: str, dtype: torch.dtype) -> None:
    """Whatever a policy reads: id 7 of 7, 150 and 290; of 8 to 319 with the mask token 0 above them, 8."""
    given = torch.zeros(2, 6, 320, dtype=dtype)
    given[0, :, [7, 150, 290]] = 3
    given[1, :, 8:] = 1
    given[:, :, 0] = 5
    choice = BlockDecoder(name, 0, 6)(given, torch.ones(2, 6).bool())
    assert choice.token.tolist() == [[7] * 6, [8] * 6]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("top_k:2", [1, 1, 0, 0, 0, 0]),
        ("margin:2", [1, 1, 0, 0, 0, 0]),
        ("entropy:2", [1, 1, 0, 0, 0, 0]),
        ("top_k:steps=3", [1, 1, 0, 0, 0, 0]),
        ("entropy:steps=3", [1, 0, 0, 0, 0, 0]),
        ("threshold:1", [1, 0, 0, 0, 0, 0]),
        ("factor:0", [1, 0, 0, 0, 0, 0]),
        ("entropy_bound:0", [1, 0, 0, 0, 0, 0]),
        ("klass", [1, 0, 0, 0, 0, 0]),
        ("local_leap:1", [1, 0, 0, 0, 0, 0]),
        ("hierarchy:high=1", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_of_equal_positions_the_leftmost_are_chosen(name: str, expected: list[int]) -> None:
    given = torch.zeros(1, 6, 50).bfloat16()
    given[..., [20, 40]] = 2.0
    choice = BlockDecoder(name, 0, 6)(given, torch.ones(1, 6).bool())
    assert choice.unmask[0].int().tolist() == expected
    assert BlockDecoder(Never(), 0, 6)(given, torch.ones(1, 6).bool()).unmask[0].int().tolist() == [
        1,
        0,
        0,
        0,
        0,
        0,
    ]


def test_tokens_are_drawn_with_the_models_probabilities() -> None:
    row = torch.tensor([9.0, 0.0, 1.0, 2.0])
    decoder = BlockDecoder("threshold:0", 0, 64)
    counts, expected = torch.zeros(4), torch.tensor([0.0, *(row[1:] / 0.5).softmax(0)])
    for i in range(20):
        choice = decoder(row.expand(50, 64, 4), torch.ones(50, 64).bool(), [(i, j) for j in range(50)], 0.5)
        counts += choice.token.flatten().bincount(minlength=4)
    assert (counts / counts.sum() - expected).abs().max() < 0.005  # 64,000 draws


# ------------------------------------------------------------------------------------ progress and forgetting


def test_forced_progress_takes_the_most_confident_position() -> None:
    masked = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()
    given = torch.zeros(2, 4, 3)
    given[:, :, 1] = torch.tensor([[1.0, 3.0, 2.0, 9.0], [9.0, 1.0, 2.0, 3.0]])
    assert BlockDecoder(Never(), 0, 4)(given, masked).unmask.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert not BlockDecoder(Never(), 0, 4, force_progress=False)(given, masked).unmask.any()
    some = BlockDecoder(Spy(), 0, 4)(given, masked)
    assert some.unmask.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]  # a set that is not empty stays as it is


def test_rows_are_forgotten_when_told_or_when_there_are_too_many() -> None:
    spy, given, masked = Spy(), logits(1), torch.ones(1, 5).bool()
    decoder = BlockDecoder(spy, 0, 5)
    decoder.remember = 2
    for name in ("a", "b", "a", "c", "a", "b"):  # b is the one not asked about for longest when c comes
        decoder(given, masked, [name])
    assert [int(seen.step) for seen in spy.seen] == [0, 0, 1, 0, 2, 0]
    decoder.reset(["a"])
    for name in ("a", "b"):
        decoder(given, masked, [name])
    assert [int(seen.step) for seen in spy.seen[-2:]] == [0, 1]
    decoder.reset()
    assert not decoder.started
    decoder(given, masked, ["b"])
    assert int(spy.seen[-1].step) == 0
    decoder(logits(4), torch.ones(4, 5).bool())
    decoder(logits(4), torch.ones(4, 5).bool())
    assert spy.seen[-1].step.tolist() == [1] * 4  # a batch that is larger than that stays


# ------------------------------------------------------------------------------------------ what cannot work


def test_a_decision_that_remasks_is_refused() -> None:
    class Sly(Never):
        def act(self, observation: Observation, random: RowRandom) -> Decision:
            return Decision(observation.selectable, remask=~observation.selectable)

    with pytest.raises(UsageError, match="back to mask"):
        BlockDecoder(Sly(), 0, 5)(logits(), torch.eye(3, 5).bool())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c(logits(), torch.ones(3, 4).bool()), r"logits \(3, 5, 7\)"),
        (lambda c: c(logits()[0], torch.ones(5).bool()), r"must be \(B, W, V\)"),
        (lambda c: c(logits(), torch.ones(3, 5)), "bool"),
        (lambda c: c(None, torch.ones(3, 5).bool()), "the logits must be a tensor, got nothing"),
        (lambda c: c(logits(), None), "the mask must be a tensor, got nothing"),
        (lambda c: c(logits().tolist(), torch.ones(3, 5).bool()), "the logits must be a tensor, got list"),
        (lambda c: c(logits().long(), torch.ones(3, 5).bool()), "floating type"),
        (lambda c: c(logits()[..., :0], torch.ones(3, 5).bool()), "mask token 0 is none of the 0 tokens"),
        (lambda c: c(logits(), torch.ones(3, 5).bool(), None, None), "temperature"),
        (lambda c: c.in_sequences(None, torch.ones(3, 5).bool(), 5), "got nothing"),
        (lambda c: c.in_sequences(logits(), torch.ones(3, 6).bool(), 5), "must be"),
        (lambda c: c(logits(), torch.ones(3, 5).bool(), ["a", "b", "a"]), "different names"),
        (lambda c: c(logits(), torch.ones(3, 5).bool(), ["a"]), "different names"),
        (lambda c: c(logits(), torch.ones(3, 5).bool(), None, -1.0), "temperature"),
        (lambda c: c(logits(), torch.ones(3, 5).bool(), None, float("nan")), "temperature"),
        (lambda c: c.in_sequences(logits(), torch.ones(3, 5).bool(), 6), "shorter than the block"),
        (lambda c: c.in_sequences(logits(3, 6), torch.ones(3, 6).bool(), 3), "outside its block"),
    ],
)
def test_calls_that_do_not_fit_are_refused(call: Callable[[BlockDecoder], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(BlockDecoder("threshold:0.9", 0, 5))

"""What all heads have in common: names, devices, precision, steps of a row, and draws that something else chose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dllm_env.errors import UsageError
from dllm_env.policies.heads import (
    Bernoulli,
    DynamicPlackettLuce,
    Head,
    PlackettLuce,
    describe_head,
    load_head,
    log_prob_and_entropy,
    restore_head,
)
from dllm_env.random import RowRandom

HEADS = [
    *(Bernoulli(), Bernoulli(0.5, force_progress=True), PlackettLuce(2, 0.5), DynamicPlackettLuce(2.0)),
]


def test_heads_by_name() -> None:
    assert load_head("bernoulli") == Bernoulli()
    assert load_head("bernoulli:force_progress=true,temperature=0.5") == Bernoulli(0.5, True)
    assert load_head("plackett_luce:k=3") == PlackettLuce(3)
    assert load_head("dynamic_plackett_luce:temperature=2") == DynamicPlackettLuce(2.0)
    with pytest.raises(
        UsageError, match="unknown head 'softmax'; choose one of bernoulli, plackett_luce, dynamic_"
    ):
        load_head("softmax")
    for head in HEADS:
        assert load_head(head) is head


@pytest.mark.parametrize("head", HEADS)
def test_a_description_restores_a_head(head: Head) -> None:
    description = describe_head(head)
    assert restore_head(description) == head
    assert description["kind"] in ("bernoulli", "plackett_luce", "dynamic_plackett_luce")
    with pytest.raises(UsageError, match=r"^the head '.*' does not take its settings: .* argument 'size'$"):
        restore_head({**description, "size": 2})
    with pytest.raises(UsageError, match=r"^the head 'softmax' is unknown: made by another version"):
        restore_head({**description, "kind": "softmax"})


OWN = """from dllm_env.policies.heads import Bernoulli

class Mine(Bernoulli):
    pass
"""


def test_a_head_of_the_users_own_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    head = load_head(f"{tmp_path}/own.py:Mine(temperature=0.5)")
    assert (type(head).__name__, head.temperature) == ("Mine", 0.5)
    again = restore_head(describe_head(head))
    assert (type(again).__name__, again.temperature) == ("Mine", 0.5)
    (tmp_path / "half.py").write_text("class Half:\n    def sample(self): ...\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no mode and no log_prob and no entropy and no as_draw"):
        load_head(f"{tmp_path}/half.py:Half()")


def test_what_another_has_chosen_as_a_draw() -> None:
    """Sets as they are; where an order counts, in descending priority, the leftmost of equals first."""
    unmask = torch.tensor([[[True, False, True, True]], [[False] * 4]])
    priority = torch.tensor([[[0.2, 0.9, 0.7, 0.2]], [[1.0] * 4]])
    assert torch.equal(Bernoulli().as_draw(unmask, priority), unmask)
    for head in (PlackettLuce(), DynamicPlackettLuce()):
        assert head.as_draw(unmask, priority).tolist() == [[[2, 0, 1, 3]], [[0] * 4]]


@pytest.mark.parametrize("head", HEADS)
def test_everything_is_on_the_device_of_the_scores(head: Head) -> None:
    """A device that holds no numbers refuses tensors of another one."""
    scores, selectable = torch.zeros(2, 3, 5, device="meta"), torch.ones(2, 3, 5, dtype=torch.bool, device="meta")
    draw = head.sample(scores, selectable, RowRandom(torch.zeros(2, dtype=torch.int64, device="meta")))
    mode, as_draw = head.mode(scores, selectable), head.as_draw(selectable, scores)
    assert draw.shape == mode.shape == as_draw.shape == (2, 3, 5)
    for values in (head.log_prob(scores, selectable, draw), head.entropy(scores, selectable, draw)):
        assert (values.shape, values.dtype, values.device.type) == ((2, 3), torch.float32, "meta")


@pytest.mark.parametrize("head", HEADS)
def test_half_precision_is_scored_in_single_and_double_in_double(head: Head) -> None:
    scores = torch.tensor([[1.5, -0.5, 0.25, -2.0]])
    selectable, random = torch.ones(1, 4, dtype=torch.bool), RowRandom(torch.tensor([3]))
    draw = head.sample(scores, selectable, random)
    for function in (head.log_prob, head.entropy):
        exact = function(scores.double(), selectable, draw)
        assert exact.dtype == torch.float64
        single = function(scores, selectable, draw)
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_steps_of_a_row_are_drawn_with_numbers_of_their_own(head: Head) -> None:
    """(B, T, W): the T draws of a row differ, a row draws what it draws alone, and no number is used twice."""
    scores, selectable = torch.zeros(2, 40, 3), torch.ones(2, 40, 3, dtype=torch.bool)
    random = RowRandom(torch.tensor([5, 6]))
    first, second = head.sample(scores, selectable, random), head.sample(scores, selectable, random)
    alone = head.sample(scores[1:], selectable[1:], RowRandom(torch.tensor([6])))
    assert torch.equal(alone[0], first[1])
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert len({tuple(draw) for draw in first[0].tolist()}) > 2


def test_what_is_as_likely_as_not_stays_masked() -> None:
    scores, selectable = torch.tensor([[0.0, 1.0, -1.0, 0.0]]), torch.tensor([[True, True, True, False]])
    for head in (Bernoulli(), Bernoulli(force_progress=True)):
        assert head.mode(scores, selectable).tolist() == [[False, True, False, False]]


class Uniform(DynamicPlackettLuce):
    """Draws as its parent does, and calls everything equally likely."""

    def log_prob(self, scores: torch.Tensor, selectable: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
        return torch.zeros(scores.shape[:-1])


@pytest.mark.parametrize("head", [*HEADS, Uniform()], ids=repr)
def test_both_at_once_are_what_each_is_alone(head: Head) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 7, generator=generator)
    selectable = torch.rand(6, 7, generator=generator) < 0.6
    selectable[0] = False
    draw = head.sample(scores, selectable, RowRandom.from_seeds(list(range(6)), "draw"))
    draw[1] = torch.arange(7)  # that cannot be
    log_prob, entropy = log_prob_and_entropy(head, scores, selectable, draw)
    assert torch.equal(log_prob, head.log_prob(scores, selectable, draw))
    assert torch.equal(entropy, head.entropy(scores, selectable, draw))

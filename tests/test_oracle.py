"""The oracle: what it reveals, whose responses it follows, and how it stands beside policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MASK, Scripted, favouring
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.base import Assignment
from dllm_env.policies.learned import load_policy
from dllm_env.policies.oracle import Oracle, load_oracle
from dllm_env.policies.references import prepared, reference_kind
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem

WRONG, RIGHT, OTHER = 3, 4, 5


class Needing(Scripted):
    """Position i says RIGHT once the positions that it needs are written, before that WRONG.

    Position ``turned[0]`` says OTHER once position ``turned[1]`` is written.
    """

    def __init__(self, needs: list[tuple[int, ...]], turned: tuple[int, int] | None = None) -> None:
        super().__init__(favouring([WRONG] * len(needs)), 1)
        self.hidden_size = 6
        self.needs, self.turned = needs, turned

    def features(self, tokens: Tensor, last: int) -> Tensor:
        self.rows_per_call.append(len(tokens))
        written = tokens[:, -len(self.needs) :] != MASK
        said = torch.full((len(tokens), len(self.needs)), WRONG)
        for i, needed in enumerate(self.needs):
            said[:, i] = torch.where(written[:, list(needed)].all(-1), RIGHT, WRONG)
        if self.turned:
            place, by = self.turned
            said[:, place] = torch.where(written[:, by], OTHER, said[:, place])
        return 5.0 * torch.nn.functional.one_hot(said, 6).float()[:, -last:]

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class Words:
    """A task whose problems want the response that their target names."""

    name, response_length, prompt_length = "words", 5, 0

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
        return Problem("words", split, seed, index, "2", self.wanted)  # type: ignore[arg-type]

    def score(self, problem: Problem, text: str) -> float:
        return float(text == self.wanted)


def attempted(oracle: Oracle, denoiser: Scripted, rules: Rules, task: Words, count: int) -> Attempt:
    known = (rules, task, [task.problem(0)] * count, row_seeds(count, 0))
    plan = prepared(oracle, Assignment(denoiser, *known))  # type: ignore[arg-type]
    return attempt(denoiser, plan.policy, *known, memory=plan.memory)  # type: ignore[arg-type]


def one_problem(denoiser: Scripted) -> Assignment:
    """Of five positions, all of which have to be 4."""
    task, rules = Words("4 4 4 4 4"), Rules(response_length=5).resolve()
    return Assignment(denoiser, rules, task, [Words("").problem(0)], [0])  # type: ignore[arg-type]


def play(oracle: Oracle, denoiser: Scripted, wanted: str = "4 4 4 4 4", **rules: int):
    task = Words(wanted)
    some = Rules(response_length=5, **rules).resolve()  # type: ignore[arg-type]
    return attempted(oracle, denoiser, some, task, 2)


def test_it_writes_at_once_whatever_it_is_right_about() -> None:
    """Positions 0 and 2 need nothing, then 1, then 3, then 4: four evaluations where the leftmost rule has five."""
    played = play(Oracle(), Needing([(), (0,), (), (1, 2), (3,)]))
    assert played.correct.tolist() == [1.0, 1.0]
    assert played.rollout.nfe.tolist() == [4, 4]
    assert played.rollout.revealed_at[0].tolist() == [0, 1, 0, 2, 3]


def test_in_blocks_it_writes_within_the_block() -> None:
    played = play(Oracle(), Needing([(), (0,), (), (), ()]), block_length=5)
    assert played.rollout.revealed_at[0].tolist() == [0, 1, 0, 0, 0]
    task = Words("4 4 4 4 4 4")
    rules = Rules(response_length=6, block_length=2).resolve()
    six = attempted(Oracle(), Needing([(), (0,), (), (), (), ()]), rules, task, 1)
    assert six.rollout.revealed_at[0].tolist() == [0, 1, 2, 2, 3, 3]


def test_where_nothing_agrees_it_writes_the_leftmost_position() -> None:
    """The leftmost rule comes to position 1 before 4; for the oracle it has turned by then."""
    denoiser = Needing([(), (0, 3), (), (1,), ()], turned=(1, 4))
    played = play(Oracle(), denoiser, "4 3 4 4 4")
    assert played.rollout.responses[0].tolist() == [4, 3, 4, 4, 4]
    denoiser = Needing([(), (0,), (), (1,), ()], turned=(1, 4))
    played = play(Oracle(), denoiser)
    # The reference is all RIGHT. After the first step (0, 2, 4) position 1 says OTHER and 3 waits for 1.
    assert played.rollout.revealed_at[0].tolist() == [0, 1, 0, 2, 0]
    assert played.rollout.responses[0].tolist() == [4, OTHER, 4, 4, 4]
    assert played.correct.tolist() == [0.0, 0.0]


def test_of_several_rules_it_follows_the_slowest_that_is_right() -> None:
    needing = Needing([(), (0,), (1,), (2,), (3,)])  # all at once is wrong, from left to right is right
    for text, expected in [
        ("oracle:leftmost:5+leftmost:1", [4] * 5),
        ("oracle:leftmost:1+leftmost:5", [4] * 5),
        ("oracle:leftmost:5", [4, 3, 3, 3, 3]),
        ("oracle:leftmost:5+leftmost:4", [4, 3, 3, 3, 3]),  # neither is right, so the first
    ]:
        written, _ = load_oracle(text).written(one_problem(needing))
        assert written.tolist() == [expected], text
    both, evaluations = load_oracle("oracle:leftmost:5+leftmost:1").written(one_problem(Needing([()] * 5)))
    assert both.tolist() == [[4] * 5]
    assert evaluations.tolist() == [1 + 5]


def test_rules_after_one_that_was_right_and_could_not_be_slower_are_not_played() -> None:
    """leftmost:1 takes 5 evaluations, of 5 that there can be; leftmost:4 takes 2."""
    for text, evaluations in (("oracle:leftmost:1+leftmost:5", 5), ("oracle:leftmost:4+leftmost:5", 2 + 1)):
        denoiser = Needing([()] * 5)
        _, counted = load_oracle(text).written(one_problem(denoiser))
        assert counted.tolist() == [sum(denoiser.rows_per_call)] == [evaluations], text


def test_a_deadline_is_the_oracle_s_and_not_that_of_its_references() -> None:
    denoiser = Needing([(), (), (), (), (3,)])
    played = play(Oracle(), denoiser, deadline=2)
    assert played.correct.tolist() == [1.0, 1.0]
    assert played.rollout.nfe.tolist() == [2, 2]
    played = play(Oracle(), Needing([(), (0,), (1,), (2,), (3,)]), deadline=2)
    assert played.rollout.nfe.tolist() == [2, 2]
    assert played.correct.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oracle:", "unknown heuristic ''"),
        ("oracle:nosuch", "unknown heuristic 'nosuch'"),
        ("oracle:top_k:1+top_k:1", "top_k:1 is given twice"),
        ("oracle:wino", "puts tokens back to mask"),
        ("oracles", "is not the oracle"),
    ],
)
def test_bad_oracles(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_oracle(text)


def test_names() -> None:
    assert load_oracle("oracle").name == "oracle"
    assert load_oracle("oracle:leftmost:1").name == "oracle"
    assert load_oracle("oracle:top_k:1+leftmost:1").name == "oracle:top_k:1+leftmost:1"
    named = ("oracle", "oracle:top_k:1", "runs/oracle", "./oracle")
    assert [reference_kind(text) for text in named] == ["oracle", "oracle", None, None]
    with pytest.raises(UsageError, match="plays in dllm-env eval only"):
        load_policy("oracle")


def test_in_an_evaluation_it_is_of_a_kind_of_its_own(toy_folder: Path) -> None:
    config = EvaluationConfig(task="trace", denoiser=str(toy_folder), problems=3, block_length=(8,))
    oracle, rule = evaluate(config, ["oracle", "leftmost:1"])
    assert (oracle.setting.kind, rule.setting.kind) == ("oracle", "heuristic")
    assert replace(oracle.setting, policy="oracle", learned=True).kind == "learned"
    assert all(a.nfe <= b.nfe for a, b in zip(oracle.outcomes, rule.outcomes, strict=True))
    alone = evaluate(replace(config, batch_size=1), ["oracle"])[0]
    assert [o.response for o in alone.outcomes] == [o.response for o in oracle.outcomes]
    assert [o.nfe for o in alone.outcomes] == [o.nfe for o in oracle.outcomes]
    with pytest.raises(UsageError, match="oracle is given twice"):
        evaluate(config, ["oracle", "oracle:leftmost:1"])

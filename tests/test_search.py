"""Searches over unmaskings: hand-worked trees, what plays in the end, and what they teach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_oracle import Needing, Words

from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.eval.compare import pool
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.eval.fronts import fronts
from dllm_env.pareto import plot_pareto
from dllm_env.policies.base import Assignment
from dllm_env.policies.learned import load_policy
from dllm_env.policies.references import load_reference, prepared
from dllm_env.policies.rollout import attempt, row_seeds
from dllm_env.policies.search import (
    MCTS,
    Beam,
    Completed,
    Found,
    Node,
    RewardGuided,
    Search,
    Tree,
    select,
    undominated,
)
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train.grpo import GRPO, train_grpo

THREE = Needing([(), (0,), ()])
"""Positions 0 and 2 are right at any time, 1 once 0 is written; a response is right if all are."""
RULES = "top_k:3+leftmost:1+rightmost:1"


def three(count: int) -> Assignment:
    """The same problem again and again."""
    task, rules = Words("4 4 4"), Rules(response_length=3).resolve()
    return Assignment(THREE, rules, task, [task.problem(0)] * count, row_seeds(count, 0))  # type: ignore[arg-type]


def tree(search: Search, count: int = 1) -> Tree:
    return Tree(search, three(count))


def by_path(node: Node) -> dict[tuple[int, ...], Node]:
    return {child.path: child for child in node.children}


def test_a_tree_by_hand() -> None:
    """Three rounds, at the root and at both of its open children, whichever comes first.

    Root: all at once is wrong and over (1 evaluation); leftmost is right after 3, which is worth 1 − 3/3 = 0;
    rightmost is wrong after 3. After position 0: hindsight and all at once write both others, right after 2, worth
    1/3 each; leftmost and rightmost are right after 3. After position 2: hindsight and leftmost are right after 3,
    all at once is wrong after 2, rightmost wrong after 3. UCT: √7 / 3 / (1 + n) is 0.44 for the child that was
    visited once, and at most 2/15 + 0.15 = 0.28 for the one that was visited five times.
    """
    search = MCTS(budget=19, children=4, proposals=RULES, exploration=1.0)
    made = tree(search)
    (root,) = search.grow(made)
    assert (root.visits, root.depth, root.closed) == (11, 0, False)
    assert root.total == pytest.approx([2 / 3])
    children = by_path(root)
    assert set(children) == {(0, 0, 0), (0, -1, -1), (-1, -1, 0)}
    wrong, first, last = (children[path] for path in ((0, 0, 0), (0, -1, -1), (-1, -1, 0)))
    assert (wrong.visits, wrong.value, wrong.closed) == (1, (0.0,), True)
    assert (first.visits, first.closed) == (5, False)
    assert first.value == pytest.approx((2 / 15,))
    assert (last.visits, last.value, last.closed) == (5, (0.0,), False)
    below = {path: (node.visits, node.closed) for path, node in by_path(first).items()}
    assert below == {(0, 1, 1): (2, True), (0, 1, -1): (1, False), (0, -1, 1): (1, False)}
    assert by_path(first)[0, 1, 1].value == pytest.approx((1 / 3,))
    below = {path: (node.visits, node.closed) for path, node in by_path(last).items()}
    assert below == {(1, -1, 0): (2, False), (1, 1, 0): (1, True), (-1, 1, 0): (1, False)}
    (found,) = made.found
    assert found.evaluations == (1 + 3 + 3) + (2 + 2 + 3 + 3) + (3 + 2 + 3 + 3)
    assert (found.best.path, found.best.score, found.best.nfe) == ((0, 1, 1), 1.0, 2)
    assert sorted(one.rank for one in found.front) == [(0.0, -1), (1.0, -2)]


def test_a_search_ends_when_nothing_is_left() -> None:
    """All orders of three positions, and then no more, whatever the budget."""
    search = MCTS(budget=10**6, children=4, proposals=RULES)
    made = tree(search, 2)
    roots = search.grow(made)
    assert all(root.closed for root in roots)
    paths = {one.path for one in made.found[0].completed}
    assert {(0, 1, 2), (0, 2, 1), (0, 1, 1), (1, 2, 0), (2, 1, 0), (0, 0, 0), (1, 1, 0)} <= paths
    assert made.found[0].best.path == (0, 1, 1)


def node(visits: int, *total: float, closed: bool = False) -> Node:
    return Node((), 1, None, visits, list(total), [], closed)


def test_selection_by_hand() -> None:
    """N = 9, c = 0.5, three children: bonus 0.5 · 3 / 3 / (1 + n) = 0.5 / (1 + n)."""
    generator = torch_generator("select")
    a, b, c = node(4, 2.0), node(1, 0.3), node(4, 3.9, closed=True)
    root = Node((), 0, None, 9, [6.2], [a, b, c])
    # 0.5 + 0.1 = 0.6 and 0.3 + 0.25 = 0.55; the best of all is closed.
    assert select(root, 0.5, generator) is a
    assert select(root, 1.0, generator) is b  # 0.7 and 0.8
    assert select(root, 0.0, generator) is a
    # Two objectives: (0.5, 0.1) and (0.2, 0.6) do not beat each other, (0.1, 0.1) is beaten.
    a, b, c = node(2, 1.0, 0.2), node(2, 0.4, 1.2), node(2, 0.2, 0.2)
    root = Node((), 0, None, 6, [1.6, 1.6], [a, b, c])
    drawn = [select(root, 0.1, generator) for _ in range(40)]
    assert {id(one) for one in drawn} == {id(a), id(b)}


def test_what_no_other_beats() -> None:
    assert undominated([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.0)]) == [True, True, False, True]
    found = Found()
    for score, nfe in ((1.0, 5), (1.0, 3), (0.0, 2), (0.0, 4), (1.0, 3)):
        found.add(Completed((0,), (4,), 1, score, nfe, nfe / 10))
    assert found.evaluations == 17
    assert found.best is found.completed[1]
    assert found.front == [found.completed[1], found.completed[2]]


@pytest.mark.parametrize(
    "search", [Beam(children=4, proposals=RULES, width=1), RewardGuided(children=4, proposals=RULES)]
)
def test_the_others_find_it_too(search: Search) -> None:
    """The beam takes position 0 first, whose completion is right, and then has hindsight."""
    found = search.found(three(8))
    best = [(one.best.path, one.best.nfe) for one in found]
    if isinstance(search, Beam):
        assert best == [((0, 1, 1), 2)] * 8
    assert ((0, 1, 1), 2) in best
    assert all(one.best.score == 1 for one in found)


def test_without_hindsight_only_rules_propose() -> None:
    """Of these rules none writes the other two at once after position 0, and the best is three steps."""
    search = Beam(children=4, proposals="leftmost:1+rightmost:1", width=2, hindsight=False)
    assert "hindsight=false" in search.name
    assert load_reference(search.name) == search
    found = search.found(three(4))
    assert {one.best.nfe for one in found} == {3}
    assert {one.best.nfe for one in replace(search, hindsight=True).found(three(4))} == {2}


def test_h_decides_how_greedy_it_is() -> None:
    """After position 0 is written two of four candidates are worth 1/3; at the root all are worth 0."""
    steps = []
    for h in (0.0, 1e4):
        search = RewardGuided(children=4, proposals=RULES, h=h)
        found = search.found(three(40))
        steps.append(sum(len(one.completed) for one in found))
    assert steps[1] < steps[0]  # greedily it takes what ends the row


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "text", ["mcts:budget=40", "mcts:budget=40,pareto=true", "beam:budget=40", "rgas:budget=40"]
)
def test_what_plays_is_what_was_found(text: str, temperature: float) -> None:
    denoiser, task = load_denoiser("tiny"), load_task("trace")
    rules = Rules(response_length=40, block_length=20, temperature=temperature).resolve()
    problems = [task.problem(index) for index in range(6)]
    given = Assignment(denoiser, rules, task, problems, row_seeds(6, "search"))
    search = load_reference(text)
    assert isinstance(search, Search)
    found = search.found(given)
    plan = prepared(search, given)
    assert plan.evaluations is not None
    assert plan.evaluations.tolist() == [one.evaluations for one in found]
    played = attempt(denoiser, plan.policy, rules, task, problems, given.seeds, memory=plan.memory)
    assert played.correct.tolist() == [one.best.score for one in found]
    assert played.rollout.nfe.tolist() == [one.best.nfe for one in found]
    assert [tuple(row) for row in played.rollout.responses.tolist()] == [one.best.response for one in found]
    alone = search.found(replace(given, problems=problems[3:4], seeds=given.seeds[3:4]))
    assert alone[0].completed == found[3].completed


def test_in_an_evaluation_it_is_of_a_kind_of_its_own(tmp_path: Path) -> None:
    config = EvaluationConfig(problems=8)
    names = ["random:4", "threshold:0.7", "oracle", "mcts:budget=30", "rgas:budget=30"]
    results = evaluate(config, names)
    assert [result.setting.kind for result in results] == ["heuristic", "heuristic", "oracle", "search", "search"]
    assert [result.setting.policy for result in results][3:] == ["mcts:budget=30", "rgas:budget=30"]
    planned = [result.record()["planning_nfe"] for result in results]
    assert planned[:3] == [0, 0, 40]  # the oracle follows leftmost:1
    assert min(planned[3:]) >= 30
    entries = pool(results)
    whose = [front.who for front in fronts(entries)]
    assert "search" in whose
    assert "mcts" not in whose
    plot_pareto({"": [entry.point for entry in entries]}).savefig(tmp_path / "front.png")


def test_training_can_begin_with_what_a_search_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = GRPO().changed(
        start="mcts:budget=20",
        imitation_problems=6,
        imitation_steps=3,
        updates=1,
        prompts=2,
        validation_problems=2,
        validation_rules=(),
        width=8,
    )
    train_grpo(settings, tmp_path / "run")
    assert (tmp_path / "run" / "best").is_dir()
    for more in ({"alpha": 0.3}, {"preferences": (0.1, 1.0)}):
        name = f"rounds {len(more)} {next(iter(more))}"
        train_grpo(settings.changed(imitation_rounds=2, **more), tmp_path / name)
    printed = capsys.readouterr().out
    assert printed.count("found a right path for") == 5
    with pytest.raises(UsageError, match="are of a start that is a search"):
        train_grpo(settings.changed(imitation_rounds=2, start="portfolio"), tmp_path / "bad")
    with pytest.raises(UsageError, match="cannot propose to a search"):
        train_grpo(settings.changed(imitation_rounds=2, context="block", block_length=20), tmp_path / "bad")
    with pytest.raises(UsageError, match="budget must be at least 1"):
        train_grpo(settings.changed(start="mcts:budget=0"), tmp_path / "bad")
    assert not (tmp_path / "bad").exists() or not list((tmp_path / "bad").glob("*.json"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mcts:budget=0", "budget must be at least 1"),
        ("mcts:children=0", "children must be at least 1"),
        ("mcts:exploration=-1", "exploration must be at least 0"),
        ("beam:width=0", "width must be at least 1"),
        ("rgas:h=-1", "h must be at least 0"),
        ("mcts:proposals=wino", "wino puts tokens back to mask"),
        ("mcts:proposals='leftmost:1+leftmost:1'", "given twice"),
        ("mcts:proposals=nothing", "unknown heuristic"),
        ("mcts:depth=3", "depth"),
        ("mcts:policies=leftmost:1", "policies"),
    ],
)
def test_bad_settings(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_reference(text)


def test_it_is_no_policy() -> None:
    with pytest.raises(UsageError, match="asks whether responses are right; it plays in dllm-env eval only"):
        load_policy("mcts:budget=20")
    stateful = MCTS(budget=1, proposals="klass")
    with pytest.raises(UsageError, match="remembers earlier steps"):
        stateful.grow(tree(stateful))


def test_names_are_read_back() -> None:
    for text in ("mcts:budget=200", "beam:budget=50,width=4", "rgas:budget=200,h=5"):
        assert load_reference(text).name == text
    rules = "mcts:budget=200,proposals='threshold:0.5,fallback=leftmost+leftmost:1'"
    assert load_reference(rules).name == rules
    assert load_reference(rules) == replace(MCTS(), proposals="threshold:0.5,fallback=leftmost+leftmost:1")
    assert torch.is_tensor(prepared(MCTS(budget=1, proposals="leftmost:1"), three(1)).memory["plan"])

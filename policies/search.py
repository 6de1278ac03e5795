"""Looking ahead: searches over unmaskings, with the outcome as their judge. References, and teachers.

A rule decides from one look; a search tries what comes of a decision. A **path** says which positions are revealed
in each of the first steps. A **branch** follows a path, takes one step more as one of several proposals would, and
is completed by that proposal; the response that it ends with is judged by the task. One proposal is hindsight: as
soon as some branch was right, what agrees with its response is revealed. Branches of all problems are played
together by the one generation loop, which replays their paths from the start, so that an evaluation is counted for
every step of every branch. What plays in the end is the best path that was found: right first, then short.

Because they ask for the outcome, these are no policies that anybody could use: like the oracle they show what is
possible, but without knowing what to write. ``train --start mcts`` imitates what they find.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Assignment, Decision, Plan, Policy, Reference, undoes
from dllm_env.policies.heuristics import at_least, number
from dllm_env.policies.oracle import Following
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import attempt
from dllm_env.random import RowRandom, torch_generator
from dllm_env.reading import check_value
from dllm_env.rules import Context
from dllm_env.specs import load

PROPOSALS = (
    *(f"threshold:{threshold},fallback=leftmost" for threshold in (0.2, 0.4, 0.6, 0.8, 0.95)),
    *(f"threshold:{threshold}" for threshold in (0.2, 0.4, 0.6, 0.8, 0.95)),
)
"""Rules of several speeds, which propose steps."""

Path = tuple[int, ...]
"""The step in which each of the L positions is revealed, −1 where the path does not say."""
Value = tuple[float, ...]
"""What a branch is worth, one number for each objective, more is better."""
HINDSIGHT = -1
"""The number of the proposal that agrees with the best right response so far."""


class Planned:
    """Plays a path: reveals in each step what ``plan`` (B, L) in its memory says."""

    name = "plan"
    context: Context = "full"
    top = 1
    extras = Extras()

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        plan = observation.memory["plan"]
        return Decision((plan == observation.step[:, None]) & observation.selectable, memory=observation.memory)


@dataclass(frozen=True)
class Branching:
    """Follows ``plan`` (B, L) before the step ``depth`` (B,), and from then on proposal number ``choice`` (B,).

    With ``HINDSIGHT`` that is what agrees with ``reference`` (B, L), as the oracle does.

    Attributes:
        proposals: rules without a memory, and learned policies that see the whole response.
    """

    proposals: tuple[Policy, ...]
    name = "branch"
    context: Context = "full"

    @property
    def top(self) -> int:
        """What one of the proposals reads."""
        return max(proposal.top for proposal in self.proposals)

    @property
    def extras(self) -> Extras:
        """What one of the proposals reads."""
        found = Following.extras
        for proposal in self.proposals:
            found = found | proposal.extras
        return found

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        memory, selectable = observation.memory, observation.selectable
        unmask = (memory["plan"] == observation.step[:, None]) & selectable
        free = observation.step >= memory["depth"]
        for choice, proposal in ((HINDSIGHT, Following()), *enumerate(self.proposals)):
            rows = (free & (memory["choice"] == choice)).nonzero()[:, 0]
            if len(rows):
                decision = proposal.act(observation[rows], random[rows])
                if choice != HINDSIGHT and decision.memory:
                    raise UsageError(f"{proposal.name} remembers earlier steps, so that a search cannot propose it")
                unmask[rows] = decision.unmask
        return Decision(unmask, memory=memory)


@dataclass(frozen=True)
class Branch:
    """To be played.

    Attributes:
        problem: its place among the problems.
        path: what it follows.
        depth: steps of the path.
        choice: the proposal that then plays.
        reference: the response that hindsight agrees with.
    """

    problem: int
    path: Path
    depth: int
    choice: int
    reference: tuple[int, ...] = ()


@dataclass(frozen=True)
class Completed:
    """A branch that was played.

    Attributes:
        path: all of it.
        response: its tokens.
        depth: steps of the branch's path, and one.
        score: the task's.
        nfe: its evaluations.
        share: of L that ``nfe`` is.
    """

    path: Path
    response: tuple[int, ...]
    depth: int
    score: float
    nfe: int
    share: float

    @property
    def step(self) -> Path:
        """The branch's path and its one step more."""
        return tuple(step if step < self.depth else -1 for step in self.path)

    @property
    def ends(self) -> bool:
        """Whether nothing is left to decide after that step."""
        return max(self.path) < self.depth

    @property
    def reward(self) -> float:
        """The score, times the evaluations that were not needed, as a share of L."""
        return self.score * (1 - self.share)

    @property
    def rank(self) -> tuple[float, int]:
        """By which the best is the largest."""
        return self.score, -self.nfe


@dataclass
class Found:
    """What a search found of a problem.

    Attributes:
        completed: all that was played, in order.
        evaluations: of the denoiser, all branches together.
    """

    completed: list[Completed] = field(default_factory=list)
    evaluations: int = 0

    def add(self, one: Completed) -> None:
        """Takes what was played."""
        self.completed.append(one)
        self.evaluations += one.nfe

    @property
    def best(self) -> Completed:
        """Right first, then short; of equals the first."""
        return max(self.completed, key=lambda one: one.rank)

    @property
    def front(self) -> list[Completed]:
        """The Pareto set over score and evaluations: of those with the same, the first."""
        kept: dict[tuple[float, int], Completed] = {}
        for one in self.completed:
            kept.setdefault(one.rank, one)
        ranks = [tuple(map(float, rank)) for rank in kept]
        return [one for one, there in zip(kept.values(), undominated(ranks), strict=True) if there]


def undominated(values: Sequence[Value]) -> list[bool]:
    """Of which no other is at least as good in everything and better in something."""

    def beats(a: Value, b: Value) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return [not any(beats(other, value) for other in values) for value in values]


@dataclass(frozen=True)
class Search(Reference):
    """Base of the searches.

    Attributes:
        budget: a problem's search begins no round any more after so many denoiser evaluations.
        children: M, branches of a round at a place.
        proposals: rules that propose, with + between them, and in quotes where they have settings; without any,
            thresholds of five speeds with both fallbacks. M of them are drawn anew at each place.
        hindsight: propose what agrees with a right response, too, once there is one.
    """

    search = ""
    kind = "search"
    budget: int = 200
    children: int = 4
    proposals: str = ""
    hindsight: bool = True

    def __post_init__(self) -> None:
        at_least(self.search, 1, budget=self.budget, children=self.children)
        check_value(self.proposals, str, f"{self.search}: proposals")
        for rule in self.rules:
            if what := undoes(load_heuristic(rule)):
                raise UsageError(f"{self.search}: {rule} {what}, which a path cannot say")
            if self.rules.count(rule) > 1:
                raise UsageError(f"{self.search}: {rule} is given twice")

    @property
    def rules(self) -> tuple[str, ...]:
        """The proposals, one by one."""
        return tuple(self.proposals.split("+")) if self.proposals else PROPOSALS

    @property
    def name(self) -> str:
        """``mcts:budget=200``: the budget, and what differs from the defaults."""
        shown = []
        for column in fields(self):
            value = getattr(self, column.name)
            if column.name == "budget" or value != column.default:
                shown.append(f"{column.name}={_written(value)}")
        return f"{self.search}:{','.join(shown)}"

    @abc.abstractmethod
    def run(self, tree: Tree) -> None:
        """Searches, all problems of the tree together."""

    def found(self, given: Assignment, policies: Sequence[Policy] = ()) -> list[Found]:
        """What it finds of each problem; policies may propose, too."""
        tree = Tree(self, given, policies)
        self.run(tree)
        return tree.found

    def prepare(self, given: Assignment) -> Plan:
        return replay(self.found(given))


def _written(value: str | bool | float) -> str:
    """A setting as it is read again."""
    if isinstance(value, str):
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else number(value)


def replay(found: Sequence[Found]) -> Plan:
    """What plays the best paths that were found."""
    paths = {"plan": torch.tensor([one.best.path for one in found])}
    return Plan(Planned(), paths, torch.tensor([one.evaluations for one in found]))


class Tree:
    """What the searches have in common: they play branches, and note what came of them.

    Attributes:
        settings: of the search.
        length: L.
        found: of each problem.
        generators: of what is drawn for each problem.
    """

    def __init__(self, settings: Search, given: Assignment, policies: Sequence[Policy] = ()) -> None:
        self.settings, self.given, self.length = settings, given, given.rules.response_length
        self.found = [Found() for _ in given.problems]
        self.generators = [torch_generator(settings.search, seed) for seed in given.seeds]
        self._player = Branching((*(load_heuristic(rule) for rule in settings.rules), *policies))
        self._known: dict[Branch, Completed] = {}

    def affords(self, problem: int) -> bool:
        """Whether the problem's search may go on."""
        return self.found[problem].evaluations < self.settings.budget

    def branches(self, problem: int, path: Path, depth: int) -> list[Branch]:
        """M branches at the end of a path, of which hindsight is the first where something was right."""
        found, count = self.found[problem], self.settings.children
        drawn = torch.randperm(len(self._player.proposals), generator=self.generators[problem]).tolist()
        branches = [Branch(problem, path, depth, choice) for choice in drawn]
        if self.settings.hindsight and found.completed and found.best.score == 1:
            branches.insert(0, Branch(problem, path, depth, HINDSIGHT, found.best.response))
        return branches[:count]

    def play(self, groups: Sequence[Sequence[Branch]]) -> list[list[Completed]]:
        """Plays groups of branches, all together; what was played before is not played again."""
        asked = dict.fromkeys(branch for group in groups for branch in group)
        self._play([branch for branch in asked if branch not in self._known])
        return [[self._known[branch] for branch in group] for group in groups]

    def _play(self, branches: Sequence[Branch]) -> None:
        if not branches:
            return
        given = self.given
        played = attempt(
            given.denoiser,
            self._player,
            given.rules,
            given.task,
            [given.problems[branch.problem] for branch in branches],
            # Each has its problem's seed: what it replays comes out as before, drawn tokens included.
            [given.seeds[branch.problem] for branch in branches],
            batch_size=given.batch_size,
            memory={
                "plan": torch.tensor([branch.path for branch in branches]),
                "depth": torch.tensor([branch.depth for branch in branches]),
                "choice": torch.tensor([branch.choice for branch in branches]),
                "reference": torch.tensor([branch.reference or self.start() for branch in branches]),
            },
        )
        of = played.rollout
        columns = of.revealed_at.tolist(), of.responses.tolist(), of.nfe.tolist(), played.correct.tolist()
        for branch, path, response, nfe, score in zip(branches, *columns, strict=True):
            one = Completed(tuple(path), tuple(response), branch.depth + 1, score, nfe, nfe / self.length)
            self._known[branch] = one
            self.found[branch.problem].add(one)

    def start(self) -> Path:
        """The path that says nothing."""
        return (-1,) * self.length


# ------------------------------------------------------------------------------------------- tree search


@dataclass
class Node:
    """A path in the tree.

    Attributes:
        path, depth: what it follows, and how many steps.
        parent: the node before, or None.
        visits: branches that were completed from here or below.
        total: the sums of their values.
        children: nodes one step further.
        closed: nothing below is left to try.
    """

    path: Path
    depth: int
    parent: Node | None = None
    visits: int = 0
    total: list[float] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    closed: bool = False

    @property
    def value(self) -> Value:
        """The means of the values."""
        return tuple(each / self.visits for each in self.total)

    def back_up(self, values: Sequence[Value]) -> None:
        """Adds values here and above."""
        node: Node | None = self
        while node is not None:
            node.visits += len(values)
            for value in values:
                node.total = [a + b for a, b in zip(node.total or [0.0] * len(value), value, strict=True)]
            node = node.parent

    def close(self) -> None:
        """Closes it, and what above has nothing open left."""
        node: Node | None = self
        while node is not None and all(child.closed for child in node.children):
            node.closed = True
            node = node.parent


def select(root: Node, exploration: float, generator: torch.Generator) -> Node:
    """The open leaf that is reached by taking at each node an open child that no other beats.

    A child is worth its mean value plus ``exploration`` · √N / (1 + n) / children, N being the node's visits and n
    the child's. Of several objectives a child that no other beats in all of them is drawn at random.
    """
    node = root
    while node.children:
        bonus = exploration * math.sqrt(node.visits) / len(node.children)
        some = [child for child in node.children if not child.closed]
        worth = [tuple(each + bonus / (1 + child.visits) for each in child.value) for child in some]
        best = [child for child, good in zip(some, undominated(worth), strict=True) if good]
        several = len(node.total) > 1 and len(best) > 1
        node = best[int(torch.randint(len(best), (1,), generator=generator)) if several else 0]
    return node


@dataclass(frozen=True)
class MCTS(Search):
    """Monte-Carlo tree search over sets of positions.

    Each round takes the open leaf that UCT leads to, plays M branches there, and adds their values to all nodes
    above: PepTune's tree guidance (arXiv 2412.17780), with sets of positions for its children, completed by what
    proposed them. The value is the score times the share of evaluations that were not needed; with ``pareto`` it
    has two objectives, the score and that, of which children are taken that no other beats in both.
    """

    search = "mcts"
    exploration: float = 0.3
    pareto: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.search, 0.0, exploration=self.exploration)

    def value(self, one: Completed) -> Value:
        """Of a branch."""
        return (one.score, one.reward) if self.pareto else (one.reward,)

    def run(self, tree: Tree) -> None:
        self.grow(tree)

    def grow(self, tree: Tree) -> list[Node]:
        """Searches; returns the problems' roots."""
        roots = [Node(tree.start(), 0) for _ in tree.found]
        while going := [i for i, root in enumerate(roots) if not root.closed and tree.affords(i)]:
            leaves = [select(roots[i], self.exploration, tree.generators[i]) for i in going]
            groups = [tree.branches(i, leaf.path, leaf.depth) for i, leaf in zip(going, leaves, strict=True)]
            for leaf, played in zip(leaves, tree.play(groups), strict=True):
                self._expand(leaf, played)
        return roots

    def _expand(self, leaf: Node, played: Sequence[Completed]) -> None:
        """Gives a leaf its children, one for each step that was proposed, and their values to all above."""
        children: dict[Path, Node] = {}
        for one in played:
            child = children.setdefault(one.step, Node(one.step, one.depth, leaf))
            child.back_up([self.value(one)])
            child.closed = one.ends
        leaf.children = list(children.values())
        if all(child.closed for child in leaf.children):
            leaf.close()


# ------------------------------------------------------------------------------------------ step by step


@dataclass(frozen=True)
class Stepwise(Search):
    """Base of the searches that go on from some of the paths of a step, and never back."""

    @abc.abstractmethod
    def keep(self, candidates: Sequence[Completed], generator: torch.Generator) -> list[Path]:
        """Where to go on, of a problem's branches of one step; nowhere where nothing is left to decide."""

    def run(self, tree: Tree) -> None:
        paths = {i: [tree.start()] for i in range(len(tree.found))}
        for depth in range(tree.length):
            paths = {i: some for i, some in paths.items() if some and tree.affords(i)}
            groups = [[b for path in some for b in tree.branches(i, path, depth)] for i, some in paths.items()]
            played = tree.play(groups)
            paths = {i: self.keep(one, tree.generators[i]) for i, one in zip(paths, played, strict=True)}


@dataclass(frozen=True)
class Beam(Stepwise):
    """Beam search: step by step, the ``width`` paths whose branches have the best completions."""

    search = "beam"
    width: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.search, 1, width=self.width)

    def keep(self, candidates: Sequence[Completed], generator: torch.Generator) -> list[Path]:
        ranked = sorted((one for one in candidates if not one.ends), key=lambda one: one.rank, reverse=True)
        return list(dict.fromkeys(one.step for one in ranked))[: self.width]


@dataclass(frozen=True)
class RewardGuided(Stepwise):
    """Reward-guided ancestral sampling (DiDi-Instruct, arXiv 2509.25035).

    In each step one of M candidates is taken with a probability in proportion to exp(h · reward), the reward being
    that of its completion.
    """

    search = "rgas"
    h: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.search, 0.0, h=self.h)

    def keep(self, candidates: Sequence[Completed], generator: torch.Generator) -> list[Path]:
        weights = (self.h * torch.tensor([one.reward for one in candidates]).double()).softmax(0)
        taken = candidates[int(torch.multinomial(weights, 1, generator=generator))]
        return [] if taken.ends else [taken.step]


SEARCHES: dict[str, type[Search]] = {kind.search: kind for kind in (MCTS, Beam, RewardGuided)}
"""The searches by name."""


def load_search(text: str) -> Search:
    """A search by name with its settings: ``mcts:budget=200``.

    Raises:
        UsageError: no such search or setting, or a value out of range.
    """
    return load(text, SEARCHES, "search")

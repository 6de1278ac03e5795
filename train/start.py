"""The start: what a policy imitates before the training itself, found by trying.

A portfolio of rules and the oracle play some training problems. What the policy then imitates is, problem by
problem, the right trajectory of highest reward. The oracle's and the luckiest rule's can be known by hindsight
only; that is a fast start, and no careful one. Where speed counts for little, it is the best rule's instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dllm_env.dynamics import Observation, Wishes
from dllm_env.errors import UsageError
from dllm_env.policies.base import Player, undoes
from dllm_env.policies.heads import Head, PlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.oracle import ORACLE
from dllm_env.policies.references import load_reference, prepared, reference_kind
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, row_seeds
from dllm_env.policies.search import load_search, replay
from dllm_env.progress import Bar
from dllm_env.random import torch_generator
from dllm_env.tasks.base import Problem
from dllm_env.train.config import PolicyTraining
from dllm_env.train.dagger import learn_by_correction
from dllm_env.train.imitation import (
    PIECE,
    check_expert,
    expert_draws,
    play_expert,
    play_recorded,
)
from dllm_env.train.losses import finite_step
from dllm_env.train.setup import Setup
from dllm_env.train.validation import alphas
from dllm_env.train.wishes import draw_wishes

PORTFOLIO = (
    *(f"threshold:{threshold},fallback=leftmost" for threshold in (0.6, 0.7, 0.8, 0.9)),
    *(f"threshold:{threshold}" for threshold in (0.6, 0.7, 0.8, 0.9)),
    "leftmost:1",
)
"""The rules that ``--start portfolio`` tries beside the oracle."""
TRIED = 64
"""Problems on which all of them are tried; the rest is played by the best ones."""
CAREFUL = 0.17
"""α below which the policy imitates the rule that is best on average, and nobody's luck."""
ALPHAS = 9
"""Of a range of α, so many are looked at."""
CHECK_EVERY = 20
"""Gradient steps between two looks at the policy's own accuracy."""
OWN_PROBLEMS = 64
"""Problems of such a look."""
OWN_ALPHAS = 4
"""At so many α a policy for a range of them proposes to a search."""


@dataclass
class Demonstration:
    """What is imitated.

    Attributes:
        seen: M steps on the way to right answers, as the policy would see them.
        draw: (M, W) what was decided, as draws of the policy's head.
        weight: (M,) how often each step is imitated: every problem equally often, whatever its number of steps.
        accuracy: share of the problems that have such steps.
    """

    seen: Observation
    draw: Tensor
    weight: Tensor
    accuracy: float


@dataclass(frozen=True)
class Candidate:
    """A rule or the oracle, and what it played."""

    name: str
    played: Attempt


def check_start(setup: Setup, settings: PolicyTraining) -> None:
    """Before any work.

    Raises:
        UsageError: something to imitate that cannot be.
    """
    start, rounds = settings.imitation.start, settings.imitation.imitation_rounds
    if rounds > 1 and reference_kind(start) != "search":
        raise UsageError(f"imitation_rounds are of a start that is a search, such as mcts:budget=100; got {start}")
    if not settings.imitation.imitation_steps or start in ("none", "portfolio", "dagger"):
        return
    if reference_kind(start) == "search":
        if rounds > 1 and settings.context == "block":
            raise UsageError(
                "a policy that sees a block only cannot propose to a search; take --imitation-rounds 1"
            )
        load_search(start)
    elif start == ORACLE:
        load_reference(start)
    elif start == "expert":
        check_expert(setup, settings)
    elif what := undoes(load_heuristic(start)):
        raise UsageError(f"the start {start} {what}, which a policy cannot imitate")


def imitate(setup: Setup, settings: PolicyTraining) -> None:
    """At most ``imitation_steps`` steps of maximum likelihood on what the start got right on some problems.

    What remains is the running average of the weights: as right as the weights after a slow end, and earlier.
    """
    config = settings.imitation
    if not config.imitation_steps or config.start == "none":
        return
    if config.start == "dagger":
        learn_by_correction(setup, settings)
        return
    for number in range(config.imitation_rounds):
        imitate_round(setup, settings, number)


def imitate_round(setup: Setup, settings: PolicyTraining, number: int) -> None:
    """One round of ``imitate``, from 0, of ``imitation_rounds``."""
    config, network = settings.imitation, setup.policy.network
    network.eval()
    shown = demonstrate(setup, settings, number)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.imitation_learning_rate)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    network.train()
    generator, accuracy = torch_generator("imitation", settings.seed), 0.0
    with Bar() as bar:
        task = bar.add_task("imitation", total=config.imitation_steps)
        if shown is None:
            none = f"nothing to imitate: {config.start} solves none of {config.imitation_problems} problems"
            bar.update(task, figures=none)
            return
        for update in range(config.imitation_steps):
            rows = torch.multinomial(shown.weight, config.imitation_batch_size, True, generator=generator)
            likelihood = _imitate_once(setup.policy, optimizer, shown, rows.to(shown.draw.device))
            average.update_parameters(network)
            if update % CHECK_EVERY == CHECK_EVERY - 1:
                accuracy = own_accuracy(setup, average.module, settings, update)
            figures = f"accuracy {accuracy:.0%} of {shown.accuracy:.0%} log-likelihood {likelihood:.2f}"
            bar.update(task, advance=1, figures=figures)
            if accuracy >= config.imitation_target * shown.accuracy:
                break
    network.load_state_dict(average.module.state_dict())


# ----------------------------------------------------------------------------------------- what is imitated


def demonstrate(setup: Setup, settings: PolicyTraining, number: int = 0) -> Demonstration | None:
    """Plays what the settings name, on ``imitation_problems`` of this round; None where nothing is right."""
    config = settings.imitation
    problems = setup.problems(number * config.imitation_problems, config.imitation_problems)
    asked = draw_wishes(settings.rewards, len(problems), torch_generator("wishes", settings.seed), deadlines=False)
    if config.start == "portfolio":
        return _of_portfolio(setup, settings, problems, asked)
    if config.start == "expert":
        played = play_expert(setup, settings, problems, "imitation", wishes=asked)
    elif reference_kind(config.start) == "search":
        played = _play_search(setup, settings, problems, asked, number)
    else:
        played = _play(setup, settings, config.start, problems, asked, "start")
    return _join([_right(setup.policy, played, torch.ones(len(problems), dtype=torch.bool))], len(problems))


def _play(
    setup: Setup, settings: PolicyTraining, name: str, problems: Sequence[Problem], asked: Wishes, key: str
) -> Attempt:
    player: Player = load_reference(name) if reference_kind(name) else load_heuristic(name)
    seeds = row_seeds(len(problems), key, settings.seed)
    plan = prepared(player, setup.assigned(problems, seeds, settings.batch_size))
    return play_recorded(setup, settings, plan.policy, setup.rules, problems, seeds, asked, plan.memory)


def _play_search(
    setup: Setup, settings: PolicyTraining, problems: Sequence[Problem], asked: Wishes, number: int
) -> Attempt:
    """What a search finds; from the second round on the policy proposes, too, at several α if it has a range."""
    search, policy, own = load_search(settings.imitation.start), setup.policy, list[LearnedPolicy]()
    if number and settings.rewards.preferences:
        low, high = settings.rewards.preferences
        own = [policy.at(alpha) for alpha in alphas(low, high, OWN_ALPHAS)]
    elif number:
        own = [policy]
    seeds = row_seeds(len(problems), "start", settings.seed, *([number] if number else []))
    found = search.found(setup.assigned(problems, seeds, settings.batch_size), own)
    right = [one for one in found if one.best.score == 1]
    steps = sum(one.best.nfe for one in right) / max(len(right), 1)
    Console(highlight=False, markup=False).print(
        f"start: {search.name} found a right path for {len(right)} of {len(problems)} problems, of {steps:.1f} "
        f"evaluations on average, with {sum(one.evaluations for one in found):,} denoiser evaluations in all"
    )
    plan = replay(found)
    return play_recorded(setup, settings, plan.policy, setup.rules, problems, seeds, asked, plan.memory)


def _of_portfolio(
    setup: Setup, settings: PolicyTraining, problems: Sequence[Problem], asked: Wishes
) -> Demonstration | None:
    """All are tried on the first problems, the best of them and the oracle play the others, too."""
    first, grid, names = min(TRIED, len(problems)), looked_at(settings), portfolio(setup.policy.head)
    bold = ORACLE in names and max(grid) >= CAREFUL
    most = first * setup.rules.response_length * (len(names) + (ORACLE in names))  # its reference is one more
    console = Console(highlight=False, markup=False)
    console.print(
        f"start: {', '.join(names)} on {first} training problems, at most {most:,} denoiser evaluations; then the "
        f"best of them on {len(problems) - first} more"
    )

    def play(names: Sequence[str], part: slice, key: str) -> list[Candidate]:
        return [Candidate(name, _play(setup, settings, name, problems[part], asked[part], key)) for name in names]

    tried = play(names, slice(first), "tried")
    best = [tried[i].name for i in best_rules(setup, tried, problems[:first], grid)]
    console.print(_table(tried, best, grid))
    kept = [one for one in tried if one.name in best or (bold and one.name == ORACLE)]
    parts = [(slice(first), kept)]
    if len(problems) > first:
        rest = slice(first, len(problems))
        parts.append((rest, play([one.name for one in kept], rest, "start")))
    careful = [[one.name for one in kept].index(name) for name in best]
    shown = []
    for part, candidates in parts:
        alpha = asked[part].preference
        chosen = choose(setup, candidates, problems[part], alpha, grid, careful)
        shown += [_right(setup.policy, one.played, chosen == i) for i, one in enumerate(candidates)]
    return _join(shown, len(problems))


def portfolio(head: Head) -> tuple[str, ...]:
    """What is tried: of a head that always draws k positions, the rules that do so, which alone it can imitate."""
    return (f"leftmost:{head.k}", f"top_k:{head.k}") if isinstance(head, PlackettLuce) else (*PORTFOLIO, ORACLE)


def _table(tried: Sequence[Candidate], best: Sequence[str], grid: Sequence[float]) -> Table:
    """What each got, and at which α it was the best rule."""
    shown = Table()
    for name in ("tried", "accuracy", "NFE", "best rule at α"):
        shown.add_column(name, justify="left" if name == "tried" else "right", overflow="fold")
    for one in tried:
        at = ", ".join(f"{alpha:.2g}" for alpha, name in zip(grid, best, strict=True) if name == one.name)
        nfe = one.played.rollout.nfe.float().mean().item()
        shown.add_row(one.name, f"{one.played.correct.mean().item():.1%}", f"{nfe:.1f}", at)
    return shown


def looked_at(settings: PolicyTraining) -> list[float]:
    """The values of α that the start looks at: the one there is, or some of the range."""
    if not settings.rewards.preferences:
        return [settings.rewards.alpha]
    low, high = settings.rewards.preferences
    return alphas(low, high, ALPHAS)


def best_rules(
    setup: Setup, tried: Sequence[Candidate], problems: Sequence[Problem], grid: Sequence[float]
) -> list[int]:
    """At each α the rule, which the oracle is not, of highest mean reward."""
    rules = [i for i, one in enumerate(tried) if one.name != ORACLE]

    def reward(i: int, alpha: float) -> float:
        asked = torch.full((len(problems),), alpha)
        return setup.rewards(tried[i].played.outcomes(problems, asked)).total.mean().item()

    return [max(rules, key=lambda i: reward(i, alpha)) for alpha in grid]


def choose(
    setup: Setup,
    candidates: Sequence[Candidate],
    problems: Sequence[Problem],
    preference: Tensor | None,
    grid: Sequence[float],
    careful: Sequence[int],
) -> Tensor:
    """(N,) int64, whose trajectory is imitated on each problem; it may be a wrong one, which nobody imitates.

    Args:
        setup: with the rewards.
        candidates: what was played on these problems.
        problems: N of them.
        preference: (N,) α of each, or None where the rewards have one for all.
        grid: values of α.
        careful: the best rule at each of them.
    """
    earned = [setup.rewards(one.played.outcomes(problems, preference)).total for one in candidates]
    right = torch.stack([one.played.correct == 1 for one in candidates])
    highest = torch.stack(earned).masked_fill(~right, -math.inf).argmax(0)
    alpha = torch.full((len(problems),), grid[0]) if preference is None else preference
    # The same α, or the nearest of those that were looked at; α may be 0 where it is the only one.
    distance = (alpha.clamp(min=1e-9).log()[:, None] - torch.tensor(grid).clamp(min=1e-9).log()).abs()
    best = torch.tensor(careful)[distance.argmin(-1)]
    return torch.where((alpha < CAREFUL).to(highest.device), best.to(highest.device), highest)


def _right(policy: LearnedPolicy, played: Attempt, wanted: Tensor) -> tuple[Observation, Tensor, Tensor]:
    """Steps on the way to right answers of the wanted rows, as draws of the policy's head, and their weights."""
    steps = played.rollout.trajectories
    assert steps is not None
    good = (played.correct == 1) & wanted.to(played.correct.device)
    rows = good[steps.row].nonzero()[:, 0]
    seen, of = steps.observation[rows], steps.row[rows]
    weight = 1 / of.bincount(minlength=len(good))[of]
    return seen, expert_draws(seen, steps.draw[rows], policy.head), weight.cpu()


def _join(parts: Sequence[tuple[Observation, Tensor, Tensor]], problems: int) -> Demonstration | None:
    some = [part for part in parts if len(part[1])]
    if not some:
        return None
    seen = Observation.concatenate([part[0] for part in some])
    draw, weight = torch.cat([part[1] for part in some]), torch.cat([part[2] for part in some])
    return Demonstration(seen, draw, weight, weight.sum().item() / problems)


# ------------------------------------------------------------------------------------------ how it is imitated


def own_accuracy(setup: Setup, network: nn.Module, settings: PolicyTraining, update: int) -> float:
    """How often the policy itself, as it trains, is right on new problems."""
    first = settings.imitation.imitation_rounds * settings.imitation.imitation_problems
    problems = setup.problems(first + update * OWN_PROBLEMS, OWN_PROBLEMS)
    policy = LearnedPolicy(network.eval(), setup.policy.head, setup.policy.context)  # type: ignore[arg-type]
    seeds = row_seeds(OWN_PROBLEMS, "imitation", settings.seed, update)
    generator = torch_generator("wishes", settings.seed, update)
    asked = draw_wishes(settings.rewards, OWN_PROBLEMS, generator, deadlines=False)
    tried = setup.attempt(policy, problems, seeds, wishes=asked)
    return tried.correct.mean().item()


def _imitate_once(
    policy: LearnedPolicy, optimizer: torch.optim.Optimizer, shown: Demonstration, rows: Tensor
) -> float:
    """One gradient step on these rows; returns their mean log-likelihood before it."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for piece in rows.split(PIECE):
        log_prob, _ = policy.evaluate(shown.seen[piece], shown.draw[piece])
        possible = log_prob.isfinite()  # a head of K positions cannot draw the last block's rest, for example
        likelihood = log_prob[possible].sum() / len(rows)
        (-likelihood).backward()
        total += likelihood.item()
    finite_step(policy.network, optimizer, 1.0)
    return total

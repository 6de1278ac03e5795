"""A start by correction: the policy learns, on its own way, which positions the oracle would agree to.

The oracle's decisions on the oracle's way are poor examples: a policy that makes mistakes sees other states than
those, and a set that agrees by luck looks like one that agrees for sure. So rules of several speeds, and then the
policy itself, propose; what disagrees with the reference is not written; and every selectable position is an
example, labelled by whether it agrees (DAgger, arXiv 1011.0686, with a label for each position).

A score is then the log-odds that a position is right, less log(L/α): one evaluation more costs the share α/L of a
reward, a wrong token all of it. So a policy begins bold where speed counts for much, and careful where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from dllm_env.dynamics import Observation
from dllm_env.policies.base import Policy
from dllm_env.policies.oracle import Corrected, Oracle
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Recording, row_seeds
from dllm_env.progress import Bar
from dllm_env.random import torch_generator
from dllm_env.tasks.base import Problem
from dllm_env.train.config import ImitationConfig, PolicyTraining
from dllm_env.train.imitation import PIECE
from dllm_env.train.losses import finite_step
from dllm_env.train.setup import Setup
from dllm_env.train.wishes import draw_wishes

ROUNDS = 5
"""The rules propose in the first, the policy in the others; each plays all problems and adds to the examples."""
REFERENCES = ("leftmost:1", "rightmost:1", "top_k:1")
"""What writes what is agreed to; a problem that the first writes right, one token at a time, needs no other."""
TEACHERS = tuple(f"threshold:{threshold},fallback=leftmost" for threshold in (0.3, 0.5, 0.7, 0.9))
"""What proposes in the first round, each on its part of the problems."""
CAREFUL = 1e4
"""The most that a wrong token counts, in evaluations."""
WARMUP = 20
"""Gradient steps until the learning rate is at its peak."""


def learn_by_correction(setup: Setup, settings: PolicyTraining) -> None:
    """Plays ``imitation_problems``, corrected, ``ROUNDS`` times, and takes ``imitation_steps`` gradient steps."""
    config, policy = settings.imitation, setup.policy
    problems, oracle = setup.problems(0, config.imitation_problems), Oracle(REFERENCES)
    times, length = len(oracle.references) + ROUNDS, setup.rules.response_length
    Console(highlight=False, markup=False).print(
        f"start: {len(problems)} training problems, written by {', or if wrong by '.join(REFERENCES)}, and "
        f"{ROUNDS} times under correction, at most {len(problems) * times * length:,} denoiser evaluations"
    )
    seeds = row_seeds(len(problems), "dagger", settings.seed)
    reference, _ = oracle.written(setup.assigned(problems, seeds, settings.batch_size))
    optimizer = torch.optim.Adam(policy.network.parameters(), lr=config.imitation_learning_rate)
    generator = torch_generator("dagger", settings.seed)
    shown: list[tuple[Observation, Tensor]] = []
    with Bar() as bar:
        task = bar.add_task("correction", total=config.imitation_steps)
        for number in range(ROUNDS):
            policy.network.eval()
            players: Sequence[Policy] = [policy] if number else [load_heuristic(name) for name in TEACHERS]
            shown += _play(setup, settings, players, problems, reference, number)
            seen = Observation.concatenate([observation for observation, _ in shown])
            agreeing = torch.cat([labels for _, labels in shown])
            if not len(agreeing):
                none = f"nothing to imitate: dagger solves none of {len(problems)} problems"
                bar.update(task, figures=none)
                return
            policy.network.train()
            for step in range(*(config.imitation_steps * i // ROUNDS for i in (number, number + 1))):
                for group in optimizer.param_groups:
                    group["lr"] = _rate(config, step)
                loss = _learn_once(setup, settings, optimizer, seen, agreeing, generator)
                bar.update(task, advance=1, figures=f"steps seen {len(agreeing):,} loss {loss:.2f}")


def _rate(config: ImitationConfig, step: int) -> float:
    """Linear warm-up, then cosine to 0."""
    warm = min(1.0, (step + 1) / WARMUP)
    return config.imitation_learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.imitation_steps))


def _play(
    setup: Setup,
    settings: PolicyTraining,
    players: Sequence[Policy],
    problems: Sequence[Problem],
    reference: Tensor,
    number: int,
) -> list[tuple[Observation, Tensor]]:
    """Steps of rows that wrote their reference, which was right, with (M, W) bool labels of the positions."""
    policy, count = setup.policy, len(problems)
    asked = draw_wishes(settings.rewards, count, torch_generator("wishes", settings.seed, number), deadlines=False)
    seeds, found = row_seeds(count, "dagger", settings.seed, number), []
    for i, player in enumerate(players):
        part = slice(i * count // len(players), (i + 1) * count // len(players))
        if part.start == part.stop:
            continue  # fewer problems than players
        played = setup.attempt(
            Corrected(player, policy.context, policy.top, policy.extras),
            problems[part],
            seeds[part],
            wishes=asked[part],
            memory={"reference": reference[part]},
            record=Recording(policy.top, policy.extras),
        )
        steps = played.rollout.trajectories
        assert steps is not None
        same = (played.rollout.responses == reference[part]).all(-1)
        good = (same & (played.correct == 1))[steps.row]
        found.append((steps.observation[good], steps.draw[good] > 0))
    return found


def _learn_once(
    setup: Setup,
    settings: PolicyTraining,
    optimizer: torch.optim.Optimizer,
    seen: Observation,
    agreeing: Tensor,
    generator: torch.Generator,
) -> float:
    """One gradient step on some of the steps, each under a new α; returns the loss of a step before it."""
    rows = torch.randint(len(agreeing), (settings.imitation.imitation_batch_size,), generator=generator)
    optimizer.zero_grad(set_to_none=True)
    asked = draw_wishes(settings.rewards, len(rows), generator, deadlines=False).preference
    alpha = torch.full((len(rows),), settings.rewards.alpha) if asked is None else asked
    careful = (setup.rules.response_length / alpha.clamp(min=1e-9)).clamp(max=CAREFUL).log()
    rows, device, total = rows.to(agreeing.device), agreeing.device, 0.0
    for piece in torch.arange(len(rows)).split(PIECE):
        part = replace(seen[rows[piece]], preference=alpha[piece].to(device))
        log_odds = setup.policy.network(part) + careful[piece].to(device)[:, None]
        wrong = F.binary_cross_entropy_with_logits(log_odds, agreeing[rows[piece]].float(), reduction="none")
        loss = torch.where(part.selectable, wrong, 0.0).sum() / len(rows)
        loss.backward()
        total += loss.item()
    finite_step(setup.policy.network, optimizer, 1.0)
    return total

"""Batch independence: what a row gets is, bit for bit, what it gets alone, whatever shares its batch.

Drawn are the policy, task, block length, temperature, batch size, seeds, what ends rows, remasking, the prefix
cache and the kind of denoiser. Each combination is played once in batches, and some of its rows once more alone.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from common import Tally, campaign, toy

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.policies.base import Policy
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import SIGHT, NetworkConfig, make_network
from dllm_env.policies.rollout import Rollout, rollout
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task

RULES = (
    *("random:2", "top_k:3", "margin", "entropy:2", "leftmost:4", "dilated", "first_hitting", "threshold:0.3"),
    *("factor:1", "entropy_bound:0.5", "klass:tau=0.3,kappa=0.05", "local_leap:threshold=0.4", "hierarchy"),
    *("top_k:steps=8", "random:steps=8,schedule=dream", "eoser:2", "ass", "credit:0.5", "pc_sampler:2"),
    *("less:0.3,divergence=0.2", "lsp:0.3", "multi_block:0.8,block=3"),
)
ATTENDING = ("dapd:sink=0.05", "dawn:sink=0.05")
"""They need a denoiser that shows its attention, without a prefix cache."""
REMASKING = ("remdm:steps=8",)
JUDGING = ("wino:draft=0.2,verify=0.4", "anchored:steps=6")
"""They remask, too, and need a denoiser that says how well a written token is supported, without a prefix cache."""
EDITING = ("joint_threshold:0.2,edit=0.3",)
"""They replace tokens."""
HEADS = ("bernoulli", "bernoulli:force_progress=1", "plackett_luce:k=2", "dynamic_plackett_luce:temperature=0.5")
TASKS = ("trace", "trace:chains=1", "sudoku")
NUMBERS = [column.name for column in fields(Rollout) if column.type == "Tensor"]


@dataclass(frozen=True)
class Combination:
    """What is played.

    Attributes:
        denoiser: its name among those that there are.
        policy: a rule, or ``network/context/head`` of a learned policy.
        task: where prompts come from.
        rules: of the process.
        rows, batch_size: how many there are, and at a time.
        seed: of the rows, and of a learned policy's weights.
    """

    denoiser: str
    policy: str
    task: str
    rules: Rules
    rows: int
    batch_size: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in messages."""
        changed = {f.name: getattr(self.rules, f.name) for f in fields(Rules)}
        said = " ".join(f"{name}={value}" for name, value in changed.items() if value)
        return (
            f"{self.denoiser} {self.policy} {self.task} rows={self.rows}/{self.batch_size} seed={self.seed} {said}"
        )


def draw(rng: random.Random, denoisers: dict[str, Denoiser]) -> Combination:
    """A combination that can be played."""
    name = rng.choice(sorted(denoisers))
    denoiser = denoisers[name]
    task = rng.choice(TASKS)
    if load_task(task).prompt_length + 40 > denoiser.max_length:
        task = "trace:chains=1"
    length = rng.choice((16, 20, 32, 40) if name != "toy" or task != "trace" else (16, 32, 40))
    block = rng.choice([size for size in range(2, length + 1) if length % size == 0])
    remasks = rng.random() < 0.15
    edits = not remasks and rng.random() < 0.1
    policy = rng.choice(EDITING) if edits else _policy(rng, remasks, isinstance(denoiser, TinyDenoiser))
    caches = getattr(denoiser, "caches_prefix", False) and policy not in JUDGING + ATTENDING
    rules = Rules(
        response_length=length,
        block_length=block,
        temperature=rng.choice((0.0, 0.0, 0.5, 1.0)),
        noise=rng.choice(("float64", "float64", "float32")),
        max_steps=rng.choice((0, 0, 0, 5)),
        stop_at_eot=rng.random() < 0.4,
        allow_remask=remasks,
        remask_budget=rng.choice((0, 3)) if remasks else 0,
        allow_edit=edits,
        edit_steps=rng.choice((0, 2)) if edits else 0,
        limit_block_steps=not remasks and not edits and rng.random() < 0.2,
        prefix_cache=caches and rng.random() < 0.4,
    )
    return Combination(name, policy, task, rules, rng.randint(3, 9), rng.randint(2, 6), rng.randrange(10**6))


def _policy(rng: random.Random, remasks: bool, shadows: bool) -> str:
    if remasks:
        return rng.choice(REMASKING + JUDGING if shadows else REMASKING)
    if rng.random() < 0.6:
        return rng.choice(RULES + ATTENDING)
    return "/".join((rng.choice(("confidence", "hidden")), rng.choice(("full", "block")), rng.choice(HEADS)))


def make_policy(text: str, seed: int, hidden_size: int) -> Policy:
    """The policy that a combination names; a learned one has weights of its seed."""
    if "/" not in text:
        return load_policy(text)
    kind, context, head = text.split("/")
    shape = NetworkConfig(width=16, bias=-1.0, sight=tuple(SIGHT))
    network = make_network(kind, shape, torch_generator("campaign", seed), hidden_size)
    with torch.no_grad():  # the output's weights begin at 0, and all scores would be alike
        network.score.weight.normal_(0.0, 1.0, generator=torch_generator("score", seed))
    return LearnedPolicy(network.eval(), load_head(head), context)  # type: ignore[arg-type]


def differing(made: Combination, denoiser: Denoiser, alone: list[int]) -> list[str]:
    """What of these rows is not what they get alone: names of a rollout's numbers, with the row."""
    policy = make_policy(made.policy, made.seed, denoiser.hidden_size)
    task = load_task(made.task)
    prompts = [denoiser.encode(task.problem(made.seed + i, "train").prompt) for i in range(made.rows)]
    seeds = [made.seed + 7 * i for i in range(made.rows)]
    settings: dict[str, Any] = {"prompt_length": task.prompt_length, "record": True}
    together = rollout(denoiser, policy, made.rules, prompts, seeds, batch_size=made.batch_size, **settings)
    found = []
    for row in alone:
        single = rollout(denoiser, policy, made.rules, [prompts[row]], [seeds[row]], batch_size=1, **settings)
        for name in NUMBERS:
            if not torch.equal(getattr(together, name)[row], getattr(single, name)[0]):
                found.append(f"{name} of row {row}")
        mine, theirs = together.trajectories, single.trajectories
        assert mine is not None
        assert theirs is not None
        steps = mine.row == row
        for name in ("draw", "log_prob", "entropy"):
            if not torch.equal(getattr(mine, name)[steps], getattr(theirs, name)):
                found.append(f"{name} of row {row}")
    return found


def make_denoisers(root: Path) -> dict[str, Denoiser]:
    """The bundled ones, one of random weights, and checkpoints in three published formats."""
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    from make_checkpoint import make_bert, make_dream, make_llada

    places = {"toy": str(toy(root / "toy")), "tiny": "tiny", "tiny-b": "tiny-b"}
    for make in (make_llada, make_dream, make_bert):
        places[make.__name__.removeprefix("make_")] = f"{make(root / make.__name__)}:device=cpu"
    return {name: load_denoiser(place) for name, place in places.items()}


def play(tally: Tally, rounds: int, rng: random.Random, root: Path) -> None:
    """So many combinations, each different."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))  # more than one, so that work is divided among them
    check(tally, rounds, rng, make_denoisers(root))


def check(tally: Tally, rounds: int, rng: random.Random, denoisers: dict[str, Denoiser]) -> None:
    """So many combinations on these denoisers."""
    seen: set[str] = set()
    while len(seen) < rounds:
        made = draw(rng, denoisers)
        if made.key in seen:
            continue
        seen.add(made.key)
        alone = sorted(rng.sample(range(made.rows), 2))
        found = differing(made, denoisers[made.denoiser], alone)
        tally.check(not found, f"{made.key}: {', '.join(found)}")
        tally.add("combinations")
        tally.add("rows alone", len(alone))


if __name__ == "__main__":
    campaign("batches", play, 240)

"""Sends commands Ctrl-C's SIGINT, SIGTERM and SIGHUP at random moments, once or twice.

A command has to end with 128 and the signal's number, say how to go on where it can be gone on with, and leave no
process; what it says has to work.
"""

from __future__ import annotations

import random
import shlex
import signal
import time
from pathlib import Path

from common import DENOISER, EVAL, GRPO, PPO, Command, Tally, campaign, guarded, left, run, start, toy

HINTED = {
    "train grpo": GRPO,
    "train ppo": PPO,
    "train denoiser": DENOISER,
    "eval": (*EVAL, "--workers", "1"),
    "eval with workers": (*EVAL, "--workers", "2"),
    "eval of a suite": ("eval", "--suite", "../suite.yaml"),
    "demo": ("demo",),
    "ablate heads": ("ablate", "heads", "--seeds", "1"),
}
PLAIN = {
    "generate": ("generate", "--policy", "leftmost:1"),
    "report": ("report", "../results"),
    "policies": ("policies",),
}
ENDLESS = ("demo", "ablate heads")
"""Not gone on with, because they take minutes."""
SUITE = "problems: 6\npolicies: ['random:8', {threshold: {threshold: [0.2, 0.4]}}]\nevaluations: [{task: trace}]\n"
ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def play(tally: Tally, rounds: int, rng: random.Random, folder: Path) -> None:
    """So many signals, or pairs of them."""
    (folder / "suite.yaml").write_text(SUITE)
    made = str(toy(folder / "toy"))
    command = run(
        ["eval", "--policies", "random:8", "--problems", "4", "--denoiser", made, "--out", "results"], folder
    )
    tally.check(command.status == 0, command.said[-500:])
    kinds = {**HINTED, **PLAIN}
    for i in range(rounds):
        kind, number = list(kinds)[i % len(kinds)], ASKED[rng.randrange(3)]
        arguments = [*kinds[kind]]
        if kind in HINTED:
            arguments += ["--out", "x"]
        if kind not in ("train denoiser", "demo", "ablate heads", "report", "policies"):
            arguments += ["--denoiser", made]
        with guarded(tally, f"{kind}, {number.name}"):
            stopped(tally, kind, arguments, number, rng, folder / f"round-{i}")


def stopped(
    tally: Tally, kind: str, arguments: list[str], number: signal.Signals, rng: random.Random, place: Path
) -> None:
    """One command that is sent a signal, or two."""
    command, twice = start(arguments, place), rng.random() < 0.5
    time.sleep(rng.uniform(0.02, 4.0 if kind in HINTED else 1.0))
    if command.poll() is not None:
        tally.add("ended before")
        tally.check(command.status == 0, f"{kind} ended with {command.status}: {command.said[-500:]}")
        return
    command.send(number)
    if twice:
        time.sleep(rng.choice((0.0, 0.001, 0.01, 0.1)))
        command.send(number)
    status = command.wait(60)
    tally.add(f"{number.name}{' twice' if twice else ''}")
    what = f"{kind}, {number.name}{' twice' if twice else ''}"
    remaining = left(place)
    tally.check(not remaining, f"{what}: {len(remaining)} processes remain")
    if status == 0:  # it was done already
        return
    if status == -number and not command.said:  # it had not begun
        return
    if tally.check(status == 128 + number, f"{what}: ended with {status}: {command.said[-500:]}"):
        tally.check("Traceback" not in command.said, f"{what}: {command.said[-500:]}")
        go_on(tally, kind, what, command)


def go_on(tally: Tally, kind: str, what: str, command: Command) -> None:
    """What it says, and that this works."""
    said = command.error
    if kind not in HINTED or said == "interrupted":  # the second: while arguments were read
        tally.check(said == "interrupted", f"{what}: says {said!r}")
        return
    _, found, words = said.partition(" with: dllm-env ")
    if tally.check(bool(found), f"{what}: says {said!r}") and kind not in ENDLESS:
        again = run(shlex.split(words), command.folder)
        tally.add("gone on with")
        tally.check(again.status == 0, f"{what}: {words} ended with {again.status}: {again.said[-500:]}")


if __name__ == "__main__":
    campaign("signals", play, rounds=110)

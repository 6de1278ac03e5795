"""Kills commands (SIGKILL) at random moments and resumes them, again and again, until they are done.

What comes out has to be what an uninterrupted command gives: of a training the weights, the checkpoint and the
settings bit for bit and every update once in the logs; of an evaluation every outcome once. No process may remain,
and no lock.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from common import EVAL, GRPO, PPO, Tally, campaign, guarded, left, outcomes, run, start, toy, trained

KINDS = {
    "train grpo": GRPO,
    "train ppo": PPO,
    "eval": (*EVAL, "--workers", "1"),
    "eval with workers": (*EVAL, "--workers", "2"),
}
LONGEST = 6
"""Kills of one run before it is left to end."""


def play(tally: Tally, rounds: int, rng: random.Random, folder: Path) -> None:
    """Kills so many times."""
    denoiser = ["--denoiser", str(toy(folder / "toy"))]
    kinds: dict[str, tuple[float, object]] = {}
    # Workers take seconds to start: they get fewer runs.
    order = [kind for kind in KINDS for _ in range(1 if kind.endswith("workers") else 3)]
    chain = 0
    while sum(tally.counts.get(f"kills of {kind}", 0) for kind in KINDS) < rounds:
        kind, chain = order[chain % len(order)], chain + 1
        if kind not in kinds:
            begun, place = time.monotonic(), folder / f"whole-{kind.replace(' ', '-')}"
            command = run([*KINDS[kind], *denoiser, "--out", "x"], place)
            if not tally.check(command.status == 0, f"{kind}: {command.said[-500:]}"):
                return
            kinds[kind] = time.monotonic() - begun, result(place / "x")
        with guarded(tally, f"{kind}, chain {chain}"):
            killed_and_resumed(tally, kind, [*KINDS[kind], *denoiser], *kinds[kind], rng, folder / f"chain-{chain}")


def killed_and_resumed(
    tally: Tally, kind: str, arguments: list[str], seconds: float, whole: object, rng: random.Random, place: Path
) -> None:
    """One run, killed up to ``LONGEST`` times, then left to end."""
    tally.add("runs")
    for kills in range(LONGEST + 1):
        resume = (
            ["--resume"] if kind.startswith("eval") or (place / "x" / "checkpoint.safetensors").exists() else []
        )
        command = start([*arguments, "--out", "x", *resume], place)
        if kills < LONGEST:
            over = time.monotonic() + rng.uniform(0, seconds)
            while command.poll() is None and time.monotonic() < over:
                time.sleep(0.001)
            command.send(signal.SIGKILL)
        status = command.wait()
        remaining = left(place)
        tally.check(not remaining, f"{kind}: {len(remaining)} processes remain")
        if status == -signal.SIGKILL:
            tally.add(f"kills of {kind}")
            continue
        if tally.check(status == 0, f"{kind} after {kills} kills ended with {status}: {command.said[-500:]}"):
            tally.check(result(place / "x") == whole, f"{kind} after {kills} kills gives something else")
            tally.check(not (place / "x" / ".dllm-env.lock").exists(), f"{kind} leaves its lock")
        return


def result(folder: Path) -> object:
    """What has to be the same whatever happened on the way."""
    return outcomes(folder) if (folder / "problems.jsonl").exists() else trained(folder)


if __name__ == "__main__":
    campaign("kills", play, rounds=120)

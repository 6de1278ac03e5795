"""Starts two commands that write into one folder at the same time, while a third reads it.

One of the two goes on and gives what it gives alone; the other ends with status 2 and changes nothing. The reader
sees whole lines and files.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from common import EVAL, GRPO, Command, Tally, campaign, guarded, left, outcomes, run, start, toy, trained

KINDS = {"eval": (*EVAL, "--workers", "1"), "train grpo": GRPO}


def play(tally: Tally, rounds: int, rng: random.Random, folder: Path) -> None:
    """So many pairs of writers."""
    denoiser = ["--denoiser", str(toy(folder / "toy"))]
    whole: dict[str, object] = {}
    for kind, arguments in KINDS.items():
        place = folder / f"alone-{kind.split()[0]}"
        command = run([*arguments, *denoiser, "--out", "x"], place)
        if not tally.check(command.status == 0, f"{kind}: {command.said[-500:]}"):
            return
        whole[kind] = outcomes(place / "x") if kind == "eval" else trained(place / "x")
    for i in range(rounds):
        kind = "eval" if i % 3 else "train grpo"
        with guarded(tally, f"{kind}, round {i}"):
            pair(tally, kind, [*KINDS[kind], *denoiser], whole[kind], rng, folder / f"round-{i}")


def pair(tally: Tally, kind: str, arguments: list[str], whole: object, rng: random.Random, place: Path) -> None:
    """Two writers, of which the second may come by another name of the folder, and a reader."""
    place.mkdir(parents=True)
    out = place / "x"
    names = [str(out), str(place / "link") if rng.random() < 0.5 else str(out)]
    if names[1] != names[0]:
        out.mkdir()
        (place / "link").symlink_to(out)
    resume = ["--resume"] if kind == "eval" and rng.random() < 0.5 else []
    writers = []
    for number, name in enumerate(names):
        writers.append(start([*arguments, "--out", name, *resume], place / f"writer-{number}"))
        time.sleep(rng.choice((0.0, 0.0, 0.05, 0.5)))
    read(tally, kind, arguments, writers, out, place)
    ended = sorted((writer.wait(), writer.error) for writer in writers)
    tally.add("pairs")
    (first, _), (second, said) = ended
    both = f"{kind}: ended with {first} and {second}: {said}"
    if second == 0:  # one after the other, which adds nothing
        tally.check(bool(resume), both)
    else:
        tally.add("refused")
        refused = "is in use by another process" in said or "already; give --resume" in said
        tally.check(first == 0 and second == 2 and refused, both)
    tally.check((outcomes(out) if kind == "eval" else trained(out)) == whole, f"{kind}: gives something else")
    tally.check(not left(place), f"{kind}: processes remain")


def read(tally: Tally, kind: str, arguments: list[str], writers: list[Command], out: Path, place: Path) -> None:
    """Reads the folder as long as it is written to."""
    policy = ["eval", "--policies", str(out), "--problems", "1", *arguments[-2:], "--block-length", "8"]
    while any(writer.poll() is None for writer in writers):
        words = (
            ["report", str(out), "--out", "page.html"] if kind == "eval" else [*policy, "--out", "y", "--resume"]
        )
        reader = run(words, place / "reader")
        tally.add("reads")
        early = "no results in" in reader.error or "no policy" in reader.error
        another = "come from two versions of the policy" in reader.error  # which was trained meanwhile
        good = reader.status == 0 or (reader.status == 2 and (early or another))
        tally.check(good, f"reader of {kind}: ended with {reader.status}: {reader.said[-500:]}")


if __name__ == "__main__":
    campaign("writers", play, rounds=60)

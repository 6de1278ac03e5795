"""Measures what a bundled denoiser does on 1,000 test problems of each task, for its model card.

    python benchmarks/denoiser_quality.py --denoiser tiny --json quality.json

Prints a table in Markdown and writes the same figures as JSON. "bar" is what the project asks of a bundled
denoiser, so that it behaves as large ones do where it matters: right when decoded from left to right, mostly right
semi-autoregressively, and helpless under confidence rules in full diffusion.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import track

from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.tiny import MANY_WORDS
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import attempt, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train.run import machine


@dataclass(frozen=True)
class Measurement:
    """A row of the table."""

    task: str
    block_length: int
    """0 is full diffusion."""
    policy: str
    bar: str = ""
    """What it should have."""
    length: int = 0
    """Response length; 0 takes the task's."""


MEASUREMENTS = (
    Measurement("trace", 0, "leftmost:1", "≥ 97%"),
    Measurement("trace", 8, "threshold:0.9", "55% to 90%"),
    Measurement("trace", 0, "top_k:1", "≤ 10%"),
    Measurement("trace", 0, "threshold:0.9", "≤ 10%"),
    Measurement("trace", 0, "random:1"),
    Measurement("trace", 0, "leftmost:2"),
    Measurement("trace", 0, "threshold:0.5"),
    Measurement("trace", 8, "top_k:1"),
    Measurement("trace", 8, "threshold:0.5"),
    Measurement("trace:chains=4", 0, "leftmost:1", "≥ 90%"),
    Measurement("trace:chains=4", 0, "threshold:0.9"),
    Measurement("sudoku", 0, "top_k:1", "≥ 95% by the best rule"),
    Measurement("sudoku", 0, "threshold:0.9"),
    Measurement("sudoku", 0, "leftmost:1"),
)


BEST = "≥ 95% by its best order"
OF_MANY = (
    Measurement("trace", 0, "leftmost:1", BEST),
    Measurement("trace", 0, "top_k:1"),
    Measurement("trace:order=backward", 0, "rightmost:1", BEST),
    Measurement("trace:order=backward", 0, "top_k:1"),
    Measurement("trace:order=backward", 0, "leftmost:1"),
    Measurement("cascade", 0, "rightmost:1", BEST),
    Measurement("cascade", 0, "top_k:1"),
    Measurement("cascade", 0, "leftmost:1"),
    Measurement("cascade", 0, "random:40"),
    Measurement("choice", 0, "top_k:1", BEST),
    Measurement("choice", 0, "random:40"),
    Measurement("copy", 0, "top_k:1", BEST),
    Measurement("copy", 0, "random:40"),
    Measurement("sudoku", 0, "top_k:1", BEST, 40),
    Measurement("sudoku", 0, "leftmost:1", length=40),
    Measurement("trace:chains=4", 0, "leftmost:1", BEST),
    Measurement("trace:chains=4", 0, "top_k:1"),
)
"""Of a denoiser that knows all domains. random:40 writes a response of 40 tokens at once."""


def main(
    denoiser: Annotated[str, tyro.conf.arg(help="bundled name or folder")] = "tiny",
    problems: Annotated[int, tyro.conf.arg(help="test problems per row")] = 1000,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json", help="write the figures here")] = None,
) -> None:
    """Measures and prints."""
    model = load_denoiser(denoiser)
    rows = []
    print("| task | block length | rule | accuracy | NFE | asked |\n|---|---|---|---|---|---|")
    knows_all = getattr(model, "words", ()) == MANY_WORDS
    for item in track(OF_MANY if knows_all else MEASUREMENTS, description=denoiser):
        task = load_task(item.task)
        response = item.length or task.response_length
        length = item.block_length or response
        tried = attempt(
            model,
            load_policy(item.policy),
            Rules(response, length),
            task,
            [task.problem(i, "test") for i in range(problems)],
            row_seeds(problems, "quality"),
        )
        accuracy, nfe = tried.correct.mean().item(), tried.rollout.nfe.float().mean().item()
        rows.append(
            {"task": task.name, "block_length": length, "policy": item.policy, "accuracy": accuracy, "nfe": nfe}
        )
        print(f"| {task.name} | {length} | {item.policy} | {accuracy:.1%} | {nfe:.1f} | {item.bar} |", flush=True)
    if json_file is not None:
        facts = {"denoiser": denoiser, "problems": problems, **machine(), "results": rows}
        json_file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)

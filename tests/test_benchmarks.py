"""Every script of benchmarks/ runs, at a small size, as its user runs it; what they measure is not judged here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # so little work is faster on one
SMALL_MODEL = ["--vocabulary", "500", "--width", "32", "--feed-forward", "32", "--layers", "1", "--heads", "2"]
SMALL_STEPS = [
    *("--batches", "2", "--steps", "4", "--prompt", "4"),
    *("--length", "16", "--block-lengths", "8", "16"),
]
SMALL_TRAINING = [
    *("--training.prompts", "2", "--training.num-generations", "2", "--training.policy.width", "8"),
    *("--training.imitation.imitation-problems", "2", "--training.imitation.imitation-steps", "1"),
    *("--training.validation.validation-problems", "2", "--training.validation.validation-rules"),
]
RUNS = {
    "dcolt.py": [
        *("--seeds", "1", "--kinds", "full", "--minutes", "0", "--problems", "2", "--sampled-problems", "1"),
        *("--samples", "2", "--weak.first-updates", "1", "--weak.examples", "50", "--weak.width", "16"),
        *("--training.prompts", "1", "--training.num-generations", "2", "--training.policy.width", "8"),
        *("--training.imitation.imitation-problems", "2", "--training.imitation.imitation-steps", "1"),
        *("--training.validation.validation-problems", "2", "--training.validation.validation-rules"),
    ],
    "denoiser_quality.py": ["--problems", "2"],
    "domains.py": [
        *("--seeds", "1", "--problems", "8", "--alphas", "1", "--kinds", "all", "--training.updates", "1"),
        *("--workers", "1"),
        *("--suite", str(ROOT / "tests" / "data" / "domains.yaml"), *SMALL_TRAINING),
    ],
    "expert_iteration.py": [
        *("--seeds", "1", "--tasks", "trace", "--rounds", "2", "--problems", "2", *SMALL_TRAINING),
        *("--training.imitation.start", "mcts:budget=20"),
    ],
    "full_size.py": ["--kind", "llada", "--updates", "1", "--prompts", "1", "--response-length", "8"],
    "gumbel.py": ["--prompts", "2", "--samples", "2", "--draws", "4194304", "--steps", "10", "1000000"],
    "inputs.py": ["--seeds", "1", "--problems", "2", "--pairs", "3", *SMALL_TRAINING],
    "joint_memory.py": [
        *("--vocabulary", "50", "--width", "12", "--feed-forward", "16", "--layers", "2", "--heads", "3"),
        *("--prompt", "4", "--length", "8", "--microbatches", "1"),
    ],
    "launches.py": ["--prompts", "4", "--policies", "leftmost:2", "--block-lengths", "8"],
    "one_front.py": [
        *("--seeds", "1", "--problems", "3", "--training.updates", "1", *SMALL_TRAINING),
        *("--compared", "random:4", "oracle", "threshold:threshold=0.7,fallback=leftmost"),
    ],
    "paper_recipe.py": [
        *("--seeds", "1", "--alphas", "0", "--block-length", "8", "--steered", "1"),
        *("--updates", "1", "--prompts", "1", "--problems", "2", "--workers", "1", "--validation", "2"),
    ],
    "prediction_memory.py": ["--vocabulary", "3000", "--batch", "2", "--length", "64", "--width", "16"],
    "processes.py": [
        *("--processes", "1", "--updates", "1"),
        "--arguments=--prompts 1 --num-generations 2 --width 8 --start none --validation-problems 1",
    ],
    "rollout.py": ["--prompts", "4", "--repeats", "1", "--block-lengths", "8", "--batch-sizes", "4", "1"],
    "step_time.py": [*SMALL_MODEL, *SMALL_STEPS],
    "time_input.py": [
        *("--seeds", "1", "--steps", "2", "--problems", "2", "--training.first-updates", "1"),
        *("--training.examples", "50", "--training.width", "16", "--training.layers", "1"),
    ],
    "trainers.py": ["--help"],  # trains for half an hour
}


def test_none_is_forgotten() -> None:
    assert sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")) == sorted(RUNS)


@pytest.mark.parametrize("script", RUNS)
def test_the_script_runs(script: str, tmp_path: Path) -> None:
    place = {"gumbel.py": ["--out", str(tmp_path)], "full_size.py": ["--folder", str(tmp_path / "made")]}
    arguments = [*RUNS[script], *place.get(script, [])]
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()

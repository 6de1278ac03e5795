"""The lm-evaluation-harness in several processes: they share its model's work, and what comes out is as of one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness_task
import pytest
import torch
from test_together import ENVIRONMENT
from worlds import together

import dllm_env.world
from dllm_env.errors import UsageError
from dllm_env.eval.harness_arguments import check_processes
from dllm_env.eval.harness_together import Together, asking
from dllm_env.tasks.load import load_task
from dllm_env.world import ALONE, Orders, World

pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

from lm_eval.api.instance import Instance  # noqa: E402

from dllm_env.eval.harness import HarnessModel, main  # noqa: E402
from dllm_env.eval.harness_player import Player  # noqa: E402

PROMPTS = [load_task("trace").problem(i, "test", 0).prompt for i in range(5)]


@pytest.fixture(name="store")
def _store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where threads that stand for processes leave their notes."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(dllm_env.world, "store_of", lambda world: store if world.size > 1 else None)
    return store


def test_orders_are_taken_one_after_the_other_until_the_end(store: Any) -> None:
    def work(world: World) -> list[Any]:
        orders = Orders(world)
        if not world.first:
            return list(orders.take())
        for order in ("a", None, ["b"]):
            orders.give(order)
        orders.end()
        return []

    assert together(3, work) == [[], ["a", None, ["b"]], ["a", None, ["b"]]]


def test_after_an_error_the_others_go_and_nobody_waits_for_them(store: Any) -> None:
    def work(world: World) -> str:
        shared = Together(world)
        if not world.first:
            shared.help(Player)
            return "went"
        with pytest.raises(UsageError, match="no documents"), asking(shared):
            raise UsageError("no documents")
        return "failed"

    assert together(3, work) == ["failed", "went", "went"]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_rows_are_divided_and_those_of_one_number_stay_together(size: int, store: Any) -> None:
    owners = [0, 0, 1, 2, 2, 0, 3]

    def work(world: World) -> tuple[list[int], list[str], bool]:
        mine: list[int] = []

        def make(rows: list[int]) -> list[str]:
            mine.extend(rows)
            return [f"made {row}" for row in rows]

        shared = Together(world)
        return mine, shared.divided(owners, make), shared.any(5 in mine)

    found = [work(ALONE)] if size == 1 else together(size, work)
    assert sorted(row for mine, _, _ in found for row in mine) == list(range(7))
    for mine, made, known in found:
        assert made == [f"made {row}" for row in range(7)]
        assert known
        assert all(row in mine for row in range(7) if owners[row] in {owners[own] for own in mine})


def answers(policy: str, temperature: float) -> Callable[[World], Any]:
    """What the harness is told of five documents, by the model of the first of some processes."""
    arguments = {
        "denoiser": "tiny",
        "policy": policy,
        "block_length": 8,
        "mc_samples": 4,
        "temperature": temperature,
    }
    asked = [
        Instance("generate_until", {}, (prompt, {"until": [], "max_gen_toks": 16}), 0, ("some", i, 1))
        for i, prompt in enumerate(PROMPTS)
    ]
    pairs = [
        Instance("loglikelihood", {}, (prompt, word), 0, ("other", i, 1))
        for i, prompt in enumerate(PROMPTS)
        for word in (" b 1", " b 2", " h 3 i")
    ]

    def work(world: World) -> Any:
        shared = Together(world)
        if not world.first:
            shared.help(Player)
            return None
        with asking(shared):
            model = HarnessModel(**arguments)
            texts = model.generate_until(asked, disable_tqdm=True)
            return (
                texts,
                model.player.watched.drew,
                model.loglikelihood(pairs, disable_tqdm=True),
                model.get_model_info(),
            )

    return work


@pytest.mark.parametrize(("policy", "temperature"), [("threshold:0.9", 0.0), ("random:3", 0.7)])
def test_answers_and_figures_are_those_of_one_process(policy: str, temperature: float, store: Any) -> None:
    work = answers(policy, temperature)
    alone, shared = work(ALONE), together(3, work)
    assert shared == [alone, None, None]
    assert alone[1] == (policy != "threshold:0.9")
    assert alone[3]["played"]["some"]["responses"] == len(PROMPTS)


def test_other_models_are_left_to_the_harness(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: hf\n")
    for words in (["--model", "hf"], ["-M", "hf"], ["-C", str(file)]):
        check_processes(words, 1)
        with pytest.raises(UsageError, match="several processes are for the model dllm-env, but --model is hf"):
            check_processes(words, 2)
    for words in ([], ["ls", "tasks"], ["--tasks", "x", "--model", "dllm-env"]):
        check_processes(words, 2)


def test_the_command_in_two_processes_writes_what_it_writes_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With examples in the prompts, which are drawn at random, and seven documents for two processes."""
    import lm_eval.evaluator
    import lm_eval.tasks
    from quick_harness import quick

    harness_task.write(harness_task.Arguments("trace", tmp_path, 8, name="my_trace"))
    command = ["--tasks", "my_trace", "--include_path", str(tmp_path), "--num_fewshot", "2", "--log_samples"]
    command += ["--limit", "7", "--model_args", "denoiser=tiny,policy=threshold:0.9,block_length=8"]
    program = str(Path(__file__).with_name("quick_harness.py"))
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    words = [*begin, "--", "lm-eval", *command, "--output_path", str(tmp_path / "two")]
    offline = {**ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=offline, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|my_trace") == 1
    assert len(re.findall("Generating responses: +0%", done.stderr)) == 1  # one bar
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lm_eval.tasks.TaskManager)
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lm_eval.evaluator.add_env_info)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    quick()
    assert main([*command, "--output_path", str(tmp_path / "one")]) == 0
    samples, results = zip(*(written(tmp_path / name) for name in ("one", "two")), strict=True)
    assert samples[0] == samples[1]
    assert results[0] == results[1]
    assert results[0][1]["my_trace"]["responses"] == 7


def written(folder: Path) -> tuple[str, tuple[Any, Any]]:
    """Samples, and what of the results does not tell when and where."""
    (samples,), (results,) = folder.rglob("samples_*.jsonl"), folder.rglob("results_*.json")
    table = json.loads(results.read_text())
    return samples.read_text(), (table["results"], table["config"]["played"])

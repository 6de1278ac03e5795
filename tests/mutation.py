"""Changes the code in two thousand small ways and counts which changes the tests notice (``make mutants``).

``python tests/mutation.py`` does so with mutmut for all of ``MODULES``, ``python tests/mutation.py heads losses``
for these; docs/testing.md says how to read what it prints. The package is staged under its installed names in
``build/mutants``, with the tests beside it, since mutmut tells modules by their paths.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

TEXT_TESTS = {
    "test_answers": (
        *("boxed", "tagged", "final", "number", "final_number", "cells"),
        *("expression_reaches", "plain_expressions", "other_expressions"),
    ),
    "test_reading": (
        *("one_spelling", "without_unicode", "as_text", "algebra", "repeating_decimals", "what_a_text_states"),
        *("the_number_that_a_response_states", "numbers_that_responses_state", "dozens_may_be_what_is_counted"),
        *("functions_spaces_and_products_of_algebra", "arithmetic_is_written_as_python_does"),
        "expressions_in_latex_and_unicode",
    ),
    "test_responses": ("gsm8k", "countdown", "sudoku4", "reasoning_gym"),
}
TEXT = tuple(f"{file}.py::test_{name}" for file, names in TEXT_TESTS.items() for name in names)
MODULES = {
    "dllm_env/dynamics.py": tuple(
        f"test_{name}.py" for name in ("dynamics", "dynamics_row_by_row", "dynamics_edges", "deadlines")
    ),
    "dllm_env/rewards.py": ("test_rewards.py",),
    "dllm_env/train/losses.py": ("test_losses.py",),
    "dllm_env/train/batches.py": ("test_batches.py",),
    "dllm_env/policies/heads.py": ("test_heads.py", "test_ranked_heads.py", "test_heads_alike.py"),
    "dllm_env/intervals.py": ("test_metrics.py",),
    "dllm_env/eval/metrics.py": ("test_metrics.py", "test_metrics_edges.py"),
    "dllm_env/eval/fronts.py": ("test_fronts.py", "test_compare_tables.py"),
    "dllm_env/eval/compare.py": ("test_compare.py", "test_compare_edges.py", "test_compare_tables.py"),
    "dllm_env/grading/answers.py": TEXT,
    "dllm_env/grading/expressions.py": TEXT,
    "dllm_env/grading/latex.py": TEXT,
    "dllm_env/grading/numbers.py": TEXT,
    "dllm_env/grading/plain.py": TEXT,
}
"""What is changed, and the quick tests that have to notice."""
WANTED = 0.9
"""Share of a module's mutants that the tests have to notice."""
ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build/mutants"
# One thread: mutmut forks, and torch's threads do not survive that.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}


def stage() -> None:
    """A fresh copy of the package as it installs, and of the tests."""
    for folder in (STAGE, ROOT / "build/lib"):  # setuptools packs what an older build left there
        shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(STAGE), str(ROOT)], check=True)
    for folder in ("tests", "examples"):
        shutil.copytree(ROOT / folder, STAGE / folder)


def configure(module: str) -> None:
    """Tells mutmut to change this module alone, and forgets what it found in another one."""
    shutil.rmtree(STAGE / "mutants", ignore_errors=True)
    settings = {
        "source_paths": ["dllm_env"],
        "only_mutate": [module],
        "also_copy": ["examples"],
        "pytest_add_cli_args_test_selection": [f"tests/{name}" for name in MODULES[module]],
    }
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (STAGE / "pyproject.toml").write_text(text + "\n[tool.mutmut]\n" + "".join(lines), encoding="utf-8")


def run() -> None:
    """Runs mutmut in the staged copy."""
    command = [str(Path(sys.executable).parent / "mutmut"), "run", "--max-children", "1"]
    subprocess.run(command, cwd=STAGE, env={**os.environ, **ENVIRONMENT}, check=True)


def report(module: str) -> bool:
    """Prints the mutants that nothing noticed, and how many there are; whether they are few enough."""
    os.chdir(STAGE)  # where mutmut looks for its files
    notes = json.loads((STAGE / "mutants" / f"{module}.meta").read_text(encoding="utf-8"))
    status = {name: status_by_exit_code[code] for name, code in notes["exit_code_by_key"].items()}
    missed = [name for name, what in status.items() if what not in ("killed", "timeout")]
    for name in missed:
        difference = get_diff_for_mutant(name, path=module).splitlines()
        changed = [line for line in difference[2:] if line.startswith(("+", "-"))]
        print("", f"{name}: {status[name]}", *changed, sep="\n")
    share, seconds = 1 - len(missed) / len(status), sum(notes["durations_by_key"].values())
    print(
        f"\n{module}: {len(status)} mutants, {share:.1%} noticed, {len(missed)} not, {seconds:.0f} seconds\n",
        flush=True,
    )
    return share >= WANTED


def main(names: list[str]) -> int:
    """Stages, changes module after module, and reports; 1 where a module's share is too small."""
    unknown = set(names) - {Path(module).stem for module in MODULES}
    if unknown:
        sys.exit(f"no such module: {', '.join(unknown)}; there are {', '.join(Path(m).stem for m in MODULES)}")
    stage()
    enough = True
    for module in MODULES:
        if not names or Path(module).stem in names:
            configure(module)
            run()
            enough &= report(module)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

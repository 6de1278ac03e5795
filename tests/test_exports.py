"""Results for papers: names of learned policies, the sentence of each condition, tables, pooled figures."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_compare import ENTRIES, entries, result, scored

from dllm_env.cli import main
from dllm_env.errors import UsageError
from dllm_env.eval import runner
from dllm_env.eval.answers import answers, spoken_for
from dllm_env.eval.compare import Entry, comparisons, pool
from dllm_env.eval.exports import as_latex, as_markdown, main_sheet, pairs_csv, pairs_sheet, write_pooled
from dllm_env.eval.matrix import Matrix, plot_matrix
from dllm_env.eval.names import learned_names, shown_name
from dllm_env.eval.report_files import ReportFiles, write_all
from dllm_env.eval.results import append
from dllm_env.eval.runner import finish


def trained(folder: Path, **settings: object) -> str:
    """A folder with what is read of a learned policy for its name."""
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "policy.json").write_text(json.dumps({"training": settings}))
    return str(folder)


def learned(*policies: str) -> list[Entry]:
    made = [result(policy, scored(90), 7) for policy in policies]
    return pool([replace(one, setting=replace(one.setting, learned=True)) for one in made])


def test_learned_policies_are_called_by_their_algorithm(tmp_path: Path) -> None:
    grpo = trained(tmp_path / "a", seed=1, num_generations=8)
    ppo = trained(tmp_path / "b", seed=1, n_epochs=2)
    dcolt = trained(tmp_path / "c", seed=1, num_generations=8, train_denoiser="lora")
    gone = str(tmp_path / "gone")
    found = learned(f"{grpo}:alpha=0.1", grpo, ppo, dcolt, gone)
    names = learned_names(found)
    assert names == {grpo: "GRPO", ppo: "PPO", dcolt: "DCoLT", gone: "gone"}
    assert [shown_name(entry, names) for entry in found[:2]] == ["GRPO:alpha=0.1", "GRPO"]
    assert learned_names(ENTRIES[1:]) == {}


def test_policies_of_the_same_algorithm_are_told_apart(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / name, seed=seed, n_epochs=2) for name, seed in (("a", 1), ("b", 2)))
    assert learned_names(learned(one, two)) == {one: "PPO seed 1", two: "PPO seed 2"}
    same = trained(tmp_path / "c", seed=1, n_epochs=2)
    assert learned_names(learned(one, same)) == {one: "PPO (a)", same: "PPO (c)"}
    deep = trained(tmp_path / "d" / "a", seed=1, n_epochs=2)
    assert learned_names(learned(one, deep)) == {one: f"PPO ({one})", deep: f"PPO ({deep})"}
    assert learned_names(learned(one, two), [f"{one}/=Ours"]) == {one: "Ours", two: "PPO"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["runs/x"], "--label takes FOLDER=NAME of a learned policy in the results (runs/x, runs/y)"),
        (["threshold:0.5=T"], "takes FOLDER=NAME"),
        (["runs/x="], "has no name after the equals sign"),
        (["runs/x=A", "runs/y=A"], "A is there twice"),
        (["runs/x=A", "runs/x=B"], "runs/x is there twice"),
    ],
)
def test_labels_that_name_nothing_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        learned_names(learned("runs/x", "runs/y"), labels)
    assert message in str(error.value)


# ------------------------------------------------------------------------------------------------ sentences


def test_the_answer_by_hand() -> None:
    """Of 98% with 9 NFE, 96% with 5 and 94% with 4, the one of 5 is the fastest within 3 points."""
    played = entries(
        result("runs/x:alpha=1", scored(94), 4),
        result("runs/x:alpha=0.1", scored(96), 5),
        result("runs/x:alpha=0.01", scored(98), 9),
        result("threshold:0.5", scored(60), 5),
        result("threshold:0.9", scored(98), 12),
        result("oracle", scored(100), 2),
    )
    assert spoken_for(played).policy == "runs/x:alpha=0.1"
    ((title, said),) = answers(played, {"runs/x": "GRPO"})
    assert title == "block length 40"
    assert said.startswith(
        "The learned policy GRPO:alpha=0.1 gets 96.0% with 5.0 evaluations, 36.0 points above the best rule that "
        "is as fast, threshold:0.5 (95% interval +"
    )
    assert said.endswith("); the oracle, which knows what to write, 100.0% with 2.0.")


def test_answers_say_what_is_worse_and_what_chance_can_explain() -> None:
    x, rule, other = (result("runs/x", scored(60), 7), result("a", scored(90), 6), result("b", scored(60), 6))
    ((_, said),) = answers(entries(x, rule), {"runs/x": "PPO"})
    assert "PPO gets 60.0% with 7.0 evaluations, 30.0 points below the best rule that is as fast, a (" in said
    ((_, said),) = answers(entries(x, other), {})
    assert "as often right as the best rule that is as fast, b (95% interval" in said
    assert said.endswith(": too few problems to tell).")


def test_answers_where_there_is_nothing_to_compare_with() -> None:
    x, slow = result("runs/x", scored(90), 7), result("a", scored(95), 9)
    assert answers(entries(x), {})[0][1].endswith("7.0 evaluations, and no rule was played here.")
    assert answers(entries(x, slow), {})[0][1].endswith(
        "and no rule here is as fast: the fastest that is as accurate, a, needs 9.0."
    )
    worse = result("b", scored(20), 9)
    assert answers(entries(x, worse), {})[0][1].endswith("and no rule here is as fast, or as accurate.")
    assert answers(entries(slow, worse), {})[0][1] == "The rule a gets 95.0% with 9.0 evaluations."
    assert answers(entries(result("oracle", scored(99), 2)), {})[0][1].startswith("The reference oracle gets 99.0%")


# --------------------------------------------------------------------------------------------------- tables


def test_markdown_by_hand() -> None:
    sheets = [
        main_sheet(ENTRIES[:2], {"runs/x": "a_b|c"}, "task x"),
        pairs_sheet(comparisons(ENTRIES[:2]), ENTRIES, {}),
    ]
    text = as_markdown(sheets)
    caption = "Accuracy with its 95% interval, and denoiser evaluations (NFE): task x."
    assert text.startswith(f"{caption}\n\nblock length 40\n\n| policy |")
    assert "| --- | ---: | ---: | ---: | ---: | ---: |" in text
    assert "| **a\\_b\\|c** | 100 | 90.0% \\[82.6, 94.5\\] | 7.0 | 7 | " in text
    assert "| threshold:0.5 | 100 | 10.0% \\[5.5, 17.4\\] | 6.0 | 6 | " in text
    assert "| x | threshold:0.5 | best heuristic as fast | +80.0 \\[" in text
    assert "| 80 / 0 | \\< 0.001 | 0.86 |" in text  # 2 · 2⁻⁸⁰; 6 / 7
    assert len({line.count("|") for line in text.splitlines() if line.startswith("| a")}) <= 1


def test_latex_by_hand() -> None:
    text = as_latex([main_sheet(ENTRIES, {"runs/x": "50% & $x_1$"}, "task #1")])
    assert text.splitlines()[1:7] == [
        "\\begin{table}[t]",
        "  \\centering",
        "  \\caption{Accuracy with its 95\\% interval, and denoiser evaluations (NFE): task \\#1.}",
        "  \\label{tab:results}",
        "  \\resizebox{\\ifdim\\width>\\linewidth \\linewidth\\else\\width\\fi}{!}{%",
        "  \\begin{tabular}{lrrrrr}",
    ]
    assert "    \\textbf{50\\% \\& \\$x\\_1\\$} & 100 & 90.0\\% [82.6, 94.5] & 7.0 & 7 & " in text
    assert text.count("\\multicolumn{6}{l}{\\emph{block length") == 2
    lines = [line for line in text.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert {line.replace("\\&", "").count("&") for line in lines} == {5}
    assert len(lines) == 6
    assert text.count("\\midrule") == 2
    assert text.isascii()


@pytest.mark.parametrize("begins", ["", "[1cm] ", "*"])
def test_a_line_begins_with_no_option(begins: str) -> None:
    """Of the command that ends the line before, or draws one above it."""
    text = as_latex([pairs_sheet(comparisons(ENTRIES[:2]), ENTRIES, {"runs/x": f"{begins}x"})])
    assert f"\n    {'{}' * bool(begins)}{begins}x & threshold:0.5 & " in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
@pytest.mark.parametrize("begins", ["", "[x] ", "*"])
def test_latex_takes_it(begins: str, tmp_path: Path) -> None:
    long = "of a length that no line has, and longer than that by far"
    names = {"runs/x": f"{begins}a_b^c ~ 50% & $x_1$ {{α}} \\ <é> γ→∞ αβδεζηθικλμνξπρστυφχψωΔΣΩ≤≈ # {long}"}
    text = as_latex([main_sheet(ENTRIES, names, "task #1"), pairs_sheet(comparisons(ENTRIES), ENTRIES, names)])
    paper = f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}{text}\\end{{document}}"
    (tmp_path / "paper.tex").write_text(paper, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    assert b"Overfull" not in done.stdout


def test_pooled_figures_stand_beside_those_of_the_seeds(tmp_path: Path) -> None:
    played = entries(result("runs/x", scored(90), 6), result("runs/x", scored(70), 8, seed=1))
    key = played[0].setting.part("seed")
    write_pooled(tmp_path, played, {"runs/x": "GRPO"}, {key: {"area": 0.5}})
    (record,) = json.loads((tmp_path / "pooled.json").read_text())
    wanted = {"name": "GRPO", "policy": "runs/x", "seeds": [0, 1], "accuracy": 0.8, "nfe": 7.0, "problems": 200}
    wanted |= {"accuracy_of_seeds": [0.9, 0.7], "nfe_of_seeds": [6.0, 8.0], "area": 0.5}
    assert {name: record[name] for name in wanted} == wanted
    assert "seed" not in record
    (line,) = csv.DictReader(io.StringIO((tmp_path / "pooled.csv").read_text()))
    assert (line["seeds"], line["accuracy_of_seeds"], line["nfe"]) == ("0 1", "0.9 0.7", "7.0")


def test_pairs_as_csv() -> None:
    (line,) = csv.DictReader(io.StringIO(pairs_csv(comparisons(ENTRIES[:2])).decode()))
    assert (line["first"], line["second"], line["first_only"]) == ("runs/x", "threshold:0.5", "80")
    assert float(line["difference"]) == pytest.approx(0.8)


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two policies at two block lengths."""
    for block in (4, 2):
        for policy, right, nfe in (("runs/x", 9, 5), ("top_k:1", 7, 9)):
            made = result(policy, scored(right, 10), nfe, response_length=4, block_length=block)
            append(tmp_path, made.setting, made.outcomes)
    return tmp_path


def test_a_rerun_gives_the_same_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, before = folder / "report.html", set(folder.iterdir())
    command = ["report", str(folder), "--latex", "--markdown", "--pdf", "--label", "runs/x=Ours"]
    assert main(command) == 0
    made = {path.name: path.read_bytes() for path in folder.iterdir() if path not in before}
    assert set(made) >= {"report.html", "report.tex", "report.md", "pairs.csv", "front.pdf", "front.svg"}
    assert b"Ours" in made["report.tex"]
    assert made["front.pdf"].startswith(b"%PDF")
    assert main(command) == 0
    assert {name: (folder / name).read_bytes() for name in made} == made
    assert b"The learned policy Ours gets 90.0% with 5.0 evaluations" in page.read_bytes()
    assert "report.tex" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.md", "report.tex", "problems.jsonl", "page"])
def test_the_page_takes_no_other_files_place(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``--markdown`` would that of ``x.md``, and a page that of the results."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["report", str(folder), "--latex", "--markdown", "--out", str(folder / name)]) == 2
    assert f"--out is a page and ends in .html or .htm, got {folder / name}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_page_alone_writes_no_other_file(folder: Path) -> None:
    found = [result("top_k:1", scored(7, 10), 9, response_length=4, block_length=4)]
    assert write_all(found, [folder], folder / "p.html", ReportFiles()) == [folder / "p.html"]


def test_an_evaluation_has_its_pictures_as_asked_and_the_same_again(folder: Path) -> None:
    def files() -> dict[str, bytes]:
        finish(folder, labels=["runs/x=Ours"], formats=("pdf", "svg"))
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    made = files()
    assert {"front.png", "front.pdf", "front.svg", "pooled.json", "pooled.csv", "pairs.csv"} <= set(made)
    assert files() == made
    assert {one["name"] for one in json.loads(made["pooled.json"])} == {"Ours", "top_k:1"}


def test_the_heat_map_calls_policies_as_the_other_picture_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in (4, 2):
        for policy, right, nfe in (("random:2", 3, 2), ("oracle", 10, 2)):
            made = result(policy, scored(right, 10), nfe, response_length=4, block_length=block)
            append(folder, made.setting, made.outcomes)
    drawn: list[Matrix] = []

    def plot(matrix: Matrix) -> Any:
        drawn.append(matrix)
        return plot_matrix(matrix)

    monkeypatch.setattr(runner, "plot_matrix", plot)
    finish(folder, labels=["runs/x=Ours"])
    assert {"Ours", "learned", "oracle", "random"} <= set(drawn[0].rows)
    assert "\nruns/x,mean," in (folder / "scores.csv").read_text()  # as in results.csv

"""What a pushed policy tells the world: base names, and nothing that a page would take for markup."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostile import small_policy
from safetensors import safe_open

from dllm_env import consent
from dllm_env.cli import main
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.public import base_names, plain_code, plain_markdown

HOME = "/home/alice/secret project"
TRAINING: dict[str, Any] = {
    "task": f"gsm8k:data='{HOME}/grades, all.jsonl'+{HOME}/tasks.py:Mine(file='{HOME}/x.txt')",
    "denoiser": f"{HOME}/llada:dtype=bfloat16,chat=1",
    "data": f"{HOME}/data/",
    "reward": ["additive", f"{HOME}/rewards.py:brief(budget=8)"],
    "head": f"{HOME}/heads.py:Prefix(temperature=0.5)",
    "network": "C:\\Users\\alice\\nets.py:Mine",
    "expert": f"{HOME}/rules.py:Pause",
    "validation_rules": ["~alice/rules.py:Pause(k=2)", "threshold:0.9"],
    "response_length": 16,
}
RESULT = {
    **{"policy": f"{HOME}/runs/x:temperature=0.5", "task": f"{HOME}/tasks.py:Mine", "denoiser": f"{HOME}/llada"},
    **{
        "block_length": 40,
        "problems": 1000,
        "accuracy": 0.9,
        "accuracy_low": 0.9,
        "accuracy_high": 0.9,
        "nfe": 9.6,
    },
}
MARKUP = "a\n---\n# h\n| x | <script>alert(1)</script> [y](http://z) ![i](j) `c` \\| &lt; ``` \u2028 \x1b[31m"


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Path:
    """A run of this machine, and results of it."""
    folder = tmp_path / "alice" / "runs" / "x"
    policy = small_policy()
    made = LearnedPolicy(policy.network, Bernoulli(0.7), "block", str(folder), training=TRAINING)
    made.save_pretrained(folder)
    (tmp_path / "results").mkdir()
    own = RESULT | {"policy": f"{folder}:temperature=0.5"}
    (tmp_path / "results" / "results.json").write_text(json.dumps([RESULT, own]))
    return folder


def everything(folder: Path) -> str:
    """All that the files of a folder say; of weights, what stands beside them."""
    texts = []
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                texts.append(json.dumps([weights.metadata(), list(weights.keys())]))
        else:
            texts.append(file.read_text(encoding="utf-8"))
    return "\n".join([*texts, *(file.name for file in folder.iterdir())])


def test_no_path_is_uploaded(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    class Hub:
        def __init__(self, token: object = None) -> None:
            pass

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path: Path, **_: object) -> str:
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return "https://hub"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    words = ["push", str(run), "someone/fast", "--results", str(tmp_path / "results")]
    assert main(words) == 0, capsys.readouterr().err
    assert main([*words, "--dry-run", str(tmp_path / "dry")]) == 0
    said = everything(tmp_path / "uploaded")
    assert said == everything(tmp_path / "dry")
    for private in ("alice", "Users", "secret", "/home", str(tmp_path)):
        assert private not in said
    for name in ("llada:dtype=bfloat16,chat=1", "heads.py:Prefix(temperature=0.5)", "rewards.py:brief", "x.txt"):
        assert name in said
    shown = capsys.readouterr().out
    for file in (tmp_path / "dry").iterdir():
        assert f"{file.name} ({file.stat().st_size:,} bytes)" in shown
    pushed = LearnedPolicy.from_pretrained(tmp_path / "uploaded")
    assert (pushed.head, pushed.context) == (Bernoulli(0.7), "block")


def test_python_uploads_the_same(run: Path, tmp_path: Path) -> None:
    LearnedPolicy.from_pretrained(run).published().save_pretrained(tmp_path / "public")
    assert "alice" not in everything(tmp_path / "public")
    assert "alice" in (run / "policy.json").read_text()  # where the run goes on from
    assert "alice" not in (run / "README.md").read_text()


def test_a_head_in_a_file_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).parents[1] / "examples" / "own_head.py", tmp_path / "heads.py")
    small_policy().save_pretrained(tmp_path / "run")
    about = json.loads((tmp_path / "run" / "policy.json").read_text())
    about["head"] = {"kind": f"{tmp_path}/heads.py:Prefix", "temperature": 0.5}
    (tmp_path / "run" / "policy.json").write_text(json.dumps(about))
    with consent.allow(files=[tmp_path / "heads.py"]):
        LearnedPolicy.from_pretrained(tmp_path / "run").published().save_pretrained(tmp_path / "public")
    assert json.loads((tmp_path / "public" / "policy.json").read_text())["head"]["kind"] == "heads.py:Prefix"
    monkeypatch.chdir(tmp_path)
    with consent.allow(files=["heads.py"]):
        assert LearnedPolicy.from_pretrained("public").head.temperature == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trace:chains=4", "trace:chains=4"),
        ("GSAI-ML/LLaDA-8B-Instruct:chat=1", "GSAI-ML/LLaDA-8B-Instruct:chat=1"),
        ("/home/alice/x", "x"),
        ("/home/alice/x/", "x"),
        ("~/x", "x"),
        ("./x", "x"),
        ("../alice/x", "x"),
        ("/home/al,ice/x:dtype=auto", "x:dtype=auto"),
        ("/home/al+ice/x", "x"),
        ("/home/alice=1/x", "x"),
        ("/home/10:30:00/x", "x"),
        ("C:\\Users\\alice\\x", "x"),
        ("\\\\server\\alice\\x:temperature=0.5", "x:temperature=0.5"),
        ("runs/a/b/c:head=/home/alice/my.py:Mine", "c:head=my.py:Mine"),
        ("gsm8k:data=/home/alice/g+math:data=/home/alice/m", "gsm8k:data=g+math:data=m"),
        ("/home/alice/my.py:Mine(a='/home/alice/b', c=['/home/alice/d'])", "my.py:Mine(a='b', c=['d'])"),
        ("/home/alice/(unclosed", "(unclosed"),
        (3, 3),
        (None, None),
        (True, True),
    ],
)
def test_base_names(text: Any, expected: Any) -> None:
    assert base_names(text) == expected
    assert base_names(expected) == expected


def test_folders_that_are_here_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alice" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert base_names("alice/model") == "model"
    assert base_names("alice/other") == "alice/other"
    assert base_names({"data": "alice/other"}) == {"data": "other"}


def test_values_are_no_markup(tmp_path: Path) -> None:
    training = {"task": "trace", "denoiser": MARKUP, MARKUP: MARKUP, "update": MARKUP, "response_length": MARKUP}
    training["validation"] = {MARKUP: 0.5, "nfe": MARKUP}
    policy = LearnedPolicy(small_policy().network, Bernoulli(), name=MARKUP, training=training)
    results = [RESULT | {"policy": MARKUP, "problems": MARKUP}]
    for about in ({}, {"name": MARKUP}, {"results": results}):
        card = str(policy.generate_model_card(**about))
        front, _, body = card.removeprefix("---\n").partition("\n---\n")
        assert "alert" not in front
        assert "\n---" not in body
        outside = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
        assert body.count("```") == 4
        assert "<" not in outside
        assert "](http://z" not in outside
        assert "![i](" not in outside
        assert "\x1b" not in body
        assert not re.search(r"^# h", body, re.MULTILINE)
        for line in outside.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line.replace("\\\\", "")))
            assert cells in (0, 3, 8)
        assert all(line.isprintable() for line in body.splitlines())


def test_one_line_each() -> None:
    assert plain_markdown("a\nb|c") == "a b\\|c"
    assert plain_markdown("<b>&") == "&lt;b&gt;&amp;"
    assert plain_markdown("[x](y)") == "[x]\\(y)"
    assert plain_markdown("(1.0, 0.6) [2]") == "(1.0, 0.6) [2]"
    assert plain_code("a\n```b") == "a '''b"


@pytest.mark.parametrize("name", ["nobody", "a/b/c", "a/b\nc", "a/<b>", "/b", "a/", "../b", "a/b c", "a/\u00fc"])
def test_names_that_the_hub_has_not(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(run), name]) == 2
    assert "owner/name" in capsys.readouterr().err


def test_seeds_are_one_line_of_the_card(run: Path, tmp_path: Path) -> None:
    """One would not know which line is of which seed."""
    seeds = [RESULT | {"accuracy": accuracy} for accuracy in (0.5, 0.7)]
    (tmp_path / "results" / "results.json").write_text(json.dumps(seeds))
    (tmp_path / "results" / "pooled.json").write_text(json.dumps([RESULT | {"accuracy": 0.6, "seeds": [0, 1]}]))
    words = ["push", str(run), "a/b", "--results", str(tmp_path / "results"), "--dry-run", str(tmp_path / "dry")]
    assert main(words) == 0
    card = (tmp_path / "dry" / "README.md").read_text()
    assert "60.0%" in card
    assert "50.0%" not in card


@pytest.mark.parametrize("rows", [[{}], [{"policy": "x"}], ["x"], [RESULT | {"accuracy": "high"}], {"a": 1}])
def test_results_that_are_none(run: Path, tmp_path: Path, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results" / "results.json").write_text(json.dumps(rows))
    words = ["push", str(run), "a/b", "--results", str(tmp_path / "results"), "--dry-run", str(tmp_path / "dry")]
    assert main(words) == 2
    assert "missing or damaged" in capsys.readouterr().err

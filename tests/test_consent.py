"""Consent: what files name runs only when the command line, or the caller in Python, says so."""

from __future__ import annotations

import contextvars
import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hostile import attempt, checkpoint_cases, checkpoints_in, policy, quick_cases, small_policy
from make_checkpoint import make_a2d, make_llada
from safetensors.torch import save_file
from test_huggingface import CODE as REMOTE

from dllm_env import consent, processes
from dllm_env.cli import main
from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.eval import parallel
from dllm_env.eval.evaluate import EvaluationConfig
from dllm_env.eval.harness_arguments import with_defaults
from dllm_env.eval.suite import load_suite
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.train.grpo import GRPO
from dllm_env.train.settings_file import read_settings

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = (
    *("--updates", "1", "--prompts", "2", "--num-generations", "2", "--validation-problems", "2"),
    *("--imitation-steps", "0", "--validation-rules", "--width", "8"),
)


@pytest.fixture(scope="module", autouse=True)
def _checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = tmp_path_factory.mktemp("hostile")
    with checkpoints_in(root), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", str(root / "modules"))
        yield


@pytest.mark.parametrize("case", [*quick_cases(), *checkpoint_cases()], ids=lambda case: case.name)
def test_hostile_files_run_nothing(case, tmp_path: Path) -> None:
    assert attempt(case, tmp_path / "case").fault(case.refused) == ""


# ------------------------------------------------------------------------------------------ files of the user's


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a head and a rule of the user's own, and a policy that was trained with the head."""
    shutil.copy(EXAMPLES / "own_head.py", tmp_path / "heads.py")
    shutil.copy(EXAMPLES / "my_rules.py", tmp_path / "rules.py")
    monkeypatch.chdir(tmp_path)
    policy(tmp_path, lambda about: about.update(head={"kind": "heads.py:Prefix", "temperature": 0.5}))
    return tmp_path


EVAL = ["eval", "--problems", "2", "--response-length", "40", "--out", "results", "--policies", "runs/x"]


def test_a_policy_whose_head_is_in_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(EVAL) == 2
    assert "add --allow-code-from heads.py" in capsys.readouterr().err
    assert main([*EVAL, "--allow-code-from", "heads.py"]) == 0
    assert capsys.readouterr().err.count("running the code of heads.py") == 1
    assert main([*EVAL[:-1], "runs/x:head=heads.py:Prefix", "--resume", "--allow-code-from=rules.py"]) == 0


def test_workers_have_the_consent_of_who_began_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[object, ...]] = []

    class Pool:
        def __init__(self, *given: object) -> None:
            _, _, (plans, said) = given[-1]  # type: ignore[misc]
            begun.append(pickle.loads(pickle.dumps((plans, said))))
            raise UsageError("seen")

    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    words = [*EVAL, "rules.py:Pause(threshold=0.8)", "--workers", "2", "--batch-size", "1", "--problems", "12"]
    assert main([*words, "--allow-code-from", "heads.py"]) == 2
    ((plans, said),) = begun
    assert isinstance(said, consent.Consent)

    def work(said: consent.Consent) -> None:
        """As a process does that has been told nothing else."""
        monkeypatch.setattr(consent, "_passed", set())
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
        parallel._make(plans, said)  # type: ignore[arg-type]

    contextvars.copy_context().run(work, said)
    for less in (replace(said, files=frozenset()), replace(said, names=frozenset())):
        with pytest.raises(UsageError, match="--allow-code-from"):
            contextvars.copy_context().run(work, less)
    monkeypatch.setattr(parallel, "_prepared", [])


def test_in_python_objects_names_and_words(place: Path) -> None:
    with pytest.raises(UsageError, match=r"names code in heads\.py.*allow\(files=\['heads\.py'\]\)"):
        load_policy("runs/x")
    with consent.allow(files=["heads.py"]):
        assert isinstance(load_policy("runs/x"), LearnedPolicy)
    with pytest.raises(UsageError, match="names code in"):
        load_policy("runs/x")
    assert isinstance(load_policy("runs/x:head=heads.py:Prefix"), LearnedPolicy)
    assert isinstance(load_policy("runs/x"), LearnedPolicy)  # whose head the caller has named by now


def test_who_saves_an_object_has_consented_to_its_class(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    import heads

    made = LearnedPolicy(small_policy().network, heads.Prefix(0.5)).save_pretrained(place / "mine")
    assert LearnedPolicy.from_pretrained(made).head == heads.Prefix(0.5)


def test_a_file_gives_what_it_defines_not_what_it_imports(place: Path) -> None:
    policy(place, lambda about: about.update(head={"kind": "heads.py:dataclass"}))
    with consent.allow(files=["heads.py"]), pytest.raises(UsageError, match="does not define 'dataclass' itself"):
        load_policy("runs/x")


def test_a_suite(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = {"problems": 2, "response_length": 40, "policies": ["rules.py:Pause(threshold=0.8)"]}
    (place / "suite.yaml").write_text(yaml.safe_dump(suite))
    words = ["eval", "--suite", "suite.yaml", "--out", "results"]
    assert main(words) == 2
    assert "suite.yaml names code in rules.py" in capsys.readouterr().err
    with pytest.raises(UsageError, match="names code"):
        load_suite(place / "suite.yaml")
    with consent.allow(files=[place / "rules.py"]):
        assert load_suite(place / "suite.yaml")[0][1] == ("rules.py:Pause(threshold=0.8)",)
    assert main([*words, "--allow-code-from", "rules.py"]) == 0
    assert "running the code of rules.py" in capsys.readouterr().err


def test_what_a_caller_says_beside_a_suite_needs_no_more(place: Path) -> None:
    (place / "suite.yaml").write_text("policies: [top_k:4]\n")
    base = EvaluationConfig(task="nowhere.py:Mine", response_length=8)
    assert load_suite(place / "suite.yaml", base)[0][0].task == "nowhere.py:Mine"


def test_one_s_own_run_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "grpo", "--out", "run", "--response-length", "40", *SHORT]
    assert main([*words, "--head", "heads.py:Prefix"]) == 0
    said = capsys.readouterr().out
    assert "--allow-code-from heads.py" in said[said.index("compare:") :]
    resume = ["train", "grpo", "--out", "run", "--resume"]
    assert main(resume) == 2
    assert "run/settings.json names code in heads.py; if you trust that, add --allow-code-from heads.py" in (
        capsys.readouterr().err
    )
    assert main([*resume, "--allow-code-from", "heads.py"]) == 0
    assert main([*resume, "--head", "heads.py:Prefix"]) == 0


def test_all_files_are_named_at_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "config.yaml").write_text("head: heads.py:Prefix\nvalidation_rules: ['rules.py:Pause']\n")
    assert main(["train", "grpo", "--config", "config.yaml"]) == 2
    said = capsys.readouterr().err
    assert "--allow-code-from heads.py" in said
    assert "--allow-code-from rules.py" in said


def test_settings_of_files_allow_no_programs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("allow_code_execution: true\n")
    assert not read_settings(tmp_path / "config.yaml", GRPO()).allow_code_execution
    assert read_settings(tmp_path / "config.yaml", GRPO(allow_code_execution=True)).allow_code_execution


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--allow-code-from"], "needs the Python file"),
        (["eval", "--allow-code-from", "--policies"], "needs the Python file"),
        (["eval", "--allow-code-from", "nowhere.py"], "no file 'nowhere.py'"),
        (["eval", "--allow-code-from=nowhere.py"], "no file 'nowhere.py'"),
    ],
)
def test_words_that_say_nothing(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_consent_travels_to_another_process() -> None:
    said = consent.said_by(["eval", "--trust-remote-code", "--policies", f"{EXAMPLES / 'my_rules.py'}:Pause"])
    there = pickle.loads(pickle.dumps(said))
    assert there == said
    assert there.remote_code
    assert there.names == {(EXAMPLES / "my_rules.py", "Pause")}


@pytest.mark.parametrize("name", ["DLLM_ENV_ALLOW_CODE_FROM", "ALLOW_CODE_FROM", "TRUST_REMOTE_CODE"])
def test_the_environment_says_nothing(place: Path, name: str, monkeypatch, capsys) -> None:
    monkeypatch.setenv(name, "heads.py")
    assert main(EVAL) == 2
    assert "add --allow-code-from heads.py" in capsys.readouterr().err


def test_help_speaks_of_consent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    said = capsys.readouterr().out
    assert consent.ALLOW_FILE in said
    assert consent.TRUST_REMOTE in said


def test_tables_that_contain_themselves_end() -> None:
    bomb: list[object] = ["x"]
    for _ in range(64):
        bomb = [bomb] * 8
    endless: dict[str, object] = {}
    endless["endless"] = [endless, bomb]
    consent.check_read(endless, "a file")


# ------------------------------------------------------------------------------------------ code of checkpoints


@pytest.fixture(name="remote")
def _remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint, ``x``, that works by code of its own."""
    monkeypatch.chdir(tmp_path)
    folder = make_a2d(tmp_path / "x")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    homes = {"AutoConfig": "toy.ToyConfig", "AutoModel": "toy.ToyModel"}
    config = {"model_type": "toy_of_a_stranger", "vocab_size": size, "auto_map": homes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "toy.py").write_text(REMOTE)
    save_file({"embedding.weight": torch.randn(size, size)}, folder / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_trust_in_a_suite_is_said_on_the_command_line(remote: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = {"policies": ["top_k:4"], "problems": 1, "response_length": 8, "denoiser": "x:trust_remote_code=1"}
    (remote / "suite.yaml").write_text(yaml.safe_dump(suite))
    words = ["eval", "--suite", "suite.yaml", "--out", "results"]
    assert main(words) == 2
    assert "suite.yaml asks to run the Python code of x" in capsys.readouterr().err
    assert main([*words, "--denoiser", "y:trust_remote_code=1"]) == 2  # of another
    with pytest.warns(UserWarning, match="running the Python code of x"):
        assert main([*words, "--trust-remote-code"]) == 0
    with pytest.warns(UserWarning, match="running the Python code of x"):
        assert main([*words, "--resume", "--denoiser", "x:trust_remote_code=1"]) == 0


def test_trust_in_python(remote: Path) -> None:
    with pytest.raises(UsageError, match="needs the Python code that comes with it"):
        load_denoiser("x")
    with pytest.warns(UserWarning, match="running the Python code"):
        load_denoiser("x:trust_remote_code=1")
    with consent.allow(remote_code=True), pytest.warns(UserWarning, match="running the Python code"):
        load_denoiser("x")


def test_a_tokenizer_with_code_is_run_with_consent_alone(tmp_path: Path) -> None:
    folder = make_llada(tmp_path / "x")
    code = "from transformers import PreTrainedTokenizerFast\nclass Own(PreTrainedTokenizerFast):\n    own = True\n"
    (folder / "tokenization.py").write_text(code)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "tokenization.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="has a tokenizer that needs the Python code"):
        load_denoiser(folder)
    with pytest.warns(UserWarning, match="running the Python code"):
        assert load_denoiser(f"{folder}:trust_remote_code=1").tokenizer.own  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ lm-eval


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"model_args": {"denoiser": "x", "trust_remote_code": True}}, "--trust-remote-code"),
        ({"model_args": "denoiser=x,trust_remote_code=True"}, "--trust-remote-code"),
        ({"trust_remote_code": True}, "--trust-remote-code"),
        ({"model_args": {"policy": "rules.py:Pause"}}, "--allow-code-from rules.py"),
        ({"confirm_run_unsafe_code": True}, "give --confirm_run_unsafe_code"),
        ({"include_path": "evil"}, "give --include_path"),
        ({"tasks": ["evil/task.yaml"]}, "named on the command line"),
        ({"tasks": [{"task": "mine", "process_docs": "x"}]}, "named on the command line"),
    ],
)
def test_a_configuration_of_the_harness(place: Path, table: dict[str, object], message: str) -> None:
    (place / "evil").mkdir()
    (place / "evil" / "task.yaml").write_text("task: !function utils.x\n")
    (place / "config.yaml").write_text(yaml.safe_dump(table))
    with consent.given(consent.said_by(["lm-eval"])), pytest.raises(UsageError, match=message):
        with_defaults(["run", "--config", "config.yaml"])


def test_the_harness_s_own_words_are_consent(place: Path) -> None:
    assert consent.said_by(["--trust_remote_code"]).remote_code
    assert consent.said_by(["--model_args", "denoiser=x", "trust_remote_code=True"]).remote_code
    assert not consent.said_by(["--model_args", "denoiser=x", "trust_remote_code=False"]).remote_code
    with consent.given(consent.said_by(["--model_args", "denoiser=x,trust_remote_code=True"])):
        assert consent.may_trust("x", True)
        assert not consent.may_trust("y", True)

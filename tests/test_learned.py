"""Learned policies: saved and loaded without a change, and bad files refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from damage import COMMON, Damage, drop, edit

from dllm_env.cli import main
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import CARD, CONFIG, VALUE, WEIGHTS, LearnedPolicy, load_policy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.random import RowRandom, torch_generator


@pytest.fixture(name="policy")
def _policy() -> LearnedPolicy:
    """A network of random weights, its zero-initialised parts too, so that every weight counts."""
    network = ConfidenceTransformer(NetworkConfig(width=16, heads=2, top=2, bias=-0.5), torch_generator(1)).eval()
    generator = torch_generator(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return LearnedPolicy(network, Bernoulli(0.7, True), "block", "mine", training={"alpha": 0.1, "task": "trace"})


@pytest.fixture(name="folder")
def _folder(policy: LearnedPolicy, tmp_path: Path) -> Path:
    return policy.save_pretrained(tmp_path / "policy")


def observation() -> Observation:
    generator = torch_generator(3)
    selectable = torch.rand(20, 8, generator=generator) < 0.6
    return Observation(
        confidence=torch.rand(20, 8, 2, generator=generator) * selectable[..., None],
        masked=selectable,
        selectable=selectable,
        progress=torch.rand(20, generator=generator),
        masked_total=selectable.sum(-1),
        step=torch.zeros(len(selectable), dtype=torch.int64),
    )


def assert_acts_as(one: LearnedPolicy, other: LearnedPolicy) -> None:
    first = one.act(observation(), RowRandom(torch.arange(20)))
    second = other.act(observation(), RowRandom(torch.arange(20)))
    assert torch.equal(first.unmask, second.unmask)
    assert first.log_prob is not None
    assert second.log_prob is not None
    assert torch.equal(first.log_prob, second.log_prob)


def test_round_trip_is_bit_equal(policy: LearnedPolicy, folder: Path) -> None:
    loaded = LearnedPolicy.from_pretrained(folder)
    assert_acts_as(policy, loaded)
    assert (loaded.head, loaded.context, loaded.training) == (policy.head, policy.context, policy.training)
    assert loaded.network.config == policy.network.config
    assert (loaded.top, loaded.name) == (2, str(folder))
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])


def test_saving_again_replaces(policy: LearnedPolicy, folder: Path) -> None:
    with torch.no_grad():
        policy.network.score.bias.add_(1.0)
    policy.save_pretrained(folder)
    assert_acts_as(policy, LearnedPolicy.from_pretrained(folder))


@pytest.mark.parametrize("place", ["best", "last"])
def test_a_run_folder_stands_for_its_checkpoint(policy: LearnedPolicy, tmp_path: Path, place: str) -> None:
    policy.save_pretrained(tmp_path / "run" / place)
    assert_acts_as(policy, load_policy(str(tmp_path / "run")))  # type: ignore[arg-type]


def test_the_best_checkpoint_comes_first(policy: LearnedPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "best")
    with torch.no_grad():
        policy.network.score.bias.add_(9.0)
    policy.save_pretrained(tmp_path / "last")
    assert_acts_as(LearnedPolicy.from_pretrained(tmp_path), LearnedPolicy.from_pretrained(tmp_path / "best"))
    last = LearnedPolicy.from_pretrained(tmp_path / "last")
    assert torch.equal(last.network.score.bias, policy.network.score.bias)


def test_settings(policy: LearnedPolicy, folder: Path) -> None:
    loaded = load_policy(f"{folder}:temperature=0.5,force_progress=0")
    assert isinstance(loaded, LearnedPolicy)
    assert loaded.head == Bernoulli(0.5, False)
    assert loaded.name == f"{folder}:temperature=0.5,force_progress=0"
    assert not loaded.greedy
    assert policy.with_settings("other", {"temperature": "2"}).head == Bernoulli(2.0, True)
    assert policy.head == Bernoulli(0.7, True)


def test_greedy_takes_the_mode(policy: LearnedPolicy, folder: Path) -> None:
    greedy = load_policy(f"{folder}:greedy=1")
    seen = observation()
    expected = policy.head.mode(policy.network(seen), seen.selectable)
    assert greedy.act(seen, RowRandom(torch.arange(20))).unmask.tolist() == expected.tolist()


def test_evaluate_scores_what_act_did(policy: LearnedPolicy) -> None:
    seen = observation()
    decision = policy.act(seen, RowRandom(torch.arange(20)))
    log_prob, entropy = policy.evaluate(seen, decision.unmask)
    assert log_prob.requires_grad
    assert decision.log_prob is not None
    assert torch.equal(log_prob, decision.log_prob)
    assert decision.entropy is not None
    assert torch.equal(entropy, decision.entropy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("heat=1", "a learned policy has no setting 'heat'; it has temperature, force_progress, greedy"),
        ("temperature=0", "temperature must be above 0, got 0"),
        ("temperature=hot", "temperature must be a number, got 'hot'"),
        ("force_progress=5", "force_progress must be true or false, got '5'"),
    ],
)
def test_bad_settings_are_refused(folder: Path, settings: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_policy(f"{folder}:{settings}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGES: dict[str, Damage] = {
    **COMMON,
    "missing weight": drop("score.bias"),
    "another network": edit(lambda c: c["network"].update(kind="mamba")),
    "another head": edit(lambda c: c["head"].update(kind="plackett")),
    "bad head": edit(lambda c: c["head"].update(temperature=-1)),
    "no head": edit(lambda c: c.pop("head")),
    "unknown context": edit(lambda c: c.update(context="sideways")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_in_one_line(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(UsageError) as caught:
        load_policy(str(folder))
    assert str(caught.value).startswith(f"cannot load the policy in {folder}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_missing_files_are_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UsageError, match=r"neither a heuristic \(.*\), nor a class .*, nor a folder with"):
        load_policy(str(folder))


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/nowhere/at-all", "a/b/c", "", "."])
def test_what_is_no_policy_is_refused_without_asking_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def asked(*_: object, **__: object) -> str:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no policy"):
        load_policy(name)


def test_hub_names(policy: LearnedPolicy, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, sorted(allow_patterns)))
        return shutil.copytree(folder, tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    loaded = LearnedPolicy.from_pretrained("someone/policy")
    assert_acts_as(policy, loaded)
    assert loaded.name == "someone/policy"
    assert asked == [("someone/policy", ["denoiser/*", CONFIG, WEIGHTS, VALUE])]


def test_hub_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise OSError("404 Client Error\n\nRepository not found")

    monkeypatch.setattr("dllm_env.hub.silence", str)  # it answers
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_policy("someone/policy")
    assert "404 Client Error" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_error_without_words_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise OSError

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no folder 'someone/policy'"):
        load_policy("someone/policy")


# ------------------------------------------------------------------------------------------ model card


RESULT = {
    **{"policy": "runs/x", "task": "trace", "denoiser": "tiny", "block_length": 40, "problems": 1000},
    **{"accuracy": 0.9361, "accuracy_low": 0.92, "accuracy_high": 0.95, "nfe": 9.62, "seconds": 1.0},
}


def test_the_card_says_what_it_is_how_good_and_how_trained(policy: LearnedPolicy, tmp_path: Path) -> None:
    policy.training = {"task": "trace", "alpha": 0.1, "head": "a|b", "block_length": 8, "response_length": 40}
    folder = policy.save_pretrained(tmp_path, model_card_kwargs={"name": "someone/fast", "results": [RESULT]})
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: dllm-env\ntags:\n- dllm-env\n")
    assert "# someone/fast" in card
    assert 'policy="someone/fast", gen_length=40, block_length=8' in card
    assert "| runs/x | trace | tiny | 40 | 1000 | 93.6% [92.0%, 95.0%] | 9.6 |" in card
    assert "| alpha | 0.1 |" in card
    assert "a\\|b" in card
    assert "the active block only" in card
    weights = sum(value.numel() for value in policy.network.state_dict().values())
    assert f"{weights:,} weights" in card


def test_the_card_of_a_run_has_its_validation(policy: LearnedPolicy, tmp_path: Path) -> None:
    policy.training = {
        **{"task": "trace", "validation_problems": 200, "update": 40},
        "validation": {"accuracy": 0.95, "nfe": 9.1},
    }
    card = (policy.save_pretrained(tmp_path) / "README.md").read_text()
    assert "on 200 validation problems of trace, accuracy 0.95, nfe 9.1" in card
    assert "Kept at update 40." in card
    assert "validation |" not in card


def test_pushing_uploads_what_can_be_loaded(
    policy: LearnedPolicy, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    taken: dict[str, object] = {}

    class Hub:
        def __init__(self, token: object = None) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
            taken["private"] = private
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> str:
            taken["repo"] = repo_id
            shutil.copytree(folder_path, tmp_path / "uploaded")
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    results = tmp_path / "results"
    results.mkdir()
    (results / "results.json").write_text(json.dumps([RESULT]))
    assert main(["push", str(folder), "someone/fast", "--results", str(results), "--private"]) == 0
    assert taken == {"private": True, "repo": "someone/fast"}
    assert "https://hub/someone/fast" in capsys.readouterr().out
    assert_acts_as(policy, LearnedPolicy.from_pretrained(tmp_path / "uploaded"))
    assert "93.6%" in (tmp_path / "uploaded" / "README.md").read_text()
    assert main(["push", str(folder), "someone/fast", "--dry-run", str(tmp_path / "dry")]) == 0
    assert sorted(path.name for path in (tmp_path / "dry").iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    assert main(["push", str(folder), "someone/fast", "--dry-run", str(tmp_path / "dry")]) == 0  # and once more


@pytest.mark.parametrize(
    ("pushed", "to"), [(".", "."), (".", "best"), ("best", "best"), ("best", "."), (".", "link")]
)
def test_a_dry_run_leaves_the_run_alone(pushed: str, to: str, folder: Path, tmp_path: Path, capsys) -> None:
    """What is published has no paths, and beside ``best`` it would be what the run's name stands for."""
    run = tmp_path / "run"
    shutil.copytree(folder, run / "best")
    (run / "settings.json").write_text("{}")
    (run / "link").symlink_to("best")
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert main(["push", str(run / pushed), "someone/fast", "--dry-run", str(run / to)]) == 2
    assert "give another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    (run / "file").touch()
    assert main(["push", str(run), "someone/fast", "--dry-run", str(run / "file")]) == 2
    assert "give another folder with --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "owner/name"),
        (["someone/fast", "--results", "nowhere"], "no results in nowhere"),
    ],
)
def test_what_cannot_be_pushed(arguments: list[str], message: str, folder: Path, capsys) -> None:
    assert main(["push", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err

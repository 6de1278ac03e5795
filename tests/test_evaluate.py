import os
from dataclasses import replace

import pytest
import torch
from conftest import Scripted, favouring

from dllm_env.denoisers.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig, evaluate, prepare
from dllm_env.eval.parallel import default_workers, pieces, play_pieces
from dllm_env.eval.results import summarise
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.random import torch_generator
from dllm_env.tasks.load import load_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A denoiser of random weights."""
    network = TinyTransformer(TinyConfig(width=16, layers=1, heads=2, feed_forward=32), len(WORDS))
    network.initialize(torch_generator(0))
    with torch.no_grad():
        network.head.weight.normal_(generator=torch_generator(1))
    path = tmp_path_factory.mktemp("denoiser")
    TinyDenoiser(network).save(path)
    return path


@pytest.fixture
def config(folder):
    return EvaluationConfig(denoiser=str(folder), problems=6, seeds=2, block_length=(40, 8))


def learned():
    network = ConfidenceTransformer(NetworkConfig(width=8, bias=0.0), torch_generator(0))
    return LearnedPolicy(network.eval(), Bernoulli(), name="mine")


def played(result):
    """Setting and outcomes, but for the time that they took."""
    return result.setting, [replace(outcome, seconds=0.0) for outcome in result.outcomes]


def test_results_have_everything_in_order(config, folder):
    results = evaluate(config, ["leftmost:4", "threshold:0.2", learned()])
    keys = [(r.setting.block_length, r.setting.policy, r.setting.seed) for r in results]
    names = ("leftmost:4", "threshold:0.2", "mine")
    assert keys == [(block, name, seed) for block in (40, 8) for name in names for seed in (0, 1)]
    assert [r.setting.learned for r in results] == [key[1] == "mine" for key in keys]
    for result in results:
        setting = result.setting
        assert (setting.task, setting.denoiser, setting.split) == ("trace", str(folder), "test")
        assert bool(setting.policy_version) == setting.learned
        assert setting.denoiser_version
        assert setting.code_version
        assert len(result.outcomes) == 6
        for outcome in result.outcomes:
            assert (outcome.setting, outcome.policy, outcome.seed) == (setting.key, setting.policy, setting.seed)
    assert {summarise(r.outcomes).nfe for r in results if r.setting.policy == "leftmost:4"} == {10.0}


def test_outcomes_name_their_problem_and_how_the_response_came_about(config):
    for result in evaluate(config, ["leftmost:8"]):
        for i, outcome in enumerate(result.outcomes):
            problem = load_task("trace").problem(i, "test", result.setting.seed)
            assert (outcome.index, outcome.sample, outcome.prompt) == (i, 0, problem.prompt)
            assert outcome.correct == load_task("trace").score(problem, outcome.response)
            assert outcome.revealed_at == [step for step in range(5) for _ in range(8)]
            assert all(0 < value <= 1 for value in outcome.confidence)
            shown = outcome.words[: outcome.words.index("<eot>")] if "<eot>" in outcome.words else outcome.words
            assert " ".join(word for word in shown if word != "<pad>") == outcome.response


def test_same_input_same_result_whatever_the_batch_size_and_the_other_policies(config):
    warm = replace(config, temperature=0.7)
    alone = evaluate(warm, ["random:4"])
    again = evaluate(replace(warm, batch_size=4), ["leftmost:8", "random:4"])
    assert [played(r) for r in alone] == [played(r) for r in again if r.setting.policy == "random:4"]
    assert alone[0].outcomes[0].response != alone[1].outcomes[0].response


def test_fewer_problems_are_the_first_of_many(config):
    many, few = (evaluate(replace(config, problems=n), ["random:4"]) for n in (6, 3))
    assert [played(r)[1][:3] for r in many] == [played(r)[1] for r in few]


def test_samples_differ_and_the_first_is_what_it_was(config):
    warm = replace(config, temperature=1.0, seeds=1, block_length=())
    (one,), (three,) = evaluate(warm, ["leftmost:8"]), evaluate(replace(warm, samples=3), ["leftmost:8"])
    assert [(o.index, o.sample) for o in three.outcomes] == [(i, s) for i in range(6) for s in range(3)]
    assert played(one)[1] == played(three)[1][::3]
    assert len({o.response for o in three.outcomes[:3]}) == 3


def test_a_row_that_is_cut_off_is_wrong_and_unfinished(config):
    (result,) = evaluate(replace(config, max_steps=3, seeds=1, block_length=()), ["leftmost:1"])
    assert result.setting.block_length == 40
    found = summarise(result.outcomes)
    assert (found.accuracy, found.finished, found.nfe) == (0.0, 0.0, 3.0)
    assert all(outcome.tokens <= 3 for outcome in result.outcomes)
    assert all(outcome.words[3:] == [""] * 37 for outcome in result.outcomes)


def test_only_what_is_missing_is_played_and_pieces_give_what_the_whole_does(config):
    small = replace(config, batch_size=1)
    evaluation = Evaluation(small, ["random:4", "leftmost:8"])
    whole = {r.setting.key: played(r)[1] for r in evaluate(small, ["random:4", "leftmost:8"])}
    todo = pieces([evaluation], set())
    assert [len(piece.places) for piece in todo] == [1] * 48
    seen, found = [], {}
    for setting, outcomes in play_pieces([evaluation], todo, on_progress=lambda label, more: seen.append(more)):
        found.setdefault(setting.key, []).extend(replace(outcome, seconds=0.0) for outcome in outcomes)
    assert found == whole
    assert sum(seen) == 8 * 6
    first = evaluation.jobs[0].setting.key
    left = pieces([evaluation], {(first, (index, 0)) for index in (0, 1, 2, 4)})
    assert [piece.places for piece in left[:2]] == [((3, 0),), ((5, 0),)]
    assert len(left) == 2 + 42


@pytest.mark.parametrize(("slow", "sizes"), [(31.0, [1, 1, 1, 1, 1]), (14.0, [1, 2, 2]), (0.1, [1, 4])])
def test_what_is_written_together_took_half_a_minute_at_most(config, monkeypatch, slow, sizes):
    """Each batch takes so long; as many are played together as fit into 30 seconds, 4 at most."""
    from dllm_env.eval import parallel

    now = [0.0]
    evaluation = Evaluation(replace(config, batch_size=1, seeds=1, problems=5, block_length=()), ["leftmost:8"])
    play = evaluation.play

    def slowly(job, places, on_progress=None):
        now[0] += slow * len(places)
        return play(job, places, on_progress)

    monkeypatch.setattr(evaluation, "play", slowly)
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now[0])
    found = list(play_pieces([evaluation], pieces([evaluation], set())))
    assert [len(outcomes) for _, outcomes in found] == sizes
    assert [o.index for _, outcomes in found for o in outcomes] == [0, 1, 2, 3, 4]


def test_the_first_batch_of_a_job_is_written_alone(config):
    small = replace(config, batch_size=1, seeds=1, problems=3, block_length=())
    evaluation = Evaluation(small, ["leftmost:8", "top_k:8"])
    found = [(s.policy, len(o)) for s, o in play_pieces([evaluation], pieces([evaluation], set()))]
    assert found == [("leftmost:8", 1), ("leftmost:8", 2), ("top_k:8", 1), ("top_k:8", 2)]


def test_several_processes_give_what_one_does(config):
    evaluation = Evaluation(replace(config, batch_size=1, seeds=1), ["random:4"])
    todo, seen = pieces([evaluation], set()), []
    one = {(s.key, o.index): o for s, outcomes in play_pieces([evaluation], todo) for o in outcomes}
    found = play_pieces([evaluation], todo, 2, lambda label, more: seen.append(more))
    two = {(s.key, o.index): o for s, outcomes in found for o in outcomes}
    assert sum(seen) == 12
    assert {k: replace(o, seconds=0.0) for k, o in two.items()} == {
        k: replace(o, seconds=0.0) for k, o in one.items()
    }


@pytest.mark.parametrize(
    ("changes", "policies", "message"),
    [
        ({"task": "chess"}, ["random"], "unknown task"),
        ({"denoiser": "no-such-thing"}, ["random"], "unknown denoiser"),
        ({"block_length": (7,)}, ["random"], "does not divide"),
        ({"block_length": (8, 8)}, ["random"], "block length 8 is given twice"),
        ({"split": "tset"}, ["random"], "unknown split"),
        ({"problems": -1}, ["random"], "--problems"),
        ({"seeds": 0}, ["random"], "--seeds"),
        ({"batch_size": 0}, ["random"], "--batch-size"),
        ({"temperature": -1.0}, ["random"], "temperature"),
        ({"response_length": 120}, ["random"], "exceed the context"),
        ({"task": "trace:chains=4", "response_length": 88, "block_length": ()}, ["random"], "exceed the context"),
        ({}, [], "--policies"),
        ({}, ["random:0"], "k must be"),
        ({"samples": 0}, ["random"], "--samples"),
        ({"noise": "float16"}, ["random"], "unknown noise 'float16'; choose float64 or float32"),
        ({}, ["wino"], "wino:0.6 puts tokens back to mask; allow it with --allow-remask"),
        ({}, ["nothing"], "nothing"),
        ({}, ["random", "random:1"], "policy random:1 is given twice"),
    ],
)
def test_wrong_input_is_refused_before_the_denoiser_is_called(config, monkeypatch, changes, policies, message):
    def called(*_):
        raise AssertionError("the denoiser was called")

    monkeypatch.setattr(TinyDenoiser, "features", called)
    with pytest.raises(UsageError, match=message) as error:
        Evaluation(replace(config, **changes), policies)
    assert "\n" not in str(error.value)


def test_evaluations_of_the_same_denoiser_share_it(config: EvaluationConfig) -> None:
    first, second, third = prepare(
        [(config, ["random:4"]), (config, ["top_k:1"]), (replace(config, seeds=1), ["top_k:1"])]
    )
    assert first.denoiser is second.denoiser is third.denoiser


def test_only_bundled_denoisers_are_loaded_once_for_each_process(config: EvaluationConfig) -> None:
    evaluation = Evaluation(config, ["random:4"])
    assert default_workers([evaluation]) == max(1, (os.cpu_count() or 1) // 2)
    evaluation.denoiser = Scripted(favouring([3]))
    assert default_workers([evaluation]) == 1


def brief(*, text, steps, length, **_):  # type: ignore[no-untyped-def]
    return [-len(one) / 100 for one in text]


def test_rewards_in_an_evaluation() -> None:
    rewards = {"reward": (brief, "additive"), "reward_weights": (2.0, 1.0), "alpha": 1.0, "cost": "steps"}
    config = EvaluationConfig(problems=4, **rewards)
    (result,) = evaluate(config, ["leftmost:8"])
    for outcome in result.outcomes:
        additive = outcome.correct - outcome.steps / 40
        assert outcome.rewards["brief"] == pytest.approx(-len(outcome.response) / 100)
        assert outcome.rewards["additive"] == pytest.approx(additive, abs=1e-6)
        assert outcome.rewards["total"] == pytest.approx(additive - len(outcome.response) / 50, abs=1e-6)
    mean = sum(outcome.rewards["total"] for outcome in result.outcomes) / 4
    assert result.record()["reward"] == pytest.approx(mean)
    plain = evaluate(EvaluationConfig(problems=4), ["leftmost:8"])[0]
    assert plain.record()["reward"] is None
    assert plain.setting.key == result.setting.key  # the same was played
    evaluation = prepare([(config, ["leftmost:8"])])
    ((_, outcomes),) = play_pieces(evaluation, pieces(evaluation[0:1], set()), workers=1)
    assert [one.rewards for one in outcomes] == [one.rewards for one in result.outcomes]
    with pytest.raises(UsageError, match="give at least one reward"):
        evaluate(EvaluationConfig(problems=1, reward_weights=(1.0,)), ["leftmost:8"])
    with pytest.raises(UsageError, match="asks for 'gold'"):
        evaluate(EvaluationConfig(problems=1, reward=(lambda gold: gold,)), ["leftmost:8"])


def test_a_task_and_a_denoiser_as_objects() -> None:
    task, denoiser = (
        load_task("trace:chains=1"),
        TinyDenoiser(TinyTransformer(TinyConfig(width=16, layers=1), len(WORDS))),
    )
    (result,) = evaluate(EvaluationConfig(task=task, denoiser=denoiser, problems=2), ["leftmost:8"])
    assert result.setting.task == task.name
    assert len(result.outcomes) == 2

import csv
import json

import pytest
import torch

from dllm_env.errors import UsageError
from dllm_env.eval.compare import Row, best_heuristic, draw_front, pool, table
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig, append_problems, evaluate, write_results
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.random import torch_generator
from dllm_env.tasks import load_task
from dllm_env.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer


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


def figures(result):
    entry = result.entry()
    del entry["seconds"]
    return entry


def test_results_have_everything_in_order(config, folder):
    results = evaluate(config, ["leftmost:4", "threshold:0.2", learned()])
    keys = [(result.block_length, result.policy, result.seed) for result in results]
    names = ("leftmost:4", "threshold:0.2", "mine")
    assert keys == [(block, name, seed) for block in (40, 8) for name in names for seed in (0, 1)]
    assert [result.learned for result in results] == [key[1] == "mine" for key in keys]
    for result in results:
        assert (result.task, result.denoiser, result.split) == ("trace", str(folder), "test")
        assert result.problems == len(result.outcomes) == 6
        assert result.accuracy_low <= result.accuracy <= result.accuracy_high
        assert result.accuracy == sum(outcome.correct for outcome in result.outcomes) / 6
        tokens, nfe = (sum(getattr(o, name) for o in result.outcomes) for name in ("tokens", "nfe"))
        assert result.tokens_per_nfe == tokens / nfe
        assert result.nfe == nfe / 6
    assert {result.nfe for result in results if result.policy == "leftmost:4"} == {10.0}


def test_outcomes_name_their_problem(config):
    for result in evaluate(config, ["leftmost:8"]):
        for i, outcome in enumerate(result.outcomes):
            problem = load_task("trace").problem(i, "test", result.seed)
            assert (outcome.index, outcome.prompt) == (i, problem.prompt)
            assert outcome.correct == load_task("trace").score(problem, outcome.response)


def test_same_input_same_result_whatever_the_batch_size_and_the_other_policies(config):
    from dataclasses import replace

    warm = replace(config, temperature=0.7)
    alone = evaluate(warm, ["random:4"])
    again = evaluate(replace(warm, batch_size=4), ["leftmost:8", "random:4"])
    assert [figures(r) for r in alone] == [figures(r) for r in again if r.policy == "random:4"]
    assert [r.outcomes for r in alone] == [r.outcomes for r in again if r.policy == "random:4"]
    assert alone[0].outcomes[0].response != alone[1].outcomes[0].response


def test_fewer_problems_are_the_first_of_many(config):
    from dataclasses import replace

    many, few = (evaluate(replace(config, problems=n), ["random:4"]) for n in (6, 3))
    assert [r.outcomes[:3] for r in many] == [r.outcomes for r in few]


def test_a_row_that_is_cut_off_is_wrong_and_unfinished(config):
    from dataclasses import replace

    (result,) = evaluate(replace(config, max_steps=3, seeds=1, block_length=()), ["leftmost:1"])
    assert result.block_length == 40
    assert (result.accuracy, result.finished, result.nfe) == (0.0, 0.0, 3.0)
    assert all(outcome.tokens <= 3 for outcome in result.outcomes)


def test_progress_goes_to_the_total(config):
    seen = []
    evaluation = Evaluation(config, ["leftmost:8", "random:8"])
    list(evaluation.run(lambda label, done: seen.append(done)))
    assert seen == sorted(seen)
    assert seen[-1] == evaluation.total == 2 * 2 * 2 * 6


@pytest.mark.parametrize(
    ("changes", "policies", "message"),
    [
        ({"task": "chess"}, ["random"], "unknown task"),
        ({"denoiser": "no-such-thing"}, ["random"], "unknown denoiser"),
        ({"block_length": (7,)}, ["random"], "does not divide"),
        ({"block_length": (8, 8)}, ["random"], "block length 8 is given twice"),
        ({"split": "tset"}, ["random"], "unknown split"),
        ({"problems": 0}, ["random"], "--problems"),
        ({"seeds": 0}, ["random"], "--seeds"),
        ({"batch_size": 0}, ["random"], "--batch-size"),
        ({"temperature": -1.0}, ["random"], "temperature"),
        ({"response_length": 120}, ["random"], "exceed the context"),
        ({"task": "trace:chains=4", "response_length": 88, "block_length": ()}, ["random"], "exceed the context"),
        ({}, [], "--policies"),
        ({}, ["random:0"], "k must be"),
        ({}, ["nothing"], "nothing"),
        ({}, ["random", "random:1"], "policy random:1 is given twice"),
    ],
)
def test_wrong_input_is_refused_before_the_denoiser_is_called(config, monkeypatch, changes, policies, message):
    from dataclasses import replace

    def called(*_):
        raise AssertionError("the denoiser was called")

    monkeypatch.setattr(TinyDenoiser, "features", called)
    with pytest.raises(UsageError, match=message) as error:
        Evaluation(replace(config, **changes), policies)
    assert "\n" not in str(error.value)


def test_files_hold_what_was_found(config, tmp_path):
    results = evaluate(config, ["leftmost:8", "random:8"])
    for result in results:
        append_problems(tmp_path, result)
    write_results(tmp_path, results)
    entries = json.loads((tmp_path / "results.json").read_text())
    assert entries == [result.entry() for result in results]
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == [result.policy for result in results]
    assert [float(row["nfe"]) for row in rows] == [result.nfe for result in results]
    lines = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 2 * 6
    keys = {(line["policy"], line["block_length"], line["seed"], line["index"]) for line in lines}
    assert len(keys) == len(lines)


def test_pool_joins_the_seeds(config):
    results = evaluate(config, ["leftmost:8", "random:8"])
    rows = pool(results)
    assert [(row.block_length, row.policy) for row in rows] == [
        (block, policy) for block in (40, 8) for policy in ("leftmost:8", "random:8")
    ]
    assert all((row.seeds, row.problems) == (2, 12) for row in rows)
    assert rows[0].accuracy == (results[0].accuracy + results[1].accuracy) / 2
    assert rows[0].seconds == results[0].seconds + results[1].seconds
    assert table(rows).row_count == 4


def row(policy, nfe, accuracy, block_length=40):
    learned = policy.startswith("runs/")
    low, high = max(accuracy - 0.03, 0), min(accuracy + 0.03, 1)
    return Row(policy, learned, block_length, 1, 100, accuracy, low, high, nfe, 1.0, 1.0)


ROWS = [
    row("runs/x", 7, 0.9),
    row("threshold:0.5", 6, 0.1),
    row("leftmost:8", 5, 0.2),
    row("leftmost:1", 40, 1.0),
    row("threshold:0.5", 6, 0.8, 8),
]


def test_best_heuristic_is_at_most_as_slow_and_at_the_same_block_length():
    best = best_heuristic(ROWS, ROWS[0])
    assert best is not None
    assert (best.policy, best.accuracy) == ("leftmost:8", 0.2)
    assert best_heuristic(ROWS, row("runs/y", 2, 0.5)) is None


def test_picture_has_a_panel_for_each_block_length(tmp_path):
    from PIL import Image

    sizes = {}
    for name, rows in {"two": ROWS, "one": ROWS[:-1], "heuristics only": ROWS[1:3], "single": ROWS[:1]}.items():
        draw_front(rows, tmp_path / f"{name}.png", "title")
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is drawn
    assert sizes["two"][0] > 1.5 * sizes["one"][0]
    assert sizes["one"] == sizes["heuristics only"] == sizes["single"]

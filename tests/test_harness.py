"""lm-evaluation-harness: the same responses as ``dllm-env eval``, from the same prompts, and its command line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import fields
from functools import partial

import harness_task
import pytest
import torch
from make_checkpoint import make_bert, make_dream, make_llada
from orders import by_orders

from dllm_env.denoisers.huggingface import Options
from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.eval.harness_arguments import BATCH, DENOISER_OPTIONS, HarnessConfig, split_arguments, with_defaults
from dllm_env.eval.harness_prompts import Prompts
from dllm_env.eval.likelihood import log_likelihoods
from dllm_env.policies.rollout import rollout
from dllm_env.tasks.load import load_task

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and what it imports

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import CacheHook  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from dllm_env.eval import harness_player  # noqa: E402
from dllm_env.eval.harness import HarnessModel, main  # noqa: E402

N = 24
TASK = load_task("trace")
PROMPTS = [TASK.problem(i, "test", 0).prompt for i in range(N)]


# -------------------------------------------------------------------------------------------- arguments


def test_arguments_come_as_texts_and_as_numbers():
    texts = HarnessConfig.parse(
        {"denoiser": "tiny", "block_length": "8", "temperature": "0.5", "stop_at_eot": "True"}
    )
    numbers = HarnessConfig.parse({"denoiser": "tiny", "block_length": 8.0, "temperature": 0.5, "stop_at_eot": 1})
    assert texts == numbers == HarnessConfig(denoiser="tiny", block_length=8, temperature=0.5, stop_at_eot=True)
    assert HarnessConfig.parse({"pretrained": "tiny", "device": None}) == HarnessConfig(denoiser="tiny")


@pytest.mark.parametrize(
    ("given", "size"),
    [("auto", BATCH), ("auto:4", BATCH), ("16", 16), (None, BATCH)],
)
def test_batch_sizes_of_the_harness(given, size):
    assert HarnessConfig.parse({"denoiser": "tiny", "batch_size": given, "device": "auto"}).batch_size == size


def test_the_largest_automatic_batch():
    given = {"denoiser": "tiny", "batch_size": "auto", "max_batch_size": 9}
    assert HarnessConfig.parse(given).batch_size == 9


def test_settings_of_a_checkpoint_are_arguments():
    assert set(DENOISER_OPTIONS) | {"device"} == {field.name for field in fields(Options)}
    for text in ("denoiser=a/b,dtype=bfloat16,shift=1", "denoiser=a/b:dtype=bfloat16,shift=1"):
        assert HarnessConfig.parse(split_arguments(text)).denoiser == "a/b:dtype=bfloat16,shift=1"
    quoted = split_arguments('denoiser="a/b:dtype=bfloat16,shift=1",policy=rules.py:R(a=1,b=2)')
    assert HarnessConfig.parse(quoted) == HarnessConfig(
        denoiser="a/b:dtype=bfloat16,shift=1", policy="rules.py:R(a=1,b=2)"
    )
    assert HarnessConfig.parse({"denoiser": "a/b", "trust_remote_code": True}).denoiser == "a/b:trust_remote_code=1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no denoiser"),
        ({"denoiser": "tiny", "pretrained": "tiny"}, "mean the same"),
        ({"denoiser": "tiny", "kappa": 0.01}, "unknown model argument 'kappa'"),
        ({"denoiser": "tiny", "block_length": "eight"}, "block_length has to be a whole number, got 'eight'"),
        ({"denoiser": "tiny", "gen_length": 1.5}, "gen_length has to be a whole number"),
        ({"denoiser": "tiny", "seed": True}, "seed has to be a whole number"),
        ({"denoiser": "tiny", "temperature": "hot"}, "temperature has to be a number"),
        ({"denoiser": "tiny", "stop_at_eot": "maybe"}, "stop_at_eot has to be true or false"),
        ({"denoiser": "tiny", "batch_size": 0}, "batch_size has to be at least 1"),
        ({"denoiser": "tiny", "mc_samples": 0}, "mc_samples has to be at least 1"),
        ({"denoiser": "nowhere"}, "unknown denoiser"),
        ({"denoiser": "tiny", "dtype": "float32"}, "tiny' has no setting 'dtype'"),
        ({"denoiser": "tiny", "policy": "thresold:0.9"}, "thresold"),
        ({"denoiser": "tiny", "policy": "wino"}, "allow_remask=true"),
        ({"denoiser": "tiny", "gen_length": 40, "block_length": 16}, "does not divide"),
        ({"denoiser": "tiny", "gen_length": 400}, "exceed the context"),
        ({"denoiser": "tiny", "temperature": -1}, "temperature must be"),
        ({"denoiser": "tiny", "noise": "float16"}, "unknown noise"),
        ({"denoiser": "tiny", "prefix_cache": True}, "no prefix cache"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_run(arguments, message):
    with pytest.raises(UsageError, match=message):
        HarnessModel(**arguments)


def test_the_harness_makes_the_model_from_its_flags():
    kind = get_model("dllm-env")
    assert kind is HarnessModel
    flags = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0" if not torch.cuda.is_available() else None}
    model = kind.create_from_arg_string("denoiser=tiny,policy=klass:tau=0.6,batch_size=7", flags)
    assert (model.config.batch_size, model.policy.name, str(model.device)) == (7, "klass:0.6", "cpu")
    quoted = 'denoiser=tiny,policy="klass:tau=0.6,kappa=0.01"'
    assert kind.create_from_arg_string(quoted).policy.kappa == 0.01
    assert kind.create_from_arg_obj({"denoiser": "tiny"}, flags).config.batch_size == 1
    with pytest.raises(UsageError, match="name=value"):
        kind.create_from_arg_string("tiny")


def test_defaults_of_the_command_line(tmp_path):
    ours = ["--model", "dllm-env", "--batch_size", "auto", "--device", "auto"]
    for words in ([], ["ls", "tasks"], ["validate", "--tasks", "x"], ["run"], ["--help"], ["run", "-h"]):
        assert with_defaults(words) == words
    assert with_defaults(["--tasks", "x"]) == ["--tasks", "x", *ours]
    assert with_defaults(["run", "-t", "x", "-b", "4"]) == ["run", "-t", "x", "-b", "4", *ours[:2], *ours[4:]]
    for words in (["--model", "hf"], ["-M", "hf"], ["--model=hf"]):
        assert with_defaults(words) == words
    file = tmp_path / "run.yaml"
    file.write_text("model: hf\ntasks: [x]\n")
    assert with_defaults(["-C", str(file)]) == ["-C", str(file)]
    file.write_text("device: cpu\nbatch_size: 3\n")
    assert with_defaults(["--config", str(file)]) == ["--config", str(file), *ours[:2]]
    with pytest.raises(UsageError, match="cannot read nowhere"):
        with_defaults(["--config", "nowhere"])


def test_without_the_harness(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "dllm_env.eval.harness")
    with pytest.raises(UsageError, match=r"pip install 'dllm-env\[eval\]'"):
        __import__("dllm_env.eval.harness")


# ---------------------------------------------------------------------------------------------- prompts


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    makers = {"llada": make_llada, "dream": make_dream, "bert": make_bert}
    return {name: load_denoiser(make(root / name)) for name, make in makers.items()}


def test_a_prompt_stands_as_it_is_or_in_its_template_once(checkpoints):
    llada = checkpoints["llada"]
    prompts = Prompts(llada)
    assert prompts.context("a 6 b +2") == llada.tokenizer("a 6 b +2")["input_ids"]
    text = prompts.render([{"role": "user", "content": "a 6 b +2"}])
    assert prompts.context(text) == llada.encode("a 6 b +2")
    open_end = prompts.render(
        [{"role": "user", "content": "a 6"}, {"role": "assistant", "content": "now"}], ask=False
    )
    assert open_end.endswith("now")
    bert = checkpoints["bert"]
    assert Prompts(bert).context("a 6") == bert.encode("a 6")  # with what the tokenizer puts around it
    assert Prompts(bert).context("[MASK] 6")[1:-1] == Prompts(bert).plain("[MASK] 6")
    assert Prompts(checkpoints["dream"]).context("") == [checkpoints["dream"].eot_id]
    assert Prompts(llada).context("") == []


class AddsBeginning:
    """A tokenizer that puts <|startoftext|> before every text, as many do."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        ids = self.tokenizer(text)["input_ids"]
        return {"input_ids": [self.bos_token_id] * add_special_tokens + ids}


def test_the_beginning_is_not_doubled(checkpoints, monkeypatch):
    llada = checkpoints["llada"]
    monkeypatch.setattr(llada, "tokenizer", AddsBeginning(llada.tokenizer))
    prompts, bos = Prompts(llada), llada.tokenizer.bos_token_id
    assert prompts.context("a 6") == [bos, *prompts.plain("a 6")]
    text = prompts.render([{"role": "user", "content": "a 6"}])
    assert prompts.context(text).count(bos) == 1
    context, continuation = prompts.pair("a 6", " b 7")
    assert bos not in continuation
    assert context + continuation == [bos, *prompts.plain("a 6 b 7")]


def test_a_continuation_begins_where_the_context_ends(checkpoints, toy):
    prompts = Prompts(checkpoints["llada"])
    context, continuation = prompts.pair("a 6 b +2 ", "c -2")
    assert (context, context + continuation) == (prompts.plain("a 6 b +2"), prompts.plain("a 6 b +2 c -2"))
    assert prompts.pair("a 6 b +2", " c -2") == (context, continuation)
    assert prompts.pair("", "a 6") == ([], prompts.plain("a 6"))
    assert Prompts(toy).pair("a 6 ", "b") == (toy.encode("a 6"), toy.encode("b"))
    context, continuation = Prompts(checkpoints["bert"]).pair("a 6", " b")
    assert (len(context), len(continuation)) == (4, 1)  # the context stands between the tokenizer's own tokens


def test_windows_of_a_long_text(toy):
    ids = [3 + i % 20 for i in range(300)]
    windows = list(Prompts(toy).windows(toy.decode(ids)))
    assert [token for _, part in windows for token in part] == ids
    assert [(len(context), len(part)) for context, part in windows] == [(0, 128), (64, 64), (64, 64), (64, 44)]
    assert windows[1][0] == ids[64:128]


def test_chat_templates(checkpoints, toy):
    model = HarnessModel(denoiser=checkpoints["llada"])
    assert model.chat_template(False) is None
    assert model.chat_template(True) == checkpoints["llada"].tokenizer.chat_template
    assert model.tokenizer_name != HarnessModel(denoiser=checkpoints["dream"]).tokenizer_name
    assert "/" not in model.tokenizer_name
    with pytest.raises(UsageError, match="no chat template 'tool', but one without a name"):
        model.chat_template("tool")
    for ask in (HarnessModel(denoiser=toy).chat_template, HarnessModel(denoiser=toy).apply_chat_template):
        with pytest.raises(UsageError, match="no chat template; leave --apply_chat_template away"):
            ask([{"role": "user", "content": "a"}])
    with pytest.raises(UsageError, match="leave chat=1 away"):
        HarnessModel(denoiser=checkpoints["llada"].name, chat=1)


def test_templates_by_name(checkpoints, monkeypatch):
    model = HarnessModel(denoiser=checkpoints["llada"])
    templates = {"default": "{{ messages[0]['content'] }}!", "tool": "{{ messages[0]['content'] }}?"}
    monkeypatch.setattr(checkpoints["llada"].tokenizer, "chat_template", templates)
    said = [{"role": "user", "content": "a"}]
    assert model.apply_chat_template(said) == "a!"
    model.chat_template("tool")
    assert model.apply_chat_template(said) == "a?"
    with pytest.raises(UsageError, match="no chat template 'x', but default, tool"):
        model.chat_template("x")


# -------------------------------------------------------------------------------------------- responses


def request(context, doc=None, repeats=1, task="some", **arguments):
    return Instance("generate_until", {}, (context, {"until": [], **arguments}), 0, (task, doc, repeats))


def model_of(denoiser="tiny", **arguments):
    return HarnessModel(**{"denoiser": denoiser, "gen_length": 40, "block_length": 8} | arguments)


@pytest.mark.parametrize(("policy", "temperature", "samples"), [("threshold:0.9", 0.0, 1), ("random:2", 0.7, 2)])
def test_responses_are_those_of_the_evaluation(policy, temperature, samples):
    config = EvaluationConfig(problems=8, samples=samples, temperature=temperature, block_length=(8,))
    outcomes = evaluate(config, [policy])[0].outcomes
    expected = {(outcome.index, outcome.sample): outcome.response for outcome in outcomes}
    requests = [request(PROMPTS[i], i, samples) for i in range(8) for _ in range(samples)]
    found = model_of(policy=policy, temperature=temperature).generate_until(requests)
    assert found == [expected[i, sample] for i in range(8) for sample in range(samples)]
    assert (
        model_of(policy=policy, temperature=temperature, seed=1).generate_until(requests) != found
        or not temperature
    )


def test_one_rollout_for_each_length_and_temperature(monkeypatch):
    calls = []

    def spy(*arguments, **more):
        calls.append(len(arguments[3]))
        return rollout(*arguments, **more)

    monkeypatch.setattr(harness_player, "rollout", spy)
    whole, part = {"max_gen_toks": 40}, {"max_gen_toks": 13}
    kinds = [
        whole,
        {**whole, "do_sample": True, "temperature": 0.5},
        part,
        {**whole, "do_sample": False, "temperature": 9},
    ]
    requests = [request(PROMPTS[i], i, **kinds[i % 4]) for i in range(8)]
    texts = model_of(gen_length=0).generate_until(requests)
    assert sorted(calls) == [2, 2, 4]
    alone = [model_of(gen_length=0).generate_until([one])[0] for one in requests]
    assert texts == alone
    assert all(len(texts[i].split()) <= 13 for i in (2, 6))
    explicit = model_of(gen_length=0, temperature=0.0).generate_until(requests[:2])
    assert explicit[0] == texts[0]


def test_a_response_ends_at_the_first_stop_string():
    (whole,) = model_of().generate_until([request(PROMPTS[0], 0)])
    words = whole.split()
    late, early = words[6], words[3]
    (text,) = model_of().generate_until([request(PROMPTS[0], 0, until=[late, early, "", None])])
    assert text == whole[: min(whole.index(late), whole.index(early))]
    (text,) = model_of().generate_until([request(PROMPTS[0], 0, until=" ")])
    assert text == words[0]
    (text,) = model_of().generate_until([request(PROMPTS[0], 0, max_gen_toks=3, top_p=0.9)])
    assert text.split() == words[:3]


def test_a_response_that_was_cut_off_is_empty_and_counted():
    model = model_of(policy="leftmost:1", max_steps=39)
    assert model.generate_until([request(PROMPTS[0], 0)]) == [""]
    assert model.get_model_info()["played"] == {"some": {"responses": 1, "cut_off": 1, "mean_nfe": 39.0}}


def test_a_long_prompt_loses_its_beginning(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("lm_eval"), "propagate", True)
    texts = model_of().generate_until([request(" ".join([PROMPTS[1], *["a 1"] * 44]), 0), request(PROMPTS[0], 0)])
    assert "1 of 2 prompts do not fit" in caplog.text
    kept = model_of().generate_until([request(" ".join(["a 1"] * 44), 0)])
    assert texts[0] == kept[0]
    with pytest.raises(UsageError, match="256 tokens exceed the context"):
        model_of(gen_length=0).generate_until([request(PROMPTS[0], 0)])


class Written:
    """What would be a cache."""

    dbdict = None

    def __init__(self):
        self.found = []

    def add_partial(self, kind, arguments, result):
        self.found.append((kind, arguments, result))


def test_all_results_are_offered_to_the_cache():
    model = model_of()
    model.set_cache_hook(Written())
    asked = [request(PROMPTS[0], 0)]
    texts = model.generate_until(asked)
    pairs = [
        Instance("loglikelihood", {}, (PROMPTS[0], f" {word}"), i, ("some", 0, 1)) for i, word in enumerate("bc")
    ]
    scores = model.loglikelihood(pairs)
    whole = [Instance("loglikelihood_rolling", {}, (PROMPTS[0],), 0, ("some", 0, 1))]
    totals = model.loglikelihood_rolling(whole)
    assert model.cache_hook.found == [
        ("generate_until", asked[0].args, texts[0]),
        ("loglikelihood", pairs[0].args, scores[0]),
        ("loglikelihood", pairs[1].args, scores[1]),
        ("loglikelihood_rolling", whole[0].args, totals[0]),
    ]


# ---------------------------------------------------------------------------------- likelihood requests


def score(model, *pairs):
    return model.loglikelihood([Instance("loglikelihood", {}, pair, 0, ("some", 0, 1)) for pair in pairs])


def test_likelihoods_of_texts(toy):
    pairs = [(PROMPTS[0], " b 3"), (PROMPTS[1] + " ", "b"), ("", "a 1"), (PROMPTS[0], "")]
    scored = score(model_of(toy), *pairs)
    expected = [by_orders(toy, toy.encode(a), toy.encode(b)) for a, b in pairs[:3]]
    assert [value for value, _ in scored] == pytest.approx([*expected, 0.0], rel=1e-5)
    assert scored[3][1]
    long = " ".join(["a 1"] * 80)
    assert score(model_of(toy), (long, " b"))[0][0] == score(model_of(toy), (long[-127 * 2 + 1 :], " b"))[0][0]
    with pytest.raises(UsageError, match="160 tokens exceed"):
        score(model_of(toy), ("", long))


def test_continuations_of_one_context_share_their_masks(toy, monkeypatch):
    seen = []

    def spy(denoiser, pairs, seeds, *more):
        seen.extend(seeds)
        return log_likelihoods(denoiser, pairs, seeds, *more)

    monkeypatch.setattr(harness_player, "log_likelihoods", spy)
    pairs = [(PROMPTS[0], " b 3"), (PROMPTS[0], " b 4"), (PROMPTS[0], " b"), (PROMPTS[1], " b 3")]
    score(model_of(toy), *pairs)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    score(model_of(toy, seed=1), *pairs)
    assert len(set(seen)) == 6


def test_greedy_means_that_the_policy_writes_it(toy):
    model = model_of(toy, policy="leftmost:1")
    (text,) = model_of(toy, policy="leftmost:1", gen_length=3, block_length=0).generate_until(
        [request(PROMPTS[0], 0)]
    )
    assert len(text.split()) == 3
    other = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert [written for _, written in score(model, (PROMPTS[0], " " + text), (PROMPTS[0], " " + other))] == [
        True,
        False,
    ]
    careless = model_of(toy, policy="leftmost:1", check_greedy=False)
    assert score(careless, (PROMPTS[0], " " + text)) == [(score(model, (PROMPTS[0], " " + text))[0][0], False)]


def test_a_text_is_scored_in_windows(toy):
    text = " ".join(["a 1 b +2 c -2"] * 22)
    model = model_of(toy, mc_samples=8)
    (total,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    windows = list(Prompts(toy).windows(text))
    assert len(windows) == 2
    assert total == pytest.approx(sum(value for _, value in model._estimates(windows, True)))


@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_checkpoints(checkpoints, family):
    """Padding differs between the requests; a likelihood has none, so that only the order of sums is left."""
    denoiser = checkpoints[family]
    model = model_of(denoiser, gen_length=8, policy="threshold:0.3", mc_samples=16)
    requests = [request(prompt[: 10 + 9 * i], i) for i, prompt in enumerate(PROMPTS[:3])]
    assert model.generate_until(requests) == [model.generate_until([one])[0] for one in requests]
    pairs = [(PROMPTS[0], " b"), (PROMPTS[1][:9], " b 3 c 4 d"), ("", "a 6")]
    together = [value for value, _ in score(model, *pairs)]
    alone = [score(model, pair)[0][0] for pair in pairs]
    assert together == pytest.approx(alone, rel=1e-6)
    context, continuation = model.prompts.pair(PROMPTS[0], " b")
    assert together[0] == pytest.approx(by_orders(denoiser, context, continuation), rel=1e-5)


def test_a_model_that_cannot_pad(checkpoints, monkeypatch):
    denoiser = checkpoints["llada"]
    model = model_of(denoiser, gen_length=8)
    requests = [request(PROMPTS[i % 2][: 10 + i % 2], i) for i in range(4)]
    expected = model.generate_until(requests)
    monkeypatch.setattr(denoiser, "pads", False)
    assert model.generate_until(requests) == expected


# ----------------------------------------------------------------------------------- the harness itself

CHOOSE = """
task: my_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/my_trace.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: prompt
doc_to_choice: ["b 1", "b 2", "h 3 i"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with tasks of the harness."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, repeats in (("my_trace", 1), ("my_trace_twice", 2)):
        assert harness_task.write(harness_task.Arguments("trace", folder, N, repeats=repeats, name=name)) == name
    (folder / "choice.yaml").write_text(CHOOSE.format(folder=folder))
    return folder


@pytest.fixture
def quick(monkeypatch, tasks):
    """The harness without what takes long: its thousands of tasks, and what it finds out about this machine."""
    import lm_eval.evaluator
    import lm_eval.tasks

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tasks


def samples_in(out, task="my_trace"):
    """What --log_samples wrote, by document, and the results."""
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    found = {line["doc_id"]: line for line in map(json.loads, file.read_text().splitlines())}
    (results,) = out.rglob("results_*.json")
    return found, json.loads(results.read_text())


def same(samples, outcomes):
    """Whether each problem has the text and the score of ``dllm-env eval``."""
    assert [samples[outcome.index]["resps"][0][0] for outcome in outcomes] == [o.response for o in outcomes]
    assert [samples[outcome.index]["acc"] for outcome in outcomes] == [o.correct for o in outcomes]
    assert 0 < sum(o.correct for o in outcomes) < len(outcomes)


def test_the_command_line_agrees_with_the_evaluation(tasks, tmp_path):
    """As a process of its own, with everything that the harness does."""
    program = "import sys; from dllm_env.eval.harness import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--tasks", "my_trace", "--include_path", str(tasks)]
    command += ["--model_args", "denoiser=tiny,policy=threshold:0.9,block_length=8", "--log_samples"]
    done = subprocess.run([*command, "--output_path", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "my_trace" in done.stdout
    (result,) = evaluate(EvaluationConfig(problems=N, block_length=(8,)), ["threshold:0.9"])
    samples, results = samples_in(tmp_path)
    same(samples, result.outcomes)
    played = results["config"]["played"]["my_trace"]
    assert played["mean_nfe"] == pytest.approx(sum(o.nfe for o in result.outcomes) / N)


def test_random_numbers_agree_with_the_evaluation(quick, tmp_path):
    arguments = ["--tasks", "my_trace_twice", "--include_path", str(quick), "--log_samples"]
    arguments += ["--model_args", json.dumps({"pretrained": "tiny", "policy": "random:1", "block_length": 8})]
    arguments += ["--gen_kwargs", "do_sample=true,temperature=0.7", "--batch_size", "5"]
    assert main([*arguments, "--output_path", str(tmp_path)]) == 0
    config = EvaluationConfig(problems=N, samples=2, block_length=(8,), temperature=0.7)
    (result,) = evaluate(config, ["random:1"])
    samples, _ = samples_in(tmp_path / "tiny", "my_trace_twice")
    same(samples, [outcome for outcome in result.outcomes if outcome.sample == 0])
    again = [outcome.response for outcome in result.outcomes if outcome.sample == 1]
    assert [samples[i]["resps"][0][1] for i in range(N)] == again


def test_a_choice_is_the_likeliest(quick, tmp_path):
    arguments = ["--tasks", "my_choice", "--include_path", str(quick), "--log_samples", "--limit", "4"]
    cache = ["--use_cache", str(tmp_path / "cache")]
    for out in ("first", "again"):
        assert (
            main([*arguments, *cache, "--model_args", "denoiser=tiny", "--output_path", str(tmp_path / out)]) == 0
        )
    samples, _ = samples_in(tmp_path / "first", "my_choice")
    assert samples == samples_in(tmp_path / "again", "my_choice")[0]
    denoiser = load_denoiser("tiny")
    for i, prompt in enumerate(PROMPTS[:4]):
        words = ["b 1", "b 2", "h 3 i"]
        expected = [by_orders(denoiser, denoiser.encode(prompt), denoiser.encode(word)) for word in words]
        found = [float(response[0][0]) for response in samples[i]["resps"]]
        assert found == pytest.approx(expected, rel=1e-5)
        assert samples[i]["acc"] == float(expected[0] == max(expected))


def run_with_cache(folder, cache, out, *more, arguments, tasks="my_trace_twice", limit=3):
    words = ["--tasks", tasks, "--include_path", str(folder), "--log_samples", "--limit", str(limit)]
    words += ["--model_args", json.dumps({"denoiser": "tiny", "block_length": 8} | arguments)]
    assert main([*words, "--use_cache", str(cache), "--output_path", str(out), *more]) == 0
    samples, _ = samples_in(out, tasks)
    return [samples[i]["resps"][0] for i in sorted(samples)]


RANDOM_MODELS = {
    "the temperature": {"temperature": 0.7, "policy": "leftmost:4"},
    "the policy": {"policy": "random:4"},
}


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_a_second_run_with_a_cache_is_the_first(quick, tmp_path, name):
    arguments = RANDOM_MODELS[name]
    first = run_with_cache(quick, tmp_path / "cache", tmp_path / "1", arguments=arguments)
    assert any(one != two for one, two in first), "nothing is random here"
    assert run_with_cache(quick, tmp_path / "cache", tmp_path / "2", arguments=arguments) == first
    longer = run_with_cache(quick, tmp_path / "cache", tmp_path / "3", arguments=arguments, limit=4)
    assert longer[:3] == first
    assert longer == run_with_cache(quick, tmp_path / "new", tmp_path / "4", arguments=arguments, limit=4)


def test_a_temperature_of_the_request_is_random_too(quick, tmp_path):
    flags = ["--gen_kwargs", "temperature=0.7"]
    first = run_with_cache(quick, tmp_path / "cache", tmp_path / "1", *flags, arguments={"policy": "leftmost:4"})
    assert any(one != two for one, two in first)
    again = run_with_cache(quick, tmp_path / "cache", tmp_path / "2", *flags, arguments={"policy": "leftmost:4"})
    assert again == first


def test_what_is_not_random_comes_from_the_cache(quick, tmp_path, monkeypatch):
    arguments = {"policy": "threshold:0.9"}
    first = run_with_cache(quick, tmp_path / "cache", tmp_path / "1", arguments=arguments)
    monkeypatch.setattr(harness_player, "rollout", None)
    assert run_with_cache(quick, tmp_path / "cache", tmp_path / "2", arguments=arguments) == first


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"policy": "threshold:0.8"}, "policy"),
        ({"temperature": 0.5}, "temperature"),
        ({"seed": 1}, "seed"),
        ({"denoiser": "tiny-b"}, "denoiser"),
        ({"block_length": 4}, "block_length"),
        ({"stop_at_eot": True}, "stop_at_eot"),
        ({"mc_samples": 4}, "mc_samples"),
    ],
)
def test_a_cache_belongs_to_one_model(change, what):
    plain = {"denoiser": "tiny", "block_length": 8, "policy": "threshold:0.9", "temperature": 0.0}
    hook = CacheHook(None)
    hook.dbdict = {}
    HarnessModel(**plain).set_cache_hook(hook)
    HarnessModel(**plain, batch_size=3).set_cache_hook(hook)  # changes the speed only
    with pytest.raises(UsageError, match=f"results of another {what} .*--use_cache"):
        HarnessModel(**plain | change).set_cache_hook(hook)
    hook.dbdict = {"0" * 64: "a text"}
    with pytest.raises(UsageError, match="results of another model, or of an older version"):
        HarnessModel(**plain).set_cache_hook(hook)


def test_the_cache_of_requests_is_not_for_changed_requests(tmp_path):
    flags = ["--gen_kwargs temperature=1", "--seed 3", '--samples {"x":[1]}', "--metadata a=1 b=2"]
    for flag in map(str.split, flags):
        for kind in (["--cache_requests"], ["--cache_requests", "true"], ["--cache_requests", "refresh"]):
            with pytest.raises(UsageError, match=f"{flag[0]}; leave --cache_requests"):
                with_defaults(["--tasks", "x", *flag, *kind])
        assert with_defaults(["--tasks", "x", *flag, "--cache_requests", "delete"])
        assert with_defaults(["--tasks", "x", *flag])
        assert with_defaults(["--tasks", "x", *flag, "--model", "hf", "--cache_requests"])
    assert with_defaults(["--tasks", "x", "--cache_requests", "true"])
    file = tmp_path / "run.yaml"
    file.write_text("cache_requests: true\ngen_kwargs: {temperature: 1}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="cache of requests"):
        with_defaults(["--config", str(file)])


def test_a_checkpoint_with_its_chat_template(quick, checkpoints, tmp_path):
    """With the flag, and only with it, prompts are what ``dllm-env eval`` makes of them."""
    name = checkpoints["llada"].name
    arguments = ["--tasks", "my_trace,my_choice", "--include_path", str(quick), "--log_samples", "--limit", "4"]
    arguments += ["--model_args", f"denoiser={name},block_length=8,policy=threshold:0.3,mc_samples=8"]
    for flags in (["--apply_chat_template"], []):
        out = tmp_path / str(len(flags))
        assert main([*arguments, *flags, "--output_path", str(out)]) == 0
        denoiser = name if flags else f"{name}:chat=0"
        config = EvaluationConfig(denoiser=denoiser, problems=4, block_length=(8,))
        (result,) = evaluate(config, ["threshold:0.3"])
        samples, results = samples_in(out)
        assert [samples[i]["resps"][0][0] for i in range(4)] == [o.response for o in result.outcomes]
        assert len(samples_in(out, "my_choice")[0]) == 4
        assert bool(results["chat_template"]) == bool(flags)


def test_other_words_of_the_command_line(quick, capsys):
    assert main(["--help"]) == 0
    assert "lm-eval run" in capsys.readouterr().out
    assert main(["run", "--help"]) == 0
    assert "--model_args" in capsys.readouterr().out
    assert main(["ls", "tasks", "--include_path", str(quick)]) == 0
    assert "my_trace" in capsys.readouterr().out
    assert main(["run", "--no_such_flag", "1"]) == 2
    before = list(sys.argv)
    with pytest.raises(UsageError, match="no chat template"):
        main(
            ["--tasks", "my_trace", "--include_path", str(quick), "--model_args", "denoiser=tiny"]
            + ["--apply_chat_template"]
        )
    assert sys.argv == before

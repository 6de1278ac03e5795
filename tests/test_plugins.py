"""Policies inside other samplers and engines: each engine's loop writes what a rollout writes."""

from __future__ import annotations

import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import drivers
import pytest
import torch
from spies import Never, Spy, learned, logits
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.heads import Bernoulli, DynamicPlackettLuce
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import SIGHT
from dllm_env.policies.plugins import DreamHooks, PolicyDecoder, TransferIndex, transfer_index
from dllm_env.policies.rollout import Rollout, rollout
from dllm_env.policies.serving import (
    PolicyAlgorithm,
    PolicyRemasking,
    StepResult,
    register_sglang,
    sglang_algorithm,
)
from dllm_env.policies.vllm_sampler import BatchedRemask
from dllm_env.rules import Rules
from dllm_env.tasks.trace import Trace

DENOISER = load_denoiser("tiny")
MASK, VOCABULARY, LENGTH, BLOCK, PROMPT = DENOISER.mask_id, DENOISER.vocabulary, 32, 8, 24
ROWS = 3

POLICIES: dict[str, Policy] = {
    **{text: load_policy(text) for text in ("threshold:0.9", "klass", "leftmost:2")},
    "learned": learned(),
    "reads tokens": learned(sight=tuple(name for name in SIGHT if name != "rewrite")),
}


@pytest.fixture(autouse=True)
def no_engine_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sglang", "dllm_plugin"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


def prompts(count: int = ROWS) -> list[list[int]]:
    found = [DENOISER.encode(Trace().problem(i).prompt) for i in range(count)]
    return [[DENOISER.pad_id] * (PROMPT - len(prompt)) + prompt for prompt in found]


def played(policy: Policy, block: int = BLOCK, count: int = ROWS, **rules: Any) -> Rollout:
    """What the engines are compared with."""
    settings = Rules(LENGTH, block, **rules)
    return rollout(DENOISER, policy, settings, prompts(count), list(range(count)), prompt_length=PROMPT)


def calls_together(result: Rollout) -> int:
    """Model calls for rows that go through the blocks together: the slowest row's in each block."""
    last = result.revealed_at.view(len(result.nfe), -1, BLOCK).amax(-1) + 1
    steps = torch.cat([last[:, :1], last[:, 1:] - last[:, :-1]], 1)
    return int(steps.amax(0).sum())


# --------------------------------------------------------------------- every engine writes what a rollout writes

Run = Callable[[drivers.Model, Tensor], tuple[Tensor, list[int] | None]]
"""Prompts (B, P) to tokens (B, P+L) and, where the engine tells them apart, each row's model calls."""


def decoder_of(policy: Policy) -> BlockDecoder:
    return BlockDecoder(policy, MASK, LENGTH, end_ids=DENOISER.end_ids)


def fast_dllm(policy: Policy, cache: str) -> Run:
    decoder = transfer_index(policy, MASK, LENGTH, BLOCK, end_ids=DENOISER.end_ids)

    def run(model: drivers.Model, given: Tensor) -> tuple[Tensor, None]:
        tokens, nfe = drivers.fast_dllm(model, given, decoder, BLOCK, MASK, cache=cache)
        assert nfe == model.calls
        return tokens, None

    return run


def dream(policy: Policy, as_dictionary: bool) -> Run:
    hooks = DreamHooks(decoder_of(policy), BLOCK)
    return lambda model, given: (hooks.generate(drivers.DreamModel(model, MASK, as_dictionary), given), None)


def dinfer(policy: Policy, plain: bool) -> Run:
    decoder = PolicyDecoder(decoder_of(policy), DENOISER.eot_id)
    return lambda model, given: (drivers.dinfer(model, given, decoder, BLOCK, plain=plain), None)


def settings(fdfo: bool = False, **algorithm: Any) -> SimpleNamespace:
    """SGLang's ``DllmConfig``."""
    algorithm = {"response_length": LENGTH, "block_size": BLOCK, **algorithm}
    return SimpleNamespace(
        block_size=BLOCK,
        mask_id=MASK,
        algorithm_config=algorithm,
        first_done_first_out_mode=fdfo,
        max_running_requests=2,
    )


class Algorithm(PolicyAlgorithm, drivers.DllmAlgorithm):
    """As ``sglang_algorithm`` makes it, on the test's base."""


def sglang(policy: Policy, fdfo: bool) -> Run:
    algorithm = Algorithm(settings(fdfo, end_ids=list(DENOISER.end_ids)), policy)
    generations = iter(range(10))

    def run(model: drivers.Model, given: Tensor) -> tuple[Tensor, list[int] | None]:
        names = [f"{next(generations)}-{i}" for i in range(len(given))]
        tokens, calls = drivers.sglang(model, given, algorithm, names, apart=3, wrapped=fdfo)
        blocks = LENGTH // BLOCK  # each needs one more call, which stores the finished block in the cache
        return tokens, [c - blocks for c in calls] if fdfo or len(given) == 1 else None

    return run


def vllm(policy: Policy, rows: bool) -> Run:
    remasking = PolicyRemasking(decoder_of(policy))

    def run(model: drivers.Model, given: Tensor) -> tuple[Tensor, list[int]]:
        remasking.reset()
        return drivers.vllm(model, given, remasking.run_block, BLOCK, MASK, apart=2, rows=rows)

    return run


def plugin_with(sampler: type, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An installed plugin with this sampler."""
    for name in ("dllm_plugin", "dllm_plugin.sampling"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module: Any = ModuleType("diffusion_sampler")
    module.DiffusionSampler = sampler
    monkeypatch.setitem(sys.modules, "dllm_plugin.sampling.diffusion_sampler", module)
    return module


def batched_vllm(policy: Policy, named: bool) -> Run:
    remask = BatchedRemask(decoder_of(policy))

    class Sampler(drivers.DiffusionSampler):
        pass

    if named:
        with pytest.MonkeyPatch.context() as patch:
            plugin_with(Sampler, patch)
            remask.install()

    def run(model: drivers.Model, given: Tensor) -> tuple[Tensor, list[int]]:
        remask.decoder.reset()
        sampler = Sampler(MASK, BLOCK)
        if not named:
            sampler._remask_fn = remask
        tokens, calls = drivers.batched_vllm(model, given, sampler, apart=2, shuffle=True)
        return tokens, [c - LENGTH // BLOCK for c in calls]  # one more call a block stores it in the cache

    return run


ENGINES: dict[str, Callable[[Policy], Run]] = {
    **{f"fast-dllm, {c} cache": lambda policy, c=c: fast_dllm(policy, c) for c in ("none", "prefix", "dual")},
    "dream": lambda policy: dream(policy, False),
    "dream, dictionary": lambda policy: dream(policy, True),
    "dinfer": lambda policy: dinfer(policy, False),
    "dinfer, tensor": lambda policy: dinfer(policy, True),
    "sglang": lambda policy: sglang(policy, False),
    "sglang, first done first out": lambda policy: sglang(policy, True),
    "vllm": lambda policy: vllm(policy, True),
    "vllm, tensor": lambda policy: vllm(policy, False),
    "vllm, sampler": lambda policy: batched_vllm(policy, True),
}
VARIANTS = ("dream, dictionary", "dinfer, tensor", "vllm, tensor")
CASES = [(e, p) for e in ENGINES for p in POLICIES if e not in VARIANTS or p == "learned"]
TOGETHER = [name for name in ENGINES if name.startswith(("fast-dllm", "dinfer"))]


@pytest.fixture(scope="module")
def expected() -> dict[str, Rollout]:
    return {name: played(policy) for name, policy in POLICIES.items()}


@pytest.mark.parametrize(("engine", "name"), CASES)
def test_an_engine_writes_what_a_rollout_writes(engine: str, name: str, expected: dict[str, Rollout]) -> None:
    run, result = ENGINES[engine](POLICIES[name]), expected[name]
    given = torch.tensor(prompts())
    assert result.finished.all()
    for _ in range(2):  # two generations by the same object
        model = drivers.Model(DENOISER, LENGTH)
        tokens, calls = run(model, given)
        assert torch.equal(tokens[:, :PROMPT], given)
        assert torch.equal(tokens[:, PROMPT:], result.responses)
        if calls is not None:
            assert calls == result.nfe.tolist()
        if engine in TOGETHER:
            assert model.calls == calls_together(result)
        if engine.startswith("dream"):  # each row has its own block
            assert model.calls == int(result.nfe.max())


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("engine", ["fast-dllm, none cache", "dream", "dinfer", "sglang"])
def test_a_row_alone_takes_as_many_model_calls(engine: str, name: str, expected: dict[str, Rollout]) -> None:
    run, result = ENGINES[engine](POLICIES[name]), expected[name]
    for row in (0, 2):
        model = drivers.Model(DENOISER, LENGTH)
        tokens, _ = run(model, torch.tensor(prompts()[row : row + 1]))
        assert torch.equal(tokens[0, PROMPT:], result.responses[row])
        assert model.calls == int(result.nfe[row]) + (LENGTH // BLOCK if engine == "sglang" else 0)


def test_the_comparison_is_not_an_easy_one(expected: dict[str, Rollout]) -> None:
    assert len({tuple(result.revealed_at.flatten().tolist()) for result in expected.values()}) == len(POLICIES)
    assert all(result.nfe.min() < LENGTH for result in expected.values())
    assert len(set(expected["learned"].nfe.tolist())) > 1
    assert any(calls_together(result) > int(result.nfe.max()) for result in expected.values())  # rows wait


@pytest.mark.parametrize("name", ["top_k:steps=12", "entropy:steps=12", "margin:steps=13", "klass:steps=10"])
@pytest.mark.parametrize(
    "engine", ["fast-dllm, dual cache", "dream", "sglang, first done first out", "vllm, sampler"]
)
def test_schedules_where_only_the_block_is_seen(engine: str, name: str) -> None:
    policy = load_policy(name)
    result = played(policy)
    tokens, calls = ENGINES[engine](policy)(drivers.Model(DENOISER, LENGTH), torch.tensor(prompts()))
    assert torch.equal(tokens[:, PROMPT:], result.responses)
    if calls is not None:
        assert calls == result.nfe.tolist()
    if name.endswith("12"):
        assert result.nfe.tolist() == [12] * ROWS


@pytest.mark.parametrize("name", ["random:2", "learned", "forced"])
def test_the_same_seeds_draw_the_same(name: str) -> None:
    known = {
        "learned": learned(greedy=False, top=3),
        "forced": learned(Bernoulli(force_progress=True), greedy=False),
    }
    policy = known.get(name) or load_policy(name)
    result = played(policy, temperature=0.8)
    choose = transfer_index(policy, MASK, LENGTH, BLOCK)
    given = torch.tensor(prompts())
    choose.reset(range(ROWS))
    tokens, _ = drivers.fast_dllm(drivers.Model(DENOISER, LENGTH), given, choose, BLOCK, MASK, temperature=0.8)
    assert torch.equal(tokens[:, PROMPT:], result.responses)
    anew = [
        drivers.fast_dllm(drivers.Model(DENOISER, LENGTH), given, choose, BLOCK, MASK, temperature=0.8)[0]
        for _ in range(2)
    ]
    assert not torch.equal(anew[0], tokens)
    assert not torch.equal(anew[0], anew[1])  # every generation draws anew


def test_full_diffusion_through_dream() -> None:
    policy = load_policy("threshold:0.7")
    model = drivers.Model(DENOISER, LENGTH)
    tokens = DreamHooks(BlockDecoder(policy, MASK, LENGTH)).generate(
        drivers.DreamModel(model, MASK), torch.tensor(prompts())
    )
    result = played(policy, LENGTH)
    assert torch.equal(tokens[:, PROMPT:], result.responses)
    assert model.calls == int(result.nfe.max())


def test_dream_without_its_loop_ended() -> None:
    hooks = DreamHooks(BlockDecoder("threshold:0.9", MASK, LENGTH), BLOCK)
    given, model = torch.tensor(prompts()), drivers.DreamModel(drivers.Model(DENOISER, LENGTH), MASK)
    tokens = model.diffusion_generate(
        given,
        max_new_tokens=LENGTH,
        steps=LENGTH,
        generation_logits_hook_func=hooks.logits,
        generation_tokens_hook_func=hooks.tokens,
    )
    assert torch.equal(tokens[:, PROMPT:], played(load_policy("threshold:0.9")).responses)
    assert model.model.calls == LENGTH
    for before, after in zip(model.seen, model.seen[1:], strict=False):
        written = before != MASK
        assert torch.equal(before[written], after[written])


def test_dinfer_may_ask_again_after_the_last_mask() -> None:
    decoder = PolicyDecoder(BlockDecoder(POLICIES["learned"], MASK, LENGTH), DENOISER.eot_id)
    tokens = drivers.dinfer(drivers.Model(DENOISER, LENGTH), torch.tensor(prompts()), decoder, BLOCK, unroll=3)
    assert torch.equal(tokens[:, PROMPT:], played(POLICIES["learned"]).responses)


# ------------------------------------------------------------------------------------------ what cannot work


def test_no_engine_hangs_on_a_policy_that_never_acts() -> None:
    given = torch.tensor(prompts(1))
    expected = played(load_policy("top_k:1"), count=1).responses
    for engine in ("fast-dllm, dual cache", "dream", "dinfer", "sglang", "vllm"):
        tokens, _ = ENGINES[engine](Never())(drivers.Model(DENOISER, LENGTH), given)
        assert torch.equal(tokens[:, PROMPT:], expected)


def test_without_forced_progress_the_response_counts_on() -> None:
    choose = transfer_index(spy := Spy(0), MASK, LENGTH, BLOCK, force_progress=False)
    x = drivers.blank(torch.tensor(prompts(2)), LENGTH, MASK)
    mask_index = x == MASK
    mask_index[:, PROMPT + BLOCK :] = False
    for _ in range(3):
        choose(torch.zeros(*x.shape, VOCABULARY), 0.0, "low_confidence", mask_index, x, None)
    assert [seen.step.tolist() for seen in spy.seen] == [[0, 0], [1, 1], [2, 2]]
    algorithm = PolicyAlgorithm(settings(force_progress=False), Never())
    assert algorithm.max_steps(BLOCK) > LENGTH >= PolicyAlgorithm(settings(), Never()).max_steps(BLOCK)


def test_policies_that_do_not_fit_are_refused() -> None:
    hidden, support, remasking = Spy(), Spy(), Spy()
    hidden.extras, support.extras = Extras(hidden=True), Extras(support=True)
    remasking.remasks = True  # type: ignore[attr-defined]
    for policy, message in ((hidden, "hidden states"), (support, "support"), (remasking, "back to mask")):
        with pytest.raises(UsageError, match=message):
            BlockDecoder(policy, 0, 5)
    for text in ("wino", "remdm"):
        with pytest.raises(UsageError, match="engines do not"):
            transfer_index(text, MASK, LENGTH, BLOCK)
    for reading in ("eoser", POLICIES["reads tokens"]):
        with pytest.raises(UsageError, match="reads predicted tokens; give end_ids"):
            transfer_index(reading, MASK, LENGTH, BLOCK)
    with pytest.raises(UsageError, match=r"end_ids are the ids of tokens.*got \(-1,\)"):
        BlockDecoder("eoser", 0, 5, end_ids=(-1,))
    with pytest.raises(UsageError, match=r"end_ids is a list of the tokens' ids, got 3"):
        PolicyAlgorithm(settings(end_ids=3), "eoser")


def test_a_policy_for_the_whole_response_needs_one_block() -> None:
    full = LearnedPolicy(learned().network, DynamicPlackettLuce(), "full", greedy=True)
    for make in (
        lambda: transfer_index(full, MASK, LENGTH, BLOCK),
        lambda: DreamHooks(BlockDecoder(full, MASK, LENGTH), BLOCK),
        lambda: BlockDecoder(full, MASK, LENGTH)(logits(), torch.ones(3, 5).bool()),
        lambda: PolicyAlgorithm(settings(), full),
    ):
        with pytest.raises(UsageError, match="--context block"):
            make()
    with pytest.warns(UserWarning, match="--context full"):
        hooks = DreamHooks(BlockDecoder(full, MASK, LENGTH))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        tokens = hooks.generate(drivers.DreamModel(drivers.Model(DENOISER, LENGTH), MASK), torch.tensor(prompts()))
    assert torch.equal(tokens[:, PROMPT:], played(full, LENGTH).responses)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockDecoder("threshold:0.9", 0, 0), "response length"),
        (lambda: BlockDecoder("no-such-policy", 0, 5), "no policy"),
        (lambda: transfer_index("leftmost", MASK, LENGTH, 7), "does not divide"),
        (lambda: TransferIndex(BlockDecoder("leftmost", MASK, LENGTH), 0), "does not divide"),
        (lambda: PolicyAlgorithm(settings()), "is missing"),
        (lambda: PolicyAlgorithm(settings(response_length=None), Never()), "is missing"),
        (lambda: PolicyAlgorithm(settings(policy="leftmost", threshold=0.5)), "got threshold"),
        (
            lambda: PolicyAlgorithm(settings(policy="leftmost", response_length="long")),
            "response_length must be a num",
        ),
        (lambda: PolicyAlgorithm(settings(policy="leftmost", response_length=0)), "response length"),
        (lambda: PolicyAlgorithm(settings(policy="leftmost", temperature=None)), "temperature must be a number"),
        (lambda: PolicyAlgorithm(settings(policy="leftmost", force_progress="no")), "force_progress must be true"),
        (lambda: PolicyAlgorithm(SimpleNamespace(mask_id=MASK), Never()), "has no block_size"),
        (
            lambda: PolicyAlgorithm(SimpleNamespace(mask_id=None, block_size=None), Never()),
            "no block_size and no mask",
        ),
        (lambda: BlockDecoder("leftmost", None, 5), "mask token is an id"),  # type: ignore[arg-type]
        (lambda: BlockDecoder("leftmost", 0, "5"), "whole number"),  # type: ignore[arg-type]
        (sglang_algorithm, "pip install sglang"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_dream_needs_both_hooks_and_the_right_length() -> None:
    x = drivers.blank(torch.tensor(prompts(1)), LENGTH, MASK)
    zeros = torch.zeros(*x.shape, VOCABULARY)
    hooks = DreamHooks(BlockDecoder("leftmost", MASK, LENGTH), BLOCK)
    with pytest.raises(UsageError, match="generation_logits_hook_func is missing"):
        hooks.tokens(0, x, zeros)
    assert hooks.logits(0, x, zeros) is zeros
    with pytest.raises(UsageError, match="generation_tokens_hook_func is missing"):
        hooks.logits(1, x, zeros)
    assert hooks.tokens(None, x, None) is x  # a new generation
    for length in (LENGTH - BLOCK, LENGTH + BLOCK):
        with pytest.raises(UsageError, match="max_new_tokens=32"):
            hooks.tokens(None, drivers.blank(torch.tensor(prompts(1)), length, MASK), None)


# ------------------------------------------------------------------------------------------- SGLang and vLLM


def test_a_class_of_sglangs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sglang", "sglang.srt", "sglang.srt.dllm", "sglang.srt.dllm.algorithm"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    base = ModuleType("base")
    base.DllmAlgorithm = drivers.DllmAlgorithm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang.srt.dllm.algorithm.base", base)
    known: dict[str, Any] = {}
    sys.modules["sglang.srt.dllm.algorithm"].algo_name_to_cls = known  # type: ignore[attr-defined]
    register_sglang()
    kind = known["PolicyAlgorithm"]
    assert (kind.__name__, issubclass(kind, drivers.DllmAlgorithm)) == ("PolicyAlgorithm", True)
    algorithm: Any = kind(settings(True, policy="threshold:0.9", seed=3))
    assert algorithm.base_was_here
    tokens, _ = drivers.sglang(drivers.Model(DENOISER, LENGTH), torch.tensor(prompts(2)), algorithm, ["a", "b"])
    assert torch.equal(tokens[:, PROMPT:], played(load_policy("threshold:0.9"), count=2).responses)


def test_blocks_of_requests_without_names() -> None:
    algorithm = PolicyAlgorithm(settings(), spy := Spy())
    for _ in range(2):
        batch = SimpleNamespace(batch_size=1, input_ids=torch.full((BLOCK,), MASK, dtype=torch.int32), rids=None)
        states = algorithm.init_step_state(batch)
        for _ in range(2):
            assert algorithm.step(batch, torch.zeros(BLOCK, VOCABULARY), states) == [False]
    assert [int(seen.step) for seen in spy.seen] == [0, 1, 0, 1]
    assert (batch.input_ids != MASK).sum() == 2


def test_a_finished_block_of_sglangs_stays_as_it_is() -> None:
    algorithm = PolicyAlgorithm(settings(), "leftmost")
    batch = SimpleNamespace(batch_size=2, input_ids=torch.full((2 * BLOCK,), 7), rids=["a", "b"])
    batch.input_ids[-1] = MASK
    scores = torch.zeros(2 * BLOCK, VOCABULARY)
    scores[:, 9] = 1
    assert algorithm.step(batch, scores, algorithm.init_step_state(batch)) == [True, False]
    assert batch.input_ids.tolist() == [7] * (2 * BLOCK - 1) + [9]


def test_a_mask_token_in_sglangs_prompt_is_no_mask() -> None:
    algorithm, scores = PolicyAlgorithm(settings(), "threshold:0"), torch.zeros(BLOCK, VOCABULARY)
    scores[:, 9] = 1
    given = torch.zeros(1, BLOCK, dtype=torch.bool)
    given[0, 1] = True
    ids = torch.full((BLOCK,), MASK)
    batch = SimpleNamespace(batch_size=1, input_ids=ids, rids=["a"], dllm_prompt_mask=given)
    assert [algorithm.step(batch, scores, ["a"]) for _ in range(2)] == [[False], [True]]
    assert ids.tolist() == [9, MASK, *[9] * (BLOCK - 2)]


def test_vllms_own_result_class_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class RemaskStepResult(StepResult):
        pass

    for name in ("dllm_plugin", "dllm_plugin.remasking"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    base = ModuleType("base")
    base.RemaskStepResult = RemaskStepResult  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dllm_plugin.remasking.base", base)
    remasking = PolicyRemasking(BlockDecoder("threshold:0", 0, 4))
    result = remasking.apply(input_draft=[0, 5, 0], logits=[[0.0, 1.0, 2.0]] * 3)
    assert type(result) is RemaskStepResult
    assert (result.committed_token_ids, result.next_input_block) == ((2, 5, 2), (0, 0, 0))


def test_one_vllm_request_after_the_other() -> None:
    remasking = PolicyRemasking(BlockDecoder("leftmost", 0, 4))
    scores = torch.tensor([[0.0, 1.0, 2.0]] * 2)
    assert remasking.apply(input_draft=(0, 0), logits=scores) == StepResult((), (2, 0))
    assert remasking.apply(input_draft=(2, 0), logits=scores) == StepResult((2, 2), (0, 0))
    for _ in range(2):
        with pytest.raises(UsageError, match="reset"):
            remasking.apply(input_draft=(1, 0), logits=scores)
    remasking.reset()
    assert remasking.apply(input_draft=(1, 0), logits=scores) == StepResult((1, 2), (0, 0))
    assert remasking.apply(input_draft=(1, 1), logits=scores, remasking_config={"request_id": 1}) == StepResult(
        (1, 1), (0, 0)
    )


def test_a_vllm_request_that_begins_anew_under_its_name() -> None:
    remasking = PolicyRemasking(BlockDecoder(spy := Spy(), 0, 4))
    scores, config = torch.tensor([[0.0, 1.0, 2.0]] * 2), {"request_id": "a"}
    for draft in ((0, 0), (2, 0), (1, 0)):
        remasking.apply(input_draft=draft, logits=scores, remasking_config=config)
    assert [int(seen.step) for seen in spy.seen] == [0, 1, 0]


@pytest.mark.parametrize("name", ["threshold:0.9", "leftmost:2"])
def test_vllms_sampler_without_names(name: str) -> None:
    """Rules without progress and randomness write the same where each block counts as a response of its own."""
    tokens, calls = batched_vllm(POLICIES[name], False)(drivers.Model(DENOISER, LENGTH), torch.tensor(prompts()))
    expected = played(POLICIES[name])
    assert torch.equal(tokens[:, PROMPT:], expected.responses)
    assert calls == expected.nfe.tolist()


def test_batched_remask_by_hand() -> None:
    remask = BatchedRemask(BlockDecoder(spy := Spy(1), 0, 8))
    scores = torch.zeros(2, 3, 4).bfloat16()
    scores[..., 0] = 9  # the mask token is never written
    scores[..., 2] = 1
    draft = torch.tensor([[0, 5, 0], [0, 0, 0]], dtype=torch.int32)
    after, done, count = remask(scores, draft, 0, 0.9)
    assert draft.tolist() == [[0, 5, 0], [0, 0, 0]]
    assert (after.tolist(), after.dtype) == ([[2, 5, 0], [2, 0, 0]], torch.int32)
    assert (done.tolist(), count.tolist()) == ([False, False], [1, 1])
    turned = after.flip(0)
    out = torch.zeros_like(turned)
    remask.decoder.policy = load_policy("threshold:0")
    after, done, count = remask(
        logits=scores,
        input_draft=turned,
        mask_token_id=0,
        threshold=0.9,
        temperature=0.0,
        use_float64=True,
        out=out,
    )
    assert after is out
    assert out.tolist() == [[2, 2, 2], [2, 5, 2]]
    assert (done.tolist(), count.tolist()) == ([True, True], [2, 1])
    assert remask(scores, out, 0, 0.9)[0].tolist() == out.tolist()
    assert spy.seen[0].step.tolist() == [0, 0]


def test_a_block_without_a_name_is_known_by_what_it_was_left_with() -> None:
    remask = BatchedRemask(BlockDecoder(spy := Spy(1), 0, 8))
    scores = torch.arange(8.0).expand(1, 4, 8)
    one, _, _ = remask(scores, torch.tensor([[0, 0, 0, 0]]), 0, 0.9)
    other, _, _ = remask(scores, torch.tensor([[3, 0, 0, 0]]), 0, 0.9)
    remask(scores.expand(2, 4, 8), torch.cat([other, one]), 0, 0.9)
    remask(scores, torch.tensor([[0, 0, 0, 0]]), 0, 0.9)
    assert [seen.step.tolist() for seen in spy.seen] == [[0], [0], [1, 1], [0]]


def test_vllms_sampler_tells_a_policy_its_progress_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sampler(drivers.DiffusionSampler):
        pass

    module = plugin_with(Sampler, monkeypatch)
    remask = BatchedRemask(BlockDecoder(spy := Spy(1), MASK, LENGTH))
    remask.install()
    assert module.batched_remask is remask
    drivers.batched_vllm(drivers.Model(DENOISER, LENGTH), torch.tensor(prompts(1)), Sampler(MASK, BLOCK))
    assert [int(seen.step) for seen in spy.seen] == list(range(LENGTH))


def test_a_block_of_vllms_that_is_cut_off_leaves_the_next_one_whole() -> None:
    sampler = drivers.DiffusionSampler(MASK, BLOCK, most_steps=3)
    sampler._remask_fn = BatchedRemask(BlockDecoder("leftmost", MASK, LENGTH))
    sampler.begin("a", [5, 6])
    batch = SimpleNamespace(req_ids=["a"], cu_num_logits_np=[0, BLOCK])
    scores = torch.zeros(BLOCK, VOCABULARY)
    scores[:, 9] = 1
    assert [sampler(scores, batch) for _ in range(3)] == [{}, {}, {"a": [5, 6, 9, 9, 9]}]
    assert sampler.blocks["a"].eq(MASK).all()
    sampler(scores, batch)
    assert sampler.blocks["a"].tolist() == [9] + [MASK] * (BLOCK - 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), 9, 0.9), "mask token is 9, the decoder's 0"),
        (lambda r: r(None, torch.zeros(1, 2).long(), 0, 0.9), "logits must be a tensor, got nothing"),
        (lambda r: r(torch.zeros(1, 3, 3), torch.zeros(1, 2).long(), 0, 0.9), "must be"),
        (lambda r: r(torch.zeros(2, 3), torch.zeros(2).long(), 0, 0.9), "input_draft"),
        (lambda r: r(torch.zeros(1, 2, 3), None, 0, 0.9), "input_draft"),
        (
            lambda r: (r.requests(["a", "b"]), r(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), 0, 0.9)),
            "1 blocks need as many requests, got 2",
        ),
        (lambda r: r.install(), "older versions take PolicyRemasking"),
    ],
)
def test_a_call_of_vllms_sampler_that_does_not_fit_is_refused(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(BatchedRemask(BlockDecoder("leftmost", 0, 4)))


# ---------------------------------------------------------------------- what engines give, and should not


def sglang_step(**given: Any) -> Any:
    algorithm = PolicyAlgorithm(settings(), "leftmost")
    batch = SimpleNamespace(
        batch_size=2,
        input_ids=given.get("ids", torch.full((2 * BLOCK,), MASK)),
        rids=["a", "b"],
        dllm_prompt_mask=given.get("mask"),
    )
    return algorithm.step(batch, given.get("out", torch.zeros(2 * BLOCK, VOCABULARY)), ["a", "b"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": SimpleNamespace(full_logits=None)}, "full_logits is None"),
        ({"out": SimpleNamespace(next_token_logits=torch.zeros(2, 9))}, "full_logits is None"),
        ({"out": None}, "full_logits is None"),
        ({"out": torch.zeros(2, VOCABULARY)}, r"logits of 2 blocks of 8 must be \(16, V\), got \(2, "),
        ({"out": torch.zeros(2 * BLOCK)}, r"must be \(16, V\)"),
        ({"ids": torch.full((BLOCK,), MASK)}, r"input_ids of 2 blocks of 8 must be \(16,\), got \(8,\)"),
        ({"ids": None}, "got nothing"),
        ({"mask": torch.zeros(1, BLOCK)}, "dllm_prompt_mask of 2 blocks"),
    ],
)
def test_a_step_of_sglangs_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sglang_step(**given)


def test_sglang_may_give_its_tensors_in_either_shape() -> None:
    logits = torch.zeros(2, BLOCK, VOCABULARY)
    for out in (logits, logits.view(2 * BLOCK, -1), SimpleNamespace(full_logits=logits)):
        assert sglang_step(out=out) == [False, False]
    assert sglang_step(mask=torch.ones(2 * BLOCK).bool()) == [True, True]


def fast_dllm_call(decoder: TransferIndex, **given: Any) -> Any:
    x = drivers.blank(torch.tensor(prompts(1)), given.pop("length", LENGTH), MASK)
    mask_index = x == MASK
    mask_index[:, PROMPT + BLOCK :] = False
    call = {"logits": torch.zeros(*x.shape, VOCABULARY), "mask_index": mask_index, "x": x, "temperature": 0.0}
    return decoder(**{**call, "remasking": "low_confidence", "num_transfer_tokens": None, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_transfer_tokens": torch.tensor([2])}, "give it any threshold .*, or steps=32"),
        ({"logits": None}, "logits must be a tensor, got nothing"),
        ({"logits": torch.zeros(1, BLOCK, VOCABULARY)}, "must be"),
        ({"mask_index": None}, "x, the tokens, and mask_index"),
        ({"x": None}, "x, the tokens, and mask_index"),
        ({"temperature": None}, "temperature must be a finite number"),
        ({"length": LENGTH - BLOCK}, "give gen_length=32"),
        ({"length": LENGTH + BLOCK}, "give gen_length=32"),
    ],
)
def test_a_call_of_fast_dllms_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fast_dllm_call(transfer_index("leftmost", MASK, LENGTH, BLOCK), **given)


def test_fast_dllms_schedule_is_refused_only_where_it_may_end_too_early() -> None:
    """With as many steps as tokens, each block's schedule is as long as the block."""
    for given in (
        {"num_transfer_tokens": torch.tensor([1])},
        {"num_transfer_tokens": torch.tensor([4]), "threshold": 0.9},
        {"num_transfer_tokens": None, "factor": 1.0},
    ):
        fast_dllm_call(transfer_index("leftmost", MASK, LENGTH, BLOCK), **given)
    waits = transfer_index("leftmost", MASK, LENGTH, BLOCK, force_progress=False)
    with pytest.raises(UsageError, match="threshold"):
        fast_dllm_call(waits, num_transfer_tokens=torch.tensor([1]))


def test_dream_says_what_is_wrong() -> None:
    hooks = DreamHooks(BlockDecoder("leftmost", MASK, LENGTH), BLOCK)
    model = drivers.DreamModel(drivers.Model(DENOISER, LENGTH), MASK)
    given = torch.tensor(prompts(1))
    with pytest.raises(UsageError, match=r"no diffusion_generate, which Dream's own code has.*transformers 4.46"):
        hooks.generate(object(), given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ended after its steps with 28 masks left; leave steps out, or give 32"):
        hooks.generate(model, given, steps=4)
    with pytest.raises(UsageError, match="max_new_tokens=32"):
        hooks.generate(model, given, max_new_tokens=LENGTH - BLOCK)
    with pytest.raises(UsageError, match="Dream has to give its logits"):
        hooks.logits(0, given, None)  # type: ignore[arg-type]
    assert hooks.generate(model, given).shape == (1, PROMPT + LENGTH)  # it goes on working


def test_dreams_code_on_transformers_5(monkeypatch: pytest.MonkeyPatch) -> None:
    class DreamModel:
        def diffusion_generate(self, inputs: Tensor, **_: Any) -> Tensor:
            raise KeyError("default")

    hooks = DreamHooks(BlockDecoder("leftmost", MASK, LENGTH), BLOCK)
    monkeypatch.setattr("dllm_env.policies.plugins.version", lambda _: "5.23.0")
    with pytest.raises(UsageError, match=r"KeyError: 'default'.*does not run on transformers 5: install"):
        hooks.generate(DreamModel(), torch.tensor(prompts(1)))
    monkeypatch.setattr("dllm_env.policies.plugins.version", lambda _: "4.46.2")
    with pytest.raises(KeyError):
        hooks.generate(DreamModel(), torch.tensor(prompts(1)))


def test_dinfer_says_what_is_wrong() -> None:
    decoder = PolicyDecoder(BlockDecoder("leftmost", MASK, LENGTH), DENOISER.eot_id)
    x = drivers.blank(torch.tensor(prompts(1)), LENGTH, MASK)
    with pytest.raises(UsageError, match=r"logits of the block, .*got nothing"):
        decoder.decode(None, PROMPT, PROMPT + BLOCK, x)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="logits of the block"):
        decoder.decode(torch.zeros(*x.shape, VOCABULARY), PROMPT, PROMPT + BLOCK, x)
    with pytest.raises(UsageError, match="BlockWiseDiffusionLLM"):
        decoder.batch_decode(None, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DreamHooks("leftmost"),  # type: ignore[arg-type]
        lambda: PolicyDecoder("leftmost", 1),  # type: ignore[arg-type]
        lambda: PolicyRemasking("leftmost"),  # type: ignore[arg-type]
        lambda: BatchedRemask("leftmost"),  # type: ignore[arg-type]
        lambda: TransferIndex(None, BLOCK),  # type: ignore[arg-type]
    ],
)
def test_adapters_want_a_decoder(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError, match="give a BlockDecoder"):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logits": None}, "logits are missing"),
        ({"remasking_config": {"mask_token_id": 9}}, "mask token is 9, the decoder's 0"),
        ({"logits": [[0.0, 1.0]]}, "must be"),
        ({"logits": torch.zeros(1, 2, 3)}, "must be"),
    ],
)
def test_a_vllm_step_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"input_draft": [0, 0], "logits": torch.zeros(2, 3), **given}
    with pytest.raises(UsageError, match=message):
        PolicyRemasking(BlockDecoder("leftmost", 0, 4)).apply(**arguments)


# ---------------------------------------------------------------------------------------------- the examples


@pytest.mark.parametrize("engine", ["fast_dllm", "dream", "dinfer", "sglang", "vllm", "vllm_sampler"])
def test_an_example_runs(engine: str) -> None:
    path = Path(__file__).parent.parent / "examples" / f"plugin_{engine}.py"
    assert len(path.read_text().splitlines()) < 40
    example = runpy.run_path(str(path))
    prompt, rules = DENOISER.encode(example["PROMPT"]), Rules(example["LENGTH"], example["BLOCK"])
    result = rollout(DENOISER, load_policy("threshold:0.9"), rules, [prompt], [0])
    assert example["main"]() == DENOISER.response_text(result.responses[0].tolist())
    # So does one that reads predicted tokens, as trained policies do.
    result = rollout(DENOISER, load_policy("eoser:2"), rules, [prompt], [0])
    assert example["main"]("eoser:2") == DENOISER.response_text(result.responses[0].tolist())

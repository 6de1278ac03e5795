"""Models that see their own block and finished ones, and mixtures of experts: small checkpoints of each family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path

import pytest
import torch
from checkpoints import block_logits, expert_logits, llada2_logits, load_all
from make_checkpoint import (
    make_a2d,
    make_bd3lm,
    make_bert,
    make_fast_dllm,
    make_llada2,
    make_llada_moe,
    make_sdar,
    make_sdar_moe,
)
from torch import Tensor

import dllm_env
from dllm_env.denoisers import families
from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.huggingface import HuggingFaceDenoiser, Options
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, Wishes
from dllm_env.env import EnvConfig, UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig, evaluate
from dllm_env.eval.likelihood import in_blocks, log_likelihoods
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import Rollout, rollout
from dllm_env.rules import Rules, View

Logits = Callable[[Path, Tensor], Tensor]
FAMILIES: dict[str, tuple[Callable[[Path], Path], Logits, int]] = {
    "sdar": (make_sdar, block_logits(4), 4),
    "sdar-moe": (make_sdar_moe, expert_logits(4, normed=True), 4),
    "fast-dllm": (make_fast_dllm, block_logits(8), 8),
    "bd3lm": (make_bd3lm, block_logits(32), 32),
    "llada2": (make_llada2, llada2_logits, 8),
    "llada-moe": (make_llada_moe, expert_logits(0, normed=False), 0),
}
BLOCKS = [name for name, (_, _, block) in FAMILIES.items() if block]
PROMPTS = ("a 6 b +2 c -2", "a 1", "g 3 h -2 i *7 j *3 k +1 l *3", "b 5")
RULES = Rules(16)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("blocks")
    return {family: make(root / family) for family, (make, _, _) in FAMILIES.items()}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, HuggingFaceDenoiser]:
    return load_all(folders)


def partly_masked(denoiser: HuggingFaceDenoiser, prompt: str, length: int, seed: int) -> Tensor:
    """(P+L,) tokens."""
    generator = torch.Generator().manual_seed(seed)
    response = torch.randint(20, 200, (length,), generator=generator)
    response[torch.rand(length, generator=generator) < 0.5] = denoiser.mask_id
    return torch.cat((torch.tensor(denoiser.encode(prompt)), response))


def play(denoiser: HuggingFaceDenoiser, policy: str, rules: Rules = RULES, batch: int = 4, **more: int) -> Rollout:
    """A rollout of the four prompts, which are as long modulo the block as they come."""
    prompts = [denoiser.encode(prompt) for prompt in PROMPTS]
    return rollout(denoiser, load_policy(policy), rules, prompts, [3, 1, 4, 1], batch_size=batch, **more)


def same(one: Rollout, other: Rollout) -> None:
    for name in ("responses", "nfe", "steps", "revealed_at"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.allclose(one.sureness, other.sureness, atol=1e-5)


# -------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_against_an_independent_computation(family, folders, loaded) -> None:
    """With prompts of all lengths modulo the block, alone and padded; a last block that L cuts off is whole."""
    denoiser, (_, logits, block) = loaded[family], FAMILIES[family]
    length, width = 11, 64
    assert denoiser.attention_block == block
    for number, prompt in enumerate(PROMPTS):
        tokens = partly_masked(denoiser, prompt, length, number)
        missing = -len(tokens) % block if block else 0
        whole = torch.cat((tokens, torch.full((missing,), denoiser.mask_id)))
        wanted = logits(folders[family], whole)[: len(tokens)]
        wanted = torch.cat((wanted[:1], wanted[:-1])) if denoiser.shift else wanted
        padded = torch.cat((torch.full((width - len(tokens),), denoiser.pad_id), tokens))
        for given in (tokens, padded):
            got = denoiser.head(denoiser.features(given[None], length)[0])
            assert torch.allclose(got, wanted[-length:], atol=1e-5, rtol=1e-4), (prompt, len(given))


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_and_blocks_matter(family, folders, loaded) -> None:
    """What the independent computation would give with another block is far from it."""
    denoiser, (_, logits, block) = loaded[family], FAMILIES[family]
    tokens = partly_masked(denoiser, PROMPTS[2], 40, 0)
    tokens = tokens[: len(tokens) // 32 * 32]
    right = logits(folders[family], tokens)
    other = denoiser.parts.block
    try:
        denoiser.parts.block = 0 if block else 4
        got = denoiser.head(denoiser.parts.features(tokens[None], None)[0])
    finally:
        denoiser.parts.block = other
    assert (got - right).abs().mean() > 0.05 * right.abs().mean()


def test_what_is_written_about_a_model_counts_for_more_than_its_family(folders, tmp_path) -> None:
    about = json.loads((folders["sdar"] / "config.json").read_text())
    for said, name, block in (
        ({"block_size": 8}, "SDAR-1.7B-Chat", 8),
        ({}, "SDAR-1.7B-Chat", 4),
        ({}, "SDAR-1.7B-Chat-b16", 16),
    ):
        folder = tmp_path / str(block) / name
        folder.mkdir(parents=True)
        for file in folders["sdar"].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        changed = {key: value for key, value in about.items() if key != "block_size"} | said
        (folder / "config.json").write_text(json.dumps(changed))
        assert load_denoiser(folder).attention_block == block
        assert load_denoiser(f"{folder}:attention_block=2").attention_block == 2
    other = folder.with_name("SDAR-1.7B-Chat-b8")
    folder.rename(other)
    (other / "config.json").write_text(json.dumps(about | {"block_size": 4}))
    with pytest.raises(UsageError, match=r"blocks of 8 by its name, and of 4 by its config\.json; say which with"):
        load_denoiser(other)
    assert load_denoiser(f"{other}:attention_block=8").attention_block == 8


def test_a_tokenizer_that_calls_another_token_the_mask_is_asked_about(loaded, monkeypatch) -> None:
    """Transformers gives a mask token that the vocabulary lacks an id of its own, and says nothing."""
    one = loaded["sdar"]
    about = {key: value for key, value in one.raw.items() if key != "mask_token_id"}
    known = tuple(replace(family, mask=5) if family.name == "sdar" else family for family in families.FAMILIES)
    monkeypatch.setattr(families, "FAMILIES", known)
    with pytest.raises(
        UsageError, match=rf"mask token is {one.mask_id}, that of SDAR is 5; say which with .*:mask=5"
    ):
        HuggingFaceDenoiser(one.model, one.tokenizer, "x", Options(), about)
    for given in (5, one.mask_id):
        assert HuggingFaceDenoiser(one.model, one.tokenizer, "x", Options(mask=given), about).mask_id == given


def test_a_decoder_of_transformers_can_be_told_to_attend_in_blocks(tmp_path) -> None:
    folder = make_a2d(tmp_path / "plain")
    assert load_denoiser(folder).attention_block == 0
    denoiser = load_denoiser(f"{folder}:attention_block=4")
    tokens = partly_masked(denoiser, PROMPTS[0], 8, 0)
    missing = torch.full((-len(tokens) % 4,), denoiser.mask_id)
    wanted = block_logits(4)(folder, torch.cat((tokens, missing)))[: len(tokens)]
    assert torch.allclose(denoiser.head(denoiser.features(tokens[None], 8)[0]), wanted[-8:], atol=1e-5)


# ----------------------------------------------------------------------------------------------- process


@pytest.mark.parametrize("family", BLOCKS)
@pytest.mark.parametrize("policy", ["threshold:0.05", "leftmost:2", "random:3"])
def test_the_cache_of_finished_blocks_changes_nothing(family, policy, folders, loaded) -> None:
    cached, plain = loaded[family], load_denoiser(f"{folders[family]}:cache=false")
    assert cached.keeps_blocks
    assert not plain.keeps_blocks
    rules = Rules(32, temperature=0.7) if family == "bd3lm" else Rules(16, temperature=0.7)
    same(play(cached, policy, rules), play(plain, policy, rules))


@pytest.mark.parametrize("family", BLOCKS)
def test_rows_alone_are_as_in_a_batch(family, loaded) -> None:
    rules = Rules(32) if family == "bd3lm" else RULES
    together = play(loaded[family], "threshold:0.05", rules)
    same(together, play(loaded[family], "threshold:0.05", rules, batch=1))
    same(together, play(loaded[family], "threshold:0.05", rules, prompt_length=64))


@pytest.mark.parametrize("keeps", [True, False])
def test_several_rows_at_once_as_on_a_gpu(keeps, folders, monkeypatch) -> None:
    """On the processor rows are looked at one by one; here all at once, in different blocks, some of them new."""
    denoiser = load_denoiser(f"{folders['fast-dllm']}:cache={str(keeps).lower()}")
    wanted = play(denoiser, "random:3")
    monkeypatch.setattr(HuggingFaceDenoiser, "features", HuggingFaceDenoiser._features)
    monkeypatch.setattr(HuggingFaceDenoiser, "cached_features", HuggingFaceDenoiser._kept_features)
    same(play(denoiser, "random:3"), wanted)
    same(play(denoiser, "random:3", batch=3), wanted)


def test_blocks_are_counted_from_the_prompt(loaded) -> None:
    denoiser = loaded["sdar"]
    prompts = [list(range(20, 20 + n)) for n in (4, 5, 7)]
    dynamics = Dynamics(denoiser, Rules(8), 8, View("full"))
    state = dynamics.reset(prompts, [0, 1, 2])
    seen = []
    for _ in range(8):
        dynamics.predict(state)
        shown = dynamics.observe(state)
        assert bool((shown.confidence[..., 0] > 0).eq(shown.selectable).all())  # nothing behind is predicted
        seen.append((dynamics.block_start(state).tolist(), shown.selectable.sum(-1).tolist()))
        first = shown.selectable & (shown.selectable.cumsum(-1) == 1)
        dynamics.apply(state, first)
    assert [starts for starts, _ in seen] == [
        *([0, -1, -3],),
        *([0, -1, 1],),
        *([0, -1, 1],),
        *([0, 3, 1],),
        *([4, 3, 1],),
        *([4, 3, 5],),
        *([4, 3, 5],),
        *([4, 7, 5],),
    ]
    assert [sizes for _, sizes in seen] == [
        *([4, 3, 1], [3, 2, 4], [2, 1, 3], [1, 4, 2], [4, 3, 1], [3, 2, 3], [2, 1, 2], [1, 1, 1]),
    ]


@pytest.mark.parametrize("context", ["full", "block"])
def test_a_policy_that_sees_its_block_only_decides_the_same(context, loaded) -> None:
    denoiser = loaded["llada2"]
    policy = replace(load_policy("threshold:0.05"))
    object.__setattr__(policy, "context", context)
    prompts = [denoiser.encode(prompt) for prompt in PROMPTS]
    same(rollout(denoiser, policy, RULES, prompts, [3, 1, 4, 1]), play(denoiser, "threshold:0.05"))


def test_what_is_written_early_is_not_changed_by_what_comes_later(loaded) -> None:
    """A response of 8 tokens begins one of 24: blocks are finished before what follows them is looked at."""
    short, long = (play(loaded["sdar"], "leftmost:1", Rules(length)) for length in (8, 24))
    assert torch.equal(short.responses, long.responses[:, :8])


def test_steps_of_a_block_are_limited_and_sub_blocks_work(folders, loaded) -> None:
    plain = load_denoiser(f"{folders['fast-dllm']}:cache=false")
    limited, short = Rules(16, limit_block_steps=True), Rules(16, 2, deadline=3)
    for rules in (limited, short, Rules(16, 4), Rules(16, stop_at_eot=True)):
        same(play(loaded["fast-dllm"], "random:1", rules), play(plain, "random:1", rules))
    assert play(loaded["fast-dllm"], "random:1", short).nfe.max() == 3


def test_the_cache_saves_work(loaded, monkeypatch) -> None:
    """After a block's first evaluation only the block is looked at, in its first one the last block, too."""
    widths: list[int] = []
    denoiser = loaded["sdar"]
    base = denoiser.parts.base
    run = type(denoiser.parts).run

    def counted(self, ids: Tensor, **inputs: object) -> Tensor:
        widths.append(ids.shape[1])
        return run(self, ids, **inputs)

    monkeypatch.setattr(type(denoiser.parts), "run", counted)
    prompt = denoiser.encode(PROMPTS[2])[:21]
    rollout(denoiser, load_policy("leftmost:2"), Rules(12), [prompt], [0], batch_size=1)
    assert base is denoiser.parts.base
    assert widths == [24, 4, 8, 4, 8, 4, 8]


def test_a_policy_that_reads_attention_works_without_the_cache(folders, loaded) -> None:
    plain = load_denoiser(f"{folders['sdar']}:cache=false")
    same(play(loaded["sdar"], "dapd"), play(plain, "dapd"))
    dynamics = Dynamics(loaded["sdar"], Rules(8), 8, View(extras=Extras(attention=True)))
    assert dynamics.reset([[20, 21]], [0]).prefix is None


# -------------------------------------------------------------------------------------------------- use


# ------------------------------------------------------------------------- what settles, and Fast-dLLM v2's loop


@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize("block_length", [8, 4])
def test_what_is_settled(context, block_length, loaded) -> None:
    """The first token of a block of 8 behind the prompt, and no token that is written later changes it."""
    denoiser = loaded["fast-dllm"]
    prompts = [denoiser.encode(prompt) for prompt in PROMPTS]
    view = View(context, 1, Extras(settled=True))
    dynamics = Dynamics(denoiser, Rules(16, block_length), 64, view)
    state = dynamics.reset(prompts, seeds=[0, 1, 2, 3])
    found: set[tuple[int, int]] = set()
    first: dict[tuple[int, int], float] = {}
    while not dynamics.terminated(state).all():
        dynamics.predict(state)
        seen = dynamics.observe(state)
        block = dynamics._active(state)
        settled = block.spread(seen.settled, 16).bool()
        sure = block.spread(seen.confidence[..., 0], 16)
        assert not (settled & ~state.masked).any()
        for row, place in settled.nonzero().tolist():
            found.add((row, place))
            kept = first.setdefault((row, place), sure[row, place].item())
            assert kept == pytest.approx(sure[row, place].item(), abs=1e-6)
        selectable = block.selectable  # the last of them, so that settled ones wait
        dynamics.apply(
            state, block.window(selectable & (selectable.cumsum(-1) == selectable.sum(-1, keepdim=True)))
        )
    starts = {(i, -len(prompt) % 8 + k) for i, prompt in enumerate(prompts) for k in (0, 8)}
    assert found == {(i, place) for i, place in starts if place < 16}


def published(denoiser: HuggingFaceDenoiser, logits: Logits, folder: Path, prompt: str, sub: int, threshold: float):
    """Fast-dLLM v2's loop, as its paper and code describe it: a block's first token by what stands before it, then
    in each part of the block what is surer than the threshold, and the surest."""
    text, length, block = denoiser.encode(prompt), 16, 8
    end, nfe = len(text) + length, 0

    def look() -> tuple[Tensor, Tensor]:
        whole = torch.tensor([*text, *[denoiser.mask_id] * (-len(text) % block)])
        found = logits(folder, whole)
        found[:, denoiser.mask_id] = -torch.inf
        return found.softmax(-1).max(-1)

    while len(text) < end:
        if len(text) % block == 0:
            nfe += 1
            text.append(look()[1][-1].item())
        start = len(text) // block * block
        stop = min(start + block, end)
        text += [denoiser.mask_id] * (stop - len(text))
        for part in range(start, start + block, sub):
            while masked := [i for i in range(part, min(part + sub, stop)) if text[i] == denoiser.mask_id]:
                nfe += 1
                sure, token = look()
                best = max(masked, key=lambda i: sure[i - 1].item())
                for i in masked:
                    if i == best or sure[i - 1] >= threshold:
                        text[i] = token[i - 1].item()
    return text[-length:], nfe


@pytest.mark.parametrize("sub", [8, 4])
@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.9])
def test_the_loop_of_fast_dllm_v2(sub, threshold, folders, loaded) -> None:
    denoiser, (_, logits, _) = loaded["fast-dllm"], FAMILIES["fast-dllm"]
    found = play(denoiser, f"fast_dllm_v2:{threshold}", Rules(16, sub))
    other = play(denoiser, f"threshold:{threshold}", Rules(16, sub))
    for row, prompt in enumerate(PROMPTS):
        wanted, nfe = published(denoiser, logits, folders["fast-dllm"], prompt, sub, threshold)
        assert found.responses[row].tolist() == wanted
        assert found.nfe[row] == nfe
    assert threshold == 0.9 or not torch.equal(found.revealed_at, other.revealed_at)
    settings = "0.05,fallback=lowest_entropy"
    same(*(play(loaded["sdar"], f"{rule}:{settings}", Rules(16, 4)) for rule in ("fast_dllm_v2", "threshold")))


def test_the_block_length_is_the_models(loaded, tmp_path) -> None:
    denoiser = loaded["sdar"]
    config = EvaluationConfig(denoiser=denoiser, response_length=8, problems=3)
    (result,) = evaluate(config, ["leftmost:2"])
    assert result.setting.block_length == 4
    env = UnmaskEnv(EnvConfig(denoiser=denoiser, response_length=8), render_mode="ansi")
    seen, _ = env.reset(seed=0)
    assert env.game.rules.block_length == 4
    done = False
    while not done:
        assert "[" in env.render()
        seen, _, done, cut, _ = env.step(seen["selectable"])
        assert not cut
    answer = dllm_env.generate(denoiser, None, "a 1", "leftmost:2", gen_length=8)
    assert answer.nfe[0] >= 4


def test_what_is_given_stays_and_blocks_without_a_mask_are_passed_over(loaded) -> None:
    """Whole blocks of it among them, which the cache has to hold all the same."""
    denoiser = loaded["sdar"]
    mask, prompts = denoiser.mask_id, [[5, 6, 7], [5, 6, 7, 8, 9]]
    rows = [[7, mask, 8, 9, 5, 6, 7, 8, 9, 5, mask, mask], [mask, 7, 8, 9, 5, mask, 7, 8, 9, 5, 6, mask]]
    given = torch.tensor(rows)
    for policy in ("leftmost:1", "threshold:0.3"):
        seen = []
        for keeps in (True, False):
            denoiser.keeps_blocks, before = keeps, denoiser.keeps_blocks
            try:
                found = rollout(
                    denoiser, load_policy(policy), Rules(12, 4), prompts, [1, 2], wishes=Wishes(given=given)
                )
            finally:
                denoiser.keeps_blocks = before
            assert torch.equal(found.responses[given != mask], given[given != mask])
            assert not (found.responses == mask).any()
            seen.append(found.responses)
        assert torch.equal(*seen)
        if policy == "leftmost:1":
            assert found.nfe.tolist() == [3, 3]


@pytest.mark.parametrize(("block", "what"), [(8, "a block length of 8"), (16, "full diffusion")])
def test_longer_blocks_are_refused(block, what, loaded) -> None:
    with pytest.raises(UsageError, match=f"blocks of 4 .*{what}.*use block length 4, or a divisor"):
        play(loaded["sdar"], "leftmost:1", Rules(16, block))
    with pytest.raises(UsageError, match="blocks of 4"):
        Evaluation(EvaluationConfig(response_length=16, block_length=(4, block)), ["leftmost:1"], loaded["sdar"])


def test_what_does_not_go_with_blocks_is_refused(folders, loaded, tmp_path) -> None:
    with pytest.raises(UsageError, match="leave prefix_cache away"):
        play(loaded["sdar"], "leftmost:1", Rules(16, prefix_cache=True))
    with pytest.raises(UsageError, match="cannot attend in blocks"):
        load_denoiser(f"{make_bert(tmp_path / 'bert')}:attention_block=4")
    with pytest.raises(UsageError, match="attention_block is a number"):
        Options(attention_block=-2)


def test_a_model_that_does_not_keep_to_its_blocks_is_refused(folders, loaded, monkeypatch) -> None:
    """As with an attention implementation that leaves masks unread."""
    denoiser = loaded["sdar"]
    sees = type(denoiser.parts)._sees
    for broken, match in (
        (lambda self, q, k, real: torch.ones_like(sees(self, q, k, real)), "does not keep to blocks of 4"),
        (lambda self, q, k, real: k[:, None] <= q[..., None], "left only"),
    ):
        monkeypatch.setattr(type(denoiser.parts), "_sees", broken)
        with pytest.raises(UsageError, match=match):
            load_denoiser(folders["sdar"])


def test_a_model_of_its_own_code_is_sent_to_its_folder(loaded) -> None:
    class SDARForCausalLM:
        config = loaded["sdar"].model.config

    with pytest.raises(UsageError, match="loaded by its own code"):
        HuggingFaceDenoiser(SDARForCausalLM(), loaded["sdar"].tokenizer)


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("llada2", {"use_qkv_bias": True}, "use_qkv_bias = True"),
        ("llada2", {"score_function": "softmax"}, "score_function"),
        ("llada-moe", {"moe_layer_freq": [0, 1]}, "dense layers"),
        ("llada-moe", {"clip_qkv": 8.0}, "clip_qkv"),
    ],
)
def test_variants_that_are_not_computed_are_refused(family, changes, match, folders, tmp_path) -> None:
    for file in folders[family].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    about = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match=match):
        load_denoiser(tmp_path)


# ------------------------------------------------------------------------ blocks counted from the response


@pytest.fixture(scope="session")
def from_response(folders: dict[str, Path]) -> dict[str, HuggingFaceDenoiser]:
    """With finished blocks kept, and without."""
    place = f"{folders['sdar']}:blocks_from=response"
    return {"kept": load_denoiser(place), "plain": load_denoiser(f"{place},cache=0")}


@pytest.mark.parametrize("length", [11, 8])
def test_logits_with_blocks_from_the_response(length, folders, from_response) -> None:
    denoiser = from_response["plain"]
    for number, prompt in enumerate(PROMPTS):
        tokens = partly_masked(denoiser, prompt, length, number)
        lacks = -(len(tokens) - length) % 4
        whole = torch.cat((tokens, torch.full((-length % 4,), denoiser.mask_id)))
        wanted = block_logits(4, lacks)(folders["sdar"], whole)[: len(tokens)][-length:]
        padded = torch.cat((torch.full((64 - len(tokens),), denoiser.pad_id), tokens))
        for given in (tokens, padded):
            got = denoiser.head(denoiser.features(given[None], length)[0])
            assert torch.allclose(got, wanted, atol=1e-5, rtol=1e-4), (prompt, len(given))


@pytest.mark.parametrize("policy", ["threshold:0.05", "random:2"])
def test_rollouts_with_blocks_from_the_response(policy, loaded, from_response) -> None:
    """Cached as without; as from the prompt where that is whole blocks long, and only there."""
    rules = Rules(16, temperature=0.7)
    kept, plain, usual = (play(one, policy, rules) for one in (*from_response.values(), loaded["sdar"]))
    same(kept, plain)
    same(kept, play(from_response["kept"], policy, rules, batch=1))
    lengths = [len(loaded["sdar"].encode(prompt)) for prompt in PROMPTS]
    whole = [length % 4 == 0 for length in lengths]
    assert 0 < sum(whole) < len(whole)
    for row, is_whole in enumerate(whole):
        assert torch.equal(kept.responses[row], usual.responses[row]) == is_whole
    firsts = kept.revealed_at.view(len(PROMPTS), 4, 4)
    assert bool((firsts[:, :-1].amax(-1) < firsts[:, 1:].amin(-1)).all())  # blocks of the response, one by one


def test_likelihoods_with_blocks_from_the_response(from_response) -> None:
    pair = ([20, 21, 22, 23, 24], [30, 31, 32, 33, 34, 35])
    parts = list(in_blocks(pair, 4, 5))
    assert [list(rest) for _, rest in parts] == [[30, 31, 32, 33], [34, 35]]
    for denoiser in from_response.values():
        ((_, found),) = log_likelihoods(denoiser, [pair], [0], samples=200)
        alone = [value for part in parts for _, value in log_likelihoods(denoiser, [part], [0], samples=200)]
        assert found == pytest.approx(sum(alone), abs=1e-6)


def test_where_blocks_are_counted_from_is_checked(folders) -> None:
    with pytest.raises(UsageError, match="prompt or response, got 'end'"):
        load_denoiser(f"{folders['sdar']}:blocks_from=end")
    with pytest.raises(UsageError, match="attends in no blocks"):
        load_denoiser(f"{folders['llada-moe']}:blocks_from=response")


def test_likelihoods_are_those_of_blocks_behind_what_stands_before_them(loaded) -> None:
    """Few enough tokens in a block for every set of masks: against each block on its own."""
    denoiser, context = loaded["sdar"], [20, 21, 22, 23, 24]
    assert list(in_blocks((context, [30, 31, 32]), 4)) == [(context, [30, 31, 32])]
    pair = (context, [30, 31, 32, 33, 34, 35])
    parts = list(in_blocks(pair, 4))
    assert [list(rest) for _, rest in parts] == [[30, 31, 32], [33, 34, 35]]
    assert list(parts[1][0]) == [*context, 30, 31, 32]
    (found,) = log_likelihoods(denoiser, [pair], [0], samples=200)
    alone = [value for part in parts for _, value in log_likelihoods(denoiser, [part], [0], samples=200)]
    assert found == (0, pytest.approx(sum(alone), abs=1e-6))
    wanted = 0.0
    for before, rest in parts:
        for count, places in ((n, p) for n in (1, 2, 3) for p in combinations(range(3), n)):
            tokens = torch.tensor([*before, *rest])
            tokens[[len(before) + i for i in places]] = denoiser.mask_id
            logits = denoiser.head(denoiser.features(tokens[None], 3)[0])
            logits[:, denoiser.mask_id] = -torch.inf
            each = logits.log_softmax(-1)[torch.arange(3), torch.tensor(rest)]
            wanted += float(each[list(places)].sum()) * 3 / count / 3 / comb(3, count)
    assert found[1] == pytest.approx(wanted, abs=1e-4)


def test_weights_in_few_bits_are_asked_of_transformers(folders, monkeypatch) -> None:
    """bitsandbytes itself is not installed here, so the request alone is looked at."""
    import importlib.util

    from dllm_env.denoisers import checkpoints

    with pytest.raises(UsageError, match="4, 8, or 0"):
        Options(bits=2)
    asked: list[object] = []

    class Kind:
        @classmethod
        def from_pretrained(cls, place: str, **given: object) -> object:
            asked.append(given["quantization_config"])
            raise UsageError("enough")

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name, *more)
    )
    with pytest.raises(UsageError, match="pip install bitsandbytes"):
        load_denoiser(f"{folders['sdar']}:bits=4")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: True if name == "bitsandbytes" else find(name, *more)
    )
    for bits in (4, 8):
        with pytest.raises(UsageError, match="enough"):
            checkpoints._load(Kind, str(folders["sdar"]), Options(bits=bits, device="cpu"), None)
    assert asked[0].load_in_4bit
    assert asked[1].load_in_8bit


def test_loading_shows_no_bars_of_transformers(folders, capfd) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    load_denoiser(folders["sdar"])
    assert "Loading" not in "".join(capfd.readouterr())
    assert logging.is_progress_bar_enabled() == shown

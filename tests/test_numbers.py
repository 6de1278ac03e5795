"""Equal logits, logits that are no numbers, prompts without tokens, padding, and models in training mode."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import Scripted, favouring
from make_checkpoint import make_bert, make_dream, make_llada
from torch import Tensor, nn

import dllm_env
from dllm_env.denoisers.base import Extras, Reading, read_logits
from dllm_env.denoisers.huggingface import HuggingFaceDenoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, padded_length
from dllm_env.env import UnmaskEnv
from dllm_env.errors import LogitsError, UsageError
from dllm_env.eval.likelihood import log_likelihoods
from dllm_env.policies.block_decoder import BlockDecoder as Chooser
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.rules import Rules, View
from dllm_env.tasks.base import Problem
from dllm_env.vector_env import UnmaskVectorEnv


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        name: make(root / name)
        for name, make in (("llada", make_llada), ("dream", make_dream), ("bert", make_bert))
    }


@pytest.fixture(scope="module")
def loaded(folders):
    return {name: load_denoiser(folder) for name, folder in folders.items()}


# ------------------------------------------------------------------------------------------------ ties

TIED = (7, 150, 290)


def tied(length: int = 4, vocabulary: int = 400) -> Tensor:
    table = torch.zeros(length, vocabulary)
    table[:, TIED] = 5.0
    return table


@pytest.mark.parametrize("policy", ["leftmost:4", "margin:4", "entropy:4", "top_k:4", "threshold:0.1", "klass"])
def test_the_token_is_the_lowest_of_equals_whatever_a_policy_reads(policy) -> None:
    result = rollout(Scripted(tied()), load_policy(policy), Rules(4, 4), [[]], [0])
    assert result.responses.tolist() == [[7] * 4]
    chooser = Chooser(policy, mask_id=1, response_length=4)
    choice = chooser(tied()[None], torch.ones(1, 4, dtype=torch.bool))
    assert choice.token.tolist() == [[7] * 4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_of_equal_logits(dtype) -> None:
    for top in (1, 2, 5):
        for extras in (Extras(), Extras(margin=True), Extras(margin=True, entropy=True, log_probability=True)):
            found, _ = read_logits(tied().to(dtype), Reading(400, 1, top, extras))
            assert found.token.tolist() == [7] * 4
            share = torch.exp(torch.tensor(5.0)) / (3 * torch.exp(torch.tensor(5.0)) + 396)
            torch.testing.assert_close(found.confidence[:, 0], share.expand(4))
            assert found.margin is None or found.margin.tolist() == [0.0] * 4


def test_drawn_tokens_are_the_lowest_of_equals() -> None:
    noise = torch.zeros(4, 400)
    noise[:, 150] = noise[:, 290] = noise[:, 5] = 9.0
    noise[:, 5] += 5.0
    found, _ = read_logits(tied(), Reading(400, 1, 2, Extras(margin=True)), noise)
    assert found.token.tolist() == [5] * 4  # 0 + 14 at 5, 5 + 9 at 150 and 290


# --------------------------------------------------------------------------------- logits that are none


class Broken(Scripted):
    """Behind the prompt 4 its logits are broken at position 2, once position 0 is written."""

    def __init__(self, value: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(favouring([3, 3, 3, 3]), 1)
        self.value, self.dtype = value, dtype

    def features(self, tokens: Tensor, last: int) -> Tensor:
        hidden = torch.eye(5)[1:].expand(len(tokens), -1, -1)[:, -last:].clone()
        bad = (tokens[:, -5] == 4) & (tokens[:, -4] != self.mask_id)
        hidden[bad, 2] = torch.eye(5)[0]
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        logits = hidden[:, 1:] @ self.table
        bad = hidden[:, 0] > 0
        if self.value == -torch.inf:
            logits[bad] = -torch.inf
            logits[bad, self.mask_id] = 0.0
        else:
            logits[bad, 5] = self.value
        return logits.to(self.dtype)


BROKEN = [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "all −infinity"), (1e6, "infinite")]


class Prompts:
    """Problem 1 is the broken one."""

    name, prompt_length, response_length = "prompts", 1, 4

    def problem(self, index, split="train", seed=0):
        return Problem(self.name, split, seed, index, "4" if index % 2 else "5", ())

    def score(self, problem, response):
        return 1.0


@pytest.mark.parametrize(("value", "what"), BROKEN)
def test_broken_logits_are_refused_with_step_and_rows(value, what) -> None:
    denoiser = Broken(value, torch.float16 if value == 1e6 else torch.float32)
    prompts = [[5], [4], [5], [4]]
    with pytest.raises(LogitsError, match=f"{what} in step 1 of prompts 1, 3;"):
        rollout(denoiser, load_policy("leftmost:1"), Rules(4, 4), prompts, [0] * 4)
    with pytest.raises(LogitsError, match=f"{what} in step 1 of prompt 3;"):
        rollout(denoiser, load_policy("leftmost:1"), Rules(4, 4), [*prompts[:1] * 3, [4]], [0] * 4, batch_size=1)
    fine = rollout(denoiser, load_policy("leftmost:1"), Rules(4, 4), [[5]], [0])
    assert fine.responses.tolist() == [[3] * 4]
    env = UnmaskEnv(denoiser=denoiser, task=Prompts())
    env.reset(options={"problem": 1})
    with pytest.raises(LogitsError, match=f"{what} in step 1 of row 0;"):
        env.step(np.array([1, 0, 0, 0]))
    envs = UnmaskVectorEnv(3, denoiser=denoiser, task=Prompts())
    envs.reset(options={"problem": [0, 0, 1]})
    with pytest.raises(LogitsError, match=f"{what} in step 1 of row 2;"):
        envs.step(np.array([[1, 0, 0, 0]] * 3))


@pytest.mark.parametrize(("value", "what"), BROKEN[:3])
def test_broken_logits_in_plugins_and_likelihoods(value, what) -> None:
    logits = favouring([3, 3, 3, 3]).expand(2, -1, -1).clone()
    if value == -torch.inf:
        logits[1] = -torch.inf
    else:
        logits[1, 2, 0] = value
    chooser = Chooser("entropy_bound:0.1", mask_id=1, response_length=4)
    with pytest.raises(LogitsError, match=f"{what} in step 0 of row request;"):
        chooser(logits, torch.ones(2, 4, dtype=torch.bool), ["other", "request"])
    pairs = [([5], [3, 3, 3, 3]), ([4], [3, 3, 3, 3])]
    with pytest.raises(LogitsError, match=f"{what} in text 1;"):
        list(log_likelihoods(Broken(value), pairs, [0, 0]))
    assert len(list(log_likelihoods(Broken(value), pairs[:1], [0]))) == 1


def test_a_token_that_is_ruled_out_is_no_broken_one() -> None:
    class RulesOut(Scripted):
        def head(self, hidden: Tensor) -> Tensor:
            logits = super().head(hidden)
            logits[:, 0] = -torch.inf
            return logits

    denoiser = RulesOut(favouring([3, 3, 3, 3]))
    result = rollout(denoiser, load_policy("entropy:2"), Rules(4, 4), [[]], [0])
    assert result.responses.tolist() == [[3] * 4]


# --------------------------------------------------------------------------- prompts without tokens, padding


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_a_prompt_without_tokens_among_others(family, cache, loaded) -> None:
    denoiser = loaded[family]
    if cache and not denoiser.caches_prefix:
        pytest.skip("no prefix cache")
    rules = Rules(8, 4, prefix_cache=cache)
    alone, padded = Dynamics(denoiser, rules, 0, View("block")), Dynamics(denoiser, rules, 6, View("block"))
    one, many = alone.reset([[]], [0]), padded.reset([[], [20, 21, 22], [23] * 6], [0, 1, 2])
    for _ in range(8):
        alone.predict(one)
        padded.predict(many)
        torch.testing.assert_close(
            one.prediction.confidence[0], many.prediction.confidence[0], rtol=1e-4, atol=1e-6
        )
        assert torch.equal(one.prediction.token[0], many.prediction.token[0])
        first = one.masked[0].int().argmax() % 4
        action = torch.zeros(3, 4, dtype=torch.bool)
        action[0, first] = action[1:, 0] = True
        alone.apply(one, action[:1])
        padded.apply(many, action)
    assert alone.terminated(one).all()


def test_padding_follows_from_a_prompt_alone(loaded, toy) -> None:
    llada = loaded["llada"]
    assert [padded_length(llada, n, 16) for n in (0, 1, 32, 33)] == [0, 32, 32, 64]
    assert [padded_length(llada, n, 16, 40) for n in (0, 33, 41, 65)] == [40, 64, 64, 96]
    assert padded_length(toy, 100, 28) == 100  # as much as fits
    assert padded_length(toy, 90, 28) == 96
    assert padded_length(toy, 101, 28) == 101  # does not fit, which Dynamics says


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_batch_size_and_neighbours_change_nothing(family, dtype, folders) -> None:
    denoiser = load_denoiser(f"{folders[family]}:dtype={dtype},chat=0")
    words = ["a 6 b +2", "a 1", "g 3 h -2 i *7 j *3 k +1 l *3 " * 3, "h 1 " * 12, "k 2"]
    prompts = [*(denoiser.encode(text) for text in words), []]
    seeds, rules = row_seeds(len(prompts), "x"), Rules(8, 8, temperature=0.5)

    def play(some: list[int], batch: int):
        ids, own = [prompts[i] for i in some], [seeds[i] for i in some]
        return rollout(denoiser, load_policy("threshold:0.3"), rules, ids, own, batch_size=batch, record=True)

    together = play(list(range(6)), 6)
    assert sorted(together.trajectories.row.unique().tolist()) == list(range(6))
    assert together.finished.all()
    for batch in (1, 4):
        assert torch.equal(play(list(range(6)), batch).sureness, together.sureness)
    for i in range(6):
        alone = play([i], 1)
        assert torch.equal(alone.responses[0], together.responses[i])
        assert torch.equal(alone.sureness[0], together.sureness[i])


class CannotPad(nn.Module):
    """Attends to everything, padding too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 40)
        self.config = type("Config", (), {"vocab_size": 40, "mask_token_id": 39})()

    def forward(self, input_ids: Tensor, **_: object) -> object:
        x = self.embedding(input_ids)
        return type("Output", (), {"logits": x + x.mean(1, keepdim=True)})()


def test_prompts_of_several_lengths_for_a_model_that_cannot_pad(loaded) -> None:
    denoiser = HuggingFaceDenoiser(CannotPad(), loaded["bert"].tokenizer)
    assert not denoiser.pads
    prompts = [[5, 6, 7], [8], [5, 6, 7], []]
    together = rollout(denoiser, load_policy("leftmost:2"), Rules(4, 4), prompts, [0] * 4, prompt_length=9)
    for i, prompt in enumerate(prompts):
        alone = rollout(denoiser, load_policy("leftmost:2"), Rules(4, 4), [prompt], [0])
        assert torch.equal(alone.responses[0], together.responses[i])
    assert torch.equal(together.responses[0], together.responses[2])


# --------------------------------------------------------------------------------------- training mode


class Dropping(CannotPad):
    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
        self.broken = broken

    def forward(self, input_ids: Tensor, **rest: object) -> object:
        if self.broken and input_ids.shape[1] > 8:
            raise RuntimeError("broken")
        out = super().forward(input_ids)
        out.logits = self.inner(out.logits)
        return out


def test_a_model_in_training_mode_is_evaluated_and_left_in_it(loaded) -> None:
    model = Dropping()
    modes = {"inner.0": False, "embedding": False}
    model.train()
    for name, mode in modes.items():
        model.get_submodule(name).training = mode
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    tokenizer = loaded["bert"].tokenizer

    def texts(some: nn.Module) -> list[list[int]]:
        return dllm_env.generate(some, tokenizer, ["a 6", "b 7"], "leftmost:1", 8, 8).rollout.responses.tolist()

    first = texts(model)
    assert first == texts(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    model.eval()
    assert first == texts(model)
    assert not any(module.training for module in model.modules())
    broken = Dropping(broken=True).train()
    with pytest.raises(RuntimeError, match="broken"):
        texts(broken)
    assert all(module.training for module in broken.modules())


def test_transformers_models_in_training_mode(folders) -> None:
    for family in ("llada", "bert"):
        quiet, noisy = load_denoiser(folders[family]), load_denoiser(folders[family])
        noisy.model.train()
        for module in noisy.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        tokens = torch.tensor([[20, 21, noisy.mask_id, noisy.mask_id]])
        needed = torch.tensor([[True, True]])
        one, other = (d.predict(tokens, needed) for d in (quiet, noisy))
        assert torch.equal(one.confidence, other.confidence)
        assert noisy.model.training


# ------------------------------------------------------------------------------------------ plain text


SPECIALS = (
    "<|mask|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|mdm_mask|>",
    "<|eot_id|>",
    "[MASK]",
    "[SEP]",
)


@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_a_prompt_is_plain_text(family, loaded, folders) -> None:
    denoiser = loaded[family]
    tokenizer = denoiser.tokenizer
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}
    plain = load_denoiser(f"{folders[family]}:chat=0")
    for word in (*SPECIALS, "<|im_end|>\n<|im_start|>user", "a <|mask|><|mask|> b", "<|im_<|im_end|>end|>"):
        text = f"a 6 {word} b"
        ordinary, ids = denoiser.encode("a 6 b"), denoiser.encode(text)
        assert [i for i in ids if i in special] == [i for i in ordinary if i in special]  # the template's own
        assert plain.encode(text) == tokenizer(text, split_special_tokens=True)["input_ids"]
        if family != "bert":
            assert text in denoiser.decode(ids)
        if denoiser.chat:
            said = [{"role": "user", "content": text}, {"role": "assistant", "content": word}]
            ids = denoiser.plain_text.conversation(said)
            again = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            expected = denoiser.plain_text.conversation(again)
            assert [i for i in ids if i in special] == [i for i in expected if i in special]
    said = [{"role": "user", "content": "a 6 b"}]
    if denoiser.chat:
        theirs = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert denoiser.encode("a 6 b") == list(theirs)


class Old:
    """A tokenizer that knows no ``split_special_tokens``."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, text, add_special_tokens=True):
        return self.tokenizer(text, add_special_tokens=add_special_tokens)


def test_a_tokenizer_that_cannot_leave_special_tokens_alone(loaded) -> None:
    from dllm_env.denoisers.plain_text import PlainText

    dream, bert = loaded["dream"], loaded["bert"]
    ids = PlainText(Old(dream.tokenizer)).encode("a <|mask|> b<|im_end|>")
    assert dream.decode(ids) == "a <|mask|> b<|im_end|>"
    assert not set(ids) & {dream.mask_id, *dream.end_ids}
    ids = PlainText(Old(bert.tokenizer)).encode("a [MASK] b")
    assert bert.mask_id not in ids
    assert (ids[0], ids[-1]) == (bert.tokenizer.cls_token_id, bert.tokenizer.sep_token_id)


def test_special_words_of_the_bundled_denoiser_are_unknown_words(toy) -> None:
    for word in ("<mask>", "<eot>", "<pad>"):
        with pytest.raises(UsageError, match=re.escape(f"does not know the word {word!r}")):
            toy.encode(f"a {word}")


def test_tasks_of_the_harness_are_plain_text(loaded) -> None:
    pytest.importorskip("lm_eval")
    from dllm_env.eval.harness_prompts import Prompts

    llada = loaded["llada"]
    special = {i for i, token in llada.tokenizer.added_tokens_decoder.items() if token.special}
    prompts = Prompts(llada)
    assert not special & set(prompts.context("<|startoftext|>a <|mdm_mask|>"))
    assert not special & set(prompts.pair("a <|eot_id|>", " <|mdm_mask|> b")[1])
    text = prompts.render([{"role": "user", "content": "a 6 <|eot_id|><|mdm_mask|>"}])
    expected = [i for i in llada.encode("a 6") if i in special]
    assert [i for i in prompts.context(text) if i in special] == expected
    assert prompts.context(text) == llada.encode("a 6 <|eot_id|><|mdm_mask|>")
    context, rest = prompts.pair(text, " <|mdm_mask|> b")
    assert [i for i in context + rest if i in special] == expected
    assert not special & set(next(iter(prompts.windows("a <|eot_id|> b")))[1])


# -------------------------------------------------------------------------------------------- generate


def test_one_conversation_given_directly(loaded) -> None:
    dream = loaded["dream"]
    said = [{"role": "user", "content": "a 6"}]
    settings = ("threshold:0.3", 8, 8)
    one = dllm_env.generate(dream.model, dream.tokenizer, said, *settings)
    for same in ([said], (said,), tuple(said), "a 6", ["a 6"], [tuple(said)], np.array(["a 6"])):
        assert dllm_env.generate(dream.model, dream.tokenizer, same, *settings).texts == one.texts
    with pytest.raises(UsageError, match="chat template"):
        dllm_env.generate(loaded["bert"].model, loaded["bert"].tokenizer, said, *settings)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([1, 2, 3], "got int 1"),
        ([[1, 2, 3]], "token ids"),
        (torch.tensor([[1, 2]]), "got Tensor"),
        (None, "got NoneType None"),
        (7, "got int 7"),
        (b"a", "got bytes"),
        ([b"a"], "got bytes"),
        ([None], "got NoneType"),
        ({"role": "user", "content": "a"}, "lists of messages"),
        ([], "at least one prompt"),
        ([[]], "got list"),
        ([["a 6"]], "list of texts in it"),
        ([{"role": "user"}], "a role and a content"),
        ([{"content": "a"}], "a role and a content"),
        ([{"role": "user", "content": None}], "a role and a content"),
        ([{"role": 1, "content": "a"}], "a role and a content"),
        (["a", [{"role": "user"}]], "a role and a content"),
        ([{"role": "user", "content": "a"}, "b"], "list of texts in it"),
    ],
)
def test_prompts_that_are_none(prompts, message, toy) -> None:
    with pytest.raises(UsageError, match=message):
        dllm_env.generate(toy, None, prompts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_length": "8"}, "gen_length must be a whole number, got str '8'"),
        ({"gen_length": 8.0}, "gen_length must be a whole number"),
        ({"gen_length": True}, "gen_length must be a whole number"),
        ({"gen_length": None}, "gen_length must be a whole number"),
        ({"gen_length": -8}, "at least 1"),
        ({"block_length": "8"}, "block_length must be a whole number"),
        ({"block_length": -1}, "block_length must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"batch_size": 0}, "batch size"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"temperature": "1"}, "temperature must be a number"),
        ({"temperature": float("nan")}, "temperature"),
        ({"stop_at_eot": 1}, "stop_at_eot must be"),
        ({"policy": None}, "policy must be a text"),
        ({"model": None}, "a loaded model"),
        ({"model": "tiny"}, "a loaded model"),
    ],
)
def test_settings_that_are_none(settings, message, toy) -> None:
    given = {"model": toy, "tokenizer": None, "prompts": "a 6", "gen_length": 8, "block_length": 8, **settings}
    with pytest.raises(UsageError, match=message):
        dllm_env.generate(**given)


def test_whole_numbers_of_other_libraries(toy) -> None:
    plain = dllm_env.generate(toy, None, "a 6", "leftmost:1", 8, 8)
    assert (
        dllm_env.generate(toy, None, "a 6", "leftmost:1", np.int64(8), np.int32(8), seed=np.int64(0)).texts
        == plain.texts
    )

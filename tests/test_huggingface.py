"""Checkpoints of published families, made small by ``checkpoints``, loaded as a user loads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import bert_logits, llada_logits, load_all, qwen_logits, read
from make_checkpoint import (
    LLADA_8B,
    SDAR_1_7B,
    Size,
    make_a2d,
    make_bert,
    make_dream,
    make_llada,
    make_llada_8b,
    make_sdar_1_7b,
    shards,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dllm_env
import dllm_env.denoisers.base
from dllm_env.cli import main
from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.huggingface import HuggingFaceDenoiser, Options
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics
from dllm_env.errors import UsageError
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import RowRandom
from dllm_env.rules import Rules, View

Logits = Callable[[Path, Tensor], Tensor]
FAMILIES: dict[str, tuple[Callable[[Path], Path], Logits]] = {
    "llada": (make_llada, llada_logits),
    "dream": (make_dream, qwen_logits),
    "a2d": (make_a2d, qwen_logits),
    "bert": (make_bert, bert_logits),
}
PROMPTS = ("a 6 b +2 c -2", "a 1", "g 3 h -2 i *7 j *3 k +1 l *3")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: make(root / family) for family, (make, _) in FAMILIES.items()}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, HuggingFaceDenoiser]:
    return load_all(folders)


def partly_masked(denoiser: HuggingFaceDenoiser, prompt: str, length: int = 8) -> tuple[Tensor, Tensor]:
    """(1, P+L) tokens and (1, L) what is masked."""
    ids = denoiser.encode(prompt)
    masked = torch.tensor([[True, False, True, True, False, True, True, True]])[:, :length]
    response = torch.where(masked, denoiser.mask_id, torch.arange(30, 30 + length))
    return torch.cat((torch.tensor([ids]), response), -1), masked


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_predictions_are_those_of_the_published_network(family, prompt, folders, loaded) -> None:
    denoiser = loaded[family]
    tokens, masked = partly_masked(denoiser, prompt)
    logits = FAMILIES[family][1](folders[family], tokens[0])
    if family == "dream":  # position i predicts token i + 1
        logits = torch.cat((logits[:1], logits[:-1]))
    logits = logits[-8:][masked[0]]
    logits[:, denoiser.mask_id] = -torch.inf
    expected = logits.softmax(-1)
    got = denoiser.predict(tokens, masked, 3, extras=Extras(entropy=True, log_probability=True))
    assert torch.equal(got.token[masked], expected.argmax(-1))
    torch.testing.assert_close(got.confidence[masked], expected.topk(3).values, rtol=1e-4, atol=1e-6)
    assert got.log_probability is not None
    assert got.entropy is not None
    torch.testing.assert_close(got.log_probability[masked].exp(), expected, rtol=1e-4, atol=1e-6)
    entropy = -(expected * expected.clamp(min=1e-30).log()).sum(-1)
    torch.testing.assert_close(got.entropy[masked], entropy, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_padding_and_neighbours(family, loaded) -> None:
    denoiser = loaded[family]
    assert denoiser.pads
    rows = [partly_masked(denoiser, prompt) for prompt in PROMPTS]
    width = max(tokens.shape[1] for tokens, _ in rows)
    padded = [
        torch.cat((torch.full((1, width - tokens.shape[1]), denoiser.pad_id), tokens), -1) for tokens, _ in rows
    ]
    together = denoiser.predict(torch.cat(padded), torch.cat([masked for _, masked in rows]), 2)
    for i, (tokens, masked) in enumerate(rows):
        alone = denoiser.predict(tokens, masked, 2)
        assert torch.equal(alone.token[0], together.token[i])
        torch.testing.assert_close(alone.confidence[0], together.confidence[i], rtol=1e-4, atol=1e-6)


def test_an_end_of_text_in_the_response_is_no_padding(loaded) -> None:
    denoiser = loaded["llada"]  # it pads with its end-of-text
    tokens, masked = partly_masked(denoiser, PROMPTS[0])
    ended = tokens.clone()
    ended[0, -7] = denoiser.eot_id
    assert not torch.equal(denoiser.predict(tokens, masked).confidence, denoiser.predict(ended, masked).confidence)
    assert denoiser.features(ended, 8).shape == (1, 8, denoiser.hidden_size)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_without_a_prompt(family, folders, loaded) -> None:
    denoiser = loaded[family]
    tokens = torch.full((1, 4), denoiser.mask_id)
    logits = FAMILIES[family][1](folders[family], tokens[0])
    logits = torch.cat((logits[:1], logits[:-1])) if family == "dream" else logits
    logits[:, denoiser.mask_id] = -torch.inf
    assert torch.equal(denoiser.predict(tokens, tokens == denoiser.mask_id).token[0], logits.argmax(-1))


def test_special_tokens_and_templates(loaded, folders) -> None:
    llada, dream, a2d, bert = (loaded[family] for family in FAMILIES)
    assert llada.decode([llada.mask_id, llada.eot_id]) == "<|mdm_mask|><|endoftext|>"
    assert (llada.shift, dream.shift, a2d.shift, bert.shift) == (False, True, False, False)
    assert llada.decode(llada.encode("a 6")) == "<|startoftext|>user\n\na 6<|eot_id|>assistant\n\n"
    assert dream.decode(dream.encode("a 6")) == "<|im_start|>user\na 6<|im_end|>\n<|im_start|>assistant\n"
    assert bert.decode(bert.encode("a 6")) == "[CLS] a 6 [SEP]"
    plain = load_denoiser(f"{folders['llada']}:chat=0")
    assert plain.decode(plain.encode("a 6")) == "a 6"
    assert plain.name == f"{folders['llada']}:chat=0"


@pytest.mark.parametrize(
    ("family", "end"), [("llada", "<|eot_id|>"), ("dream", "<|im_end|>"), ("a2d", "<|im_end|>")]
)
def test_a_response_ends_at_the_end_of_a_turn_too(family, end, loaded) -> None:
    denoiser = loaded[family]
    (end_id,) = denoiser.tokenizer(end)["input_ids"]
    said = denoiser.tokenizer("h 1 ; b 8")["input_ids"]
    assert denoiser.response_text([*said, end_id, *said]) == "h 1 ; b 8"
    assert denoiser.response_text([*said, denoiser.mask_id, denoiser.eot_id, *said]) == "h 1 ; b 8"
    # The dynamics know it, too: a row may stop there.
    dynamics = Dynamics(denoiser, Rules(4, 4, stop_at_eot=True), 3)
    state = dynamics.reset([[1, 2, 3]], [0])
    dynamics.predict(state)
    state.prediction.token[0, 0] = end_id
    dynamics.apply(state, torch.tensor([[True, False, False, False]]))
    assert dynamics.terminated(state).tolist() == [True]


def test_the_model_is_left_as_it_is(folders) -> None:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

    folder = folders["dream"]
    model = Qwen2ForCausalLM.from_pretrained(folder, config=_qwen2(folder)).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        denoiser = HuggingFaceDenoiser(model, Qwen2Tokenizer.from_pretrained(folder), options=Options(shift=1))
        denoiser.features(ids, 2)
        assert torch.equal(model(input_ids=ids).logits, before)
        other = model(input_ids=torch.tensor([[5, 6, 7, 9]])).logits
    assert torch.equal(other[:, :3], before[:, :3])  # causal still


def _qwen2(folder: Path):
    from transformers import Qwen2Config

    raw = json.loads((folder / "config.json").read_text())
    return Qwen2Config(**{k: v for k, v in raw.items() if k not in ("model_type", "auto_map", "architectures")})


class Answers(nn.Module):
    """A model of nobody's library: it answers with logits, looking at all of its input or at the past only."""

    def __init__(self, causal: bool, masks: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(
            300, 300, _weight=torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
        )
        self.causal, self.masks = causal, masks

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None):
        from types import SimpleNamespace

        x = self.embedding(input_ids)
        if attention_mask is not None and self.masks:
            x = x * attention_mask[..., None]
        mixed = x.cumsum(1) if self.causal else x.sum(1, keepdim=True).expand_as(x)
        return SimpleNamespace(logits=mixed)


def test_any_model_that_answers_with_logits(folders, loaded) -> None:
    tokenizer = loaded["a2d"].tokenizer
    options = Options(mask=loaded["a2d"].mask_id)
    model = Answers(causal=False)
    model.config = _Config()
    denoiser = HuggingFaceDenoiser(model, tokenizer, "mine", options)
    tokens = torch.tensor([[3, 4, denoiser.mask_id, denoiser.mask_id]])
    logits = model(tokens).logits[0, -2:].detach().clone()
    logits[:, denoiser.mask_id] = -torch.inf
    got = denoiser.predict(tokens, tokens[:, 2:] == denoiser.mask_id)
    assert torch.equal(got.token[0], logits.argmax(-1))
    assert denoiser.hidden_size == 0
    causal = Answers(causal=True)
    causal.config = _Config()
    with pytest.raises(UsageError, match="attends to the left only"):
        HuggingFaceDenoiser(causal, tokenizer, "mine", options)
    careless = Answers(causal=False, masks=False)
    careless.config = _Config()
    denoiser = HuggingFaceDenoiser(careless, tokenizer, "mine", options)
    with pytest.raises(UsageError, match="cannot pad prompts"):
        denoiser.features(torch.tensor([[denoiser.pad_id, 3, 4, 5]]), 2)


class _Config:
    vocab_size = 300


DECODERS = ("llama", "qwen2", "qwen3", "gpt2", "mistral")
ENCODERS = ("bert", "roberta", "distilbert", "modernbert", "electra")


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_other_families_of_transformers(family, folders, tmp_path) -> None:
    """Against the model's own forward pass: unpadded, and for decoders with a mask of zeros."""
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4} if family == "gpt2" else shape
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64} if family == "distilbert" else shape
    if family in ("qwen2", "qwen3", "mistral"):
        shape |= {"num_key_value_heads": 2, "head_dim": 8}
    config = transformers.CONFIG_MAPPING[family](vocab_size=300, pad_token_id=1, initializer_range=0.3, **shape)
    kind = transformers.AutoModelForCausalLM if family in DECODERS else transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    model = kind.from_config(config).eval()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["a2d"] / name).read_bytes())
    denoiser = load_denoiser(f"{tmp_path}:chat=0")
    assert denoiser.pads
    tokens, masked = partly_masked(denoiser, PROMPTS[0])
    zeros = {"attention_mask": torch.zeros(1, 1, *[tokens.shape[1]] * 2)} if family in DECODERS else {}
    with torch.no_grad():
        logits = model(input_ids=tokens, **zeros).logits[0, -8:][masked[0]]
    logits[:, denoiser.mask_id] = -torch.inf
    padded = torch.cat((torch.full((1, 5), denoiser.pad_id), tokens), -1)
    for shown in (tokens, padded):
        got = denoiser.predict(shown, masked, 2)
        assert torch.equal(got.token[masked], logits.argmax(-1))
        expected = logits.softmax(-1).topk(2).values
        torch.testing.assert_close(got.confidence[masked], expected, rtol=1e-3, atol=1e-6)


# ------------------------------------------------------------------------------------------ one call


def test_generating_with_a_model_that_is_loaded_already(folders, loaded) -> None:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

    folder = folders["dream"]
    model = Qwen2ForCausalLM.from_pretrained(folder, config=_qwen2(folder)).eval()
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    said = [*PROMPTS, [{"role": "user", "content": PROMPTS[0]}]]
    answer = dllm_env.generate(model, tokenizer, said, "threshold:0.3", 16, 8, options=Options(shift=1))
    assert answer.rollout.finished.all()
    assert answer.texts[0] == answer.texts[3]
    assert answer.nfe[0] == answer.nfe[3] <= 16
    one = dllm_env.generate(loaded["dream"], None, PROMPTS[1], "threshold:0.3", 16, 8)
    assert (one.texts, one.nfe) == (answer.texts[1:2], answer.nfe[1:2])
    llada = loaded["llada"]  # its model alone still knows its mask token
    again = dllm_env.generate(llada.model, llada.tokenizer, PROMPTS[1], "threshold:0.3", 16, 8)
    assert again.texts == dllm_env.generate(llada, None, PROMPTS[1], "threshold:0.3", 16, 8).texts
    for words, message in (([], "at least one prompt"), ([[{"role": "user", "content": "a"}]], "chat template")):
        with pytest.raises(UsageError, match=message):
            dllm_env.generate(loaded["dream"], None, words)
    with pytest.raises(UsageError, match="tokenizer"):
        dllm_env.generate(model, None, "a")
    with pytest.raises(UsageError, match="divide"):
        dllm_env.generate(loaded["dream"], None, "a", gen_length=10, block_length=4)


# ------------------------------------------------------------------------------- pieces, noise, memory


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_pieces_of_the_vocabulary_change_nothing(temperature, loaded, monkeypatch) -> None:
    denoiser = loaded["llada"]
    tokens, masked = partly_masked(denoiser, PROMPTS[0])
    tokens, masked = tokens.repeat(5, 1), masked.repeat(5, 1)

    def look() -> dllm_env.denoisers.base.Prediction:
        random = RowRandom.from_seeds(list(range(5)), "tokens")
        extras = Extras(entropy=True, margin=True, hidden=True, log_probability=True)
        found = denoiser.predict(tokens, masked, 2, temperature, random, extras)
        assert random.counters.tolist() == [8 * denoiser.vocabulary * (temperature > 0)] * 5
        return found

    whole = look()
    sizes: list[int] = []
    head = denoiser.parts.head

    def counted(hidden: Tensor) -> Tensor:
        sizes.append(len(hidden))
        return head(hidden)

    monkeypatch.setattr(denoiser.parts, "head", counted)
    monkeypatch.setattr(dllm_env.denoisers.base, "LOGITS_AT_ONCE", 17 * denoiser.vocabulary)
    for one, other in zip(whole.values(), look().values(), strict=True):
        if one is not None:  # tiles of another size may differ in the last bit
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    assert set(sizes) == {17}  # 30 positions in tiles of 17, the last one filled up: never (B, L, V)


# -------------------------------------------------------------------------------------------- rollouts


def play(denoiser, policy: str, block: int, prompts: list[str], **more):
    rules = Rules(16, block, **more.pop("rules", {}))
    return rollout(
        denoiser,
        load_policy(policy),
        rules,
        [denoiser.encode(prompt) for prompt in prompts],
        row_seeds(len(prompts), "hf"),
        prompt_length=60,
        **more,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_of_rows_alone_and_together(family, loaded) -> None:
    denoiser = loaded[family]
    prompts = [*PROMPTS, "h 1", "k 2 l -1"]
    together = play(denoiser, "threshold:0.3", 8, prompts, batch_size=2)
    assert together.finished.all()
    for i, prompt in enumerate(prompts):
        rules = Rules(16, 8)
        seeds = [row_seeds(len(prompts), "hf")[i]]
        alone = rollout(
            denoiser, load_policy("threshold:0.3"), rules, [denoiser.encode(prompt)], seeds, prompt_length=60
        )
        assert torch.equal(alone.responses[0], together.responses[i])
        assert alone.nfe[0] == together.nfe[i]


# ---------------------------------------------------------------------------------------- prefix cache


def test_the_prefix_cache_is_exact_where_nothing_before_a_block_looks_ahead(tmp_path) -> None:
    """With one layer keys and values follow from a token alone, so that reusing them must change nothing."""
    denoiser = load_denoiser(make_llada(tmp_path / "one", layers=1))
    prompts = [*PROMPTS, "h 1", "k 2 l -1"]
    for policy in ("threshold:0.3", "random:2"):
        plain = play(denoiser, policy, 4, prompts, batch_size=2)
        cached = play(denoiser, policy, 4, prompts, batch_size=2, rules={"prefix_cache": True})
        assert torch.equal(plain.responses, cached.responses), policy
        assert torch.equal(plain.nfe, cached.nfe)


@pytest.mark.parametrize("family", ["llada", "dream", "a2d"])
def test_the_prefix_cache_is_exact_in_the_first_step_of_each_block(family, loaded, monkeypatch) -> None:
    denoiser = loaded[family]
    prompts = [denoiser.encode(prompt) for prompt in PROMPTS]
    dynamics = Dynamics(denoiser, Rules(8, 4, prefix_cache=True), 60, View("block"))
    state = dynamics.reset(prompts, [0, 1, 2])
    # Row 1 is a step behind, so that the rows' blocks begin at different times.
    seen = {"first": 0, "later": 0}
    previous = torch.full((3,), -1)
    while not dynamics.terminated(state).all():
        dynamics.predict(state)
        start = dynamics.block_start(state)
        exact = denoiser.predict(state.tokens, dynamics.selectable(state))
        for row in range(3):
            if dynamics.terminated(state)[row]:
                continue
            window = slice(int(start[row]), int(start[row]) + 4)
            got, expected = state.prediction.confidence[row], exact.confidence[row, window]
            if start[row] != previous[row]:
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
                assert torch.equal(state.prediction.token[row], exact.token[row, window])
                seen["first"] += 1
            else:
                seen["later"] += int(not torch.allclose(got, expected, rtol=1e-4, atol=1e-6))
        previous = start
        best = state.prediction.confidence[..., 0].argmax(-1)
        action = torch.zeros(3, 4, dtype=torch.bool)
        action[torch.arange(3), best] = True
        action[1] &= bool(state.step[0] > 0)
        dynamics.apply(state, action)
    assert seen["first"] == 6
    assert seen["later"] > 0  # it is an approximation, and this test can tell


def test_the_prefix_cache_evaluates_the_active_block_on_only(loaded, monkeypatch) -> None:
    denoiser = loaded["llada"]
    widths: list[int] = []
    run = denoiser.parts.run

    def counted(ids: Tensor, **inputs) -> Tensor:
        widths.append(ids.shape[1])
        return run(ids, **inputs)

    monkeypatch.setattr(denoiser.parts, "run", counted)
    play(denoiser, "leftmost:2", 4, [PROMPTS[0]], rules={"prefix_cache": True})
    whole = 60 + 16
    assert widths == [whole, 16, whole, 12, whole, 8, whole, 4]


@pytest.mark.parametrize("family", ["llada", "dream", "a2d"])
def test_attention_implementations_agree(family, folders, loaded) -> None:
    eager = load_denoiser(f"{folders[family]}:attention=eager")
    for cached in (False, True):
        rules = {"prefix_cache": cached}
        one, other = (play(d, "leftmost:2", 4, list(PROMPTS), rules=rules) for d in (loaded[family], eager))
        assert torch.equal(one.responses, other.responses)


def test_who_has_no_prefix_cache_says_so(loaded) -> None:
    for denoiser in (loaded["bert"], load_denoiser("tiny")):
        with pytest.raises(UsageError, match="has no prefix cache"):
            Dynamics(denoiser, Rules(8, 4, prefix_cache=True), 4)


# ------------------------------------------------------------------------------------------- bad input


def changed(folder: Path, tmp_path: Path, drop: tuple[str, ...] = (), **changes) -> Path:
    """A copy with another config.json."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in drop}))
    return copy


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"model_type": "diffusion_gemma"}, (), "DiffusionGemma"),
        ({"model_type": "nobody", "auto_map": {"AutoModel": "a.B"}}, (), "trust_remote_code=1"),
        ({"architectures": ["LLaDAMoEModelLM"]}, (), "LLaDA-MoE's config.json has no expert_intermediate_size"),
        ({"architectures": ["LLaDA2MoeModelLM"]}, (), "LLaDA2's config.json has no num_attention_heads"),
        ({"architectures": ["Lfm2ForBlockDiffusion"]}, (), "is LFM2 for block diffusion: .* block by block"),
        ({"model_type": "nobody", "auto_map": {}}, (), "neither this package nor transformers"),
        ({"model_type": "vit"}, (), "no language model"),
        ({"block_type": "sequential"}, (), "block_type = 'sequential'"),
        ({"alibi": True}, (), "alibi"),
        ({}, ("d_model",), "d_model"),
        ({}, ("mask_token_id",), "mask=ID"),
        ({"n_layers": 3}, (), "missing keys"),
        ({"mlp_hidden_size": 80}, (), "ff_|mlp|mismatch|shape"),
    ],
)
def test_what_cannot_be_used_is_refused(changes, drop, message, folders, tmp_path) -> None:
    folder = changed(folders["llada"], tmp_path, drop, **changes)
    with pytest.raises(UsageError, match=message):
        load_denoiser(folder)


def test_block_diffusion_conversions_are_told_by_their_name(folders, tmp_path) -> None:
    copy = changed(folders["a2d"], tmp_path)
    assert load_denoiser(copy).attention_block == 0
    named = copy.rename(tmp_path / "Qwen3-0.6B-diffusion-bd3lm-v0.1")
    assert load_denoiser(named).attention_block == 32


def test_damaged_files(folders, tmp_path) -> None:
    folder = changed(folders["llada"], tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot load the denoiser"):
        load_denoiser(folder)
    shard.unlink()
    with pytest.raises(UsageError, match="cannot load the denoiser"):
        load_denoiser(folder)


def test_a_pickle_is_not_read(folders, tmp_path) -> None:
    folder = changed(folders["llada"], tmp_path)
    weights = read(folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        load_denoiser(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("colour=red", "no setting 'colour'"),
        ("dtype=int3", "unknown dtype"),
        ("chat=maybe", "true or false"),
    ],
)
def test_wrong_settings(settings, message, folders) -> None:
    with pytest.raises(UsageError, match=message):
        load_denoiser(f"{folders['llada']}:{settings}")


def test_the_bundled_denoiser_has_a_device_alone() -> None:
    with pytest.raises(UsageError, match="no setting 'dtype'; it has device"):
        load_denoiser("tiny:dtype=float32")
    with pytest.raises(UsageError, match="unknown denoiser"):
        load_denoiser("nothing-here")


CODE = """
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
import torch
class ToyConfig(PretrainedConfig):
    model_type = "toy_of_a_stranger"
class ToyModel(PreTrainedModel):
    config_class = ToyConfig
    def __init__(self, config):
        super().__init__(config)
        self.embedding = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()
    def forward(self, input_ids, attention_mask=None, **kwargs):
        x = self.embedding(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        return CausalLMOutput(logits=x.sum(1, keepdim=True).expand_as(x).contiguous())
"""


def test_code_of_a_checkpoint_runs_only_when_told_to(folders, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = changed(folders["a2d"], tmp_path)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    homes = {"AutoConfig": "toy.ToyConfig", "AutoModel": "toy.ToyModel"}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "toy_of_a_stranger", "vocab_size": size, "auto_map": homes})
    )
    (folder / "toy.py").write_text(CODE)
    save_file({"embedding.weight": torch.randn(size, size)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="trust_remote_code=1"):
        load_denoiser(folder)
    with pytest.warns(UserWarning, match="running the Python code"):
        denoiser = load_denoiser(f"{folder}:trust_remote_code=1")
    weight = load_file(folder / "model.safetensors")["embedding.weight"]
    tokens = torch.tensor([[3, 4, denoiser.mask_id]])
    logits = weight[tokens[0]].sum(0)
    logits[denoiser.mask_id] = -torch.inf
    assert denoiser.predict(tokens, torch.tensor([[True]])).token.item() == logits.argmax().item()


def test_fingerprints_tell_weights_and_settings_apart(folders, loaded, tmp_path) -> None:
    first = loaded["llada"].fingerprint()
    assert load_denoiser(folders["llada"]).fingerprint() == first
    assert load_denoiser(f"{folders['llada']}:chat=0").fingerprint() != first
    folder = changed(folders["llada"], tmp_path)
    weights = read(folder)
    weights["model.transformer.blocks.1.up_proj.weight"] *= 1.01
    shards(folder, weights)
    assert load_denoiser(folder).fingerprint() != first


def test_half_precision(folders) -> None:
    denoiser = load_denoiser(f"{folders['llada']}:dtype=bfloat16")
    tokens, masked = partly_masked(denoiser, PROMPTS[0])
    found = denoiser.predict(tokens, masked, 2, extras=Extras(hidden=True))
    exact = load_denoiser(folders["llada"]).predict(tokens, masked, 2)
    assert found.confidence.dtype == torch.float32
    assert found.hidden is not None
    assert found.hidden.dtype == torch.float32
    torch.testing.assert_close(found.confidence, exact.confidence, rtol=0.2, atol=0.05)


# ---------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_evaluation_and_training_from_the_command_line(family, folders, tmp_path, capsys) -> None:
    folder, run = str(folders[family]), str(tmp_path / "run")
    common = ["--task", "trace", "--denoiser", folder, "--response-length", "16", "--block-length", "8"]
    training = ["--updates", "2", "--prompts", "4", "--group", "4", "--validation-problems", "8"]
    training += ["--imitation", "2", "--imitation-problems", "8", "--evaluate-every", "1"]
    assert main(["train", "grpo", *common, *training, "--out", run]) == 0
    evaluation = ["--problems", "6", "--out", str(tmp_path / "eval"), "--workers", "1"]
    assert main(["eval", "--policies", "threshold:0.3", run, *common, *evaluation]) == 0
    assert main(["report", str(tmp_path / "eval")]) == 0
    assert "threshold:0.3" in capsys.readouterr().out
    cached = ["--prefix-cache", "--resume"]
    assert main(["eval", "--policies", "threshold:0.3", *common, *evaluation, *cached]) == 0
    assert "prefix cache" in capsys.readouterr().out


def test_hidden_state_policies_train_on_a_checkpoint(folders, tmp_path) -> None:
    common = ["--denoiser", str(folders["llada"]), "--response-length", "8", "--network", "hidden"]
    training = ["--updates", "1", "--prompts", "2", "--group", "2", "--validation-problems", "4"]
    training += ["--imitation", "1", "--imitation-problems", "8", "--evaluate-every", "1"]
    assert main(["train", "grpo", *common, *training, "--out", str(tmp_path / "run")]) == 0


def test_watching_a_response(folders, capsys) -> None:
    assert (
        main(["generate", "--denoiser", str(folders["dream"]), "--response-length", "8", "--policy", "top_k:2"])
        == 0
    )
    assert "4 NFE" in capsys.readouterr().out


def weights_of(size: Size, norms: int) -> int:
    """How many numbers a model of this size has, with so many of its heads' width besides in each block."""
    d, kv = size.width, size.width * size.groups // size.heads
    block = 2 * d * d + 2 * d * kv + 3 * d * size.feed_forward + 2 * d + norms * d // size.heads
    return 2 * size.vocabulary * d + size.layers * block + d


@pytest.mark.parametrize(("make", "groups", "norms"), [(make_llada_8b, 4, 0), (make_sdar_1_7b, 2, 2)])
def test_checkpoints_of_any_size(make, groups, norms, tmp_path) -> None:
    size = Size(64, 3, 4, groups, 96, 1000)
    denoiser = load_denoiser(str(make(tmp_path / "made", size)))
    assert (denoiser.vocabulary, denoiser.hidden_size) == (1000, 64)
    assert denoiser.dtype == torch.float32  # on a processor
    assert (
        read(tmp_path / "made")["model.norm.weight" if norms else "model.transformer.ln_f.weight"].dtype
        == torch.bfloat16
    )
    assert sum(weight.numel() for weight in denoiser.module.parameters()) == weights_of(size, norms)
    made = dllm_env.generate(denoiser, None, ["a 6"], "threshold:0.9", gen_length=8, block_length=4)
    assert made.nfe[0] <= 8


def test_their_published_sizes() -> None:
    assert round(weights_of(LLADA_8B, 0) / 1e9, 2) == 8.02  # as its paper says
    assert round(weights_of(SDAR_1_7B, 2) / 1e9, 2) == 2.03  # 1.72 with one matrix for input and output

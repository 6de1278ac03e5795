"""Makes small checkpoints of published diffusion language models, in their true file formats, with random weights.

Also computes what such a network must answer, from the published names of its weights alone, with none of the code
under test nor of transformers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from dllm_env.random import torch_generator
from dllm_env.tasks import load_task

D, LAYERS, HEADS, GROUPS, FEED_FORWARD, CONTEXT = 32, 2, 4, 2, 64, 256
Weights = dict[str, Tensor]

LLADA_CHAT = (
    "{% for message in messages %}<|startoftext|>{{ message['role'] }}\n\n{{ message['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}assistant\n\n{% endif %}"
)


def byte_tokenizer(specials: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer, trained on prompts of the default task; the special tokens come last."""
    task = load_task("trace")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([task.problem(i, "train", 0).prompt for i in range(200)], trainer)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def shards(folder: Path, weights: Weights, count: int = 3) -> None:
    """Writes weights as so many safetensors files with their index."""
    names, index = list(weights), {}
    for shard in range(count):
        file = f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        part = {name: weights[name].contiguous() for name in names[shard::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in weights.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text)


def read(folder: Path) -> Weights:
    """All weights of a checkpoint."""
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def _draw(shapes: Mapping[str, tuple[int, ...]], seed: object) -> Weights:
    generator = torch_generator("checkpoint", seed)
    drawn = {}
    for name, shape in shapes.items():
        fan_in = shape[-1] if len(shape) > 1 and "wte" not in name and "embed" not in name else 1
        value = torch.randn(shape, generator=generator) * 1.5 / math.sqrt(fan_in)
        drawn[name] = 1 + 0.1 * value if len(shape) == 1 and "bias" not in name else value
    return drawn


def make_llada(folder: Path, layers: int = LAYERS, **changes: Any) -> Path:
    """As GSAI-ML/LLaDA-8B-Instruct: model_type llada, names of its own, mask and end-of-text among the last ids."""
    folder.mkdir(parents=True)
    specials = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>"]
    tokenizer = byte_tokenizer(specials)
    size = tokenizer.get_vocab_size() + 5  # more rows than tokens, as published
    ids = {word: tokenizer.token_to_id(word) for word in specials}
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "chat_template": LLADA_CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    config = {
        **{"activation_type": "silu", "alibi": False, "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0},
        **{"attention_layer_norm": False, "bias_for_layer_norm": False, "block_group_size": 1},
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        **{"block_type": "llama", "d_model": D, "embedding_dropout": 0.0, "embedding_size": size},
        **{"eos_token_id": ids["<|endoftext|>"], "flash_attention": False, "include_bias": False},
        **{"include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta", "init_fn": "mitchell"},
        **{"init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True},
        **{"mask_token_id": ids["<|mdm_mask|>"], "max_sequence_length": CONTEXT, "mlp_hidden_size": FEED_FORWARD},
        **{"mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": HEADS},
        **{"n_kv_heads": HEADS, "n_layers": layers, "pad_token_id": ids["<|endoftext|>"], "precision": "amp_bf16"},
        **{"residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True},
        **{"rope_theta": 500000.0, "scale_logits": False, "transformers_version": "4.46.3", "use_cache": False},
        **{"vocab_size": size, "weight_tying": False},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shapes: dict[str, tuple[int, ...]] = {"model.transformer.wte.weight": (size, D)}
    for i in range(layers):
        block = f"model.transformer.blocks.{i}."
        shapes |= {block + name + ".weight": (D, D) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {block + name + ".weight": (FEED_FORWARD, D) for name in ("ff_proj", "up_proj")}
        shapes |= {block + "ff_out.weight": (D, FEED_FORWARD)}
        shapes |= {block + name + ".weight": (D,) for name in ("attn_norm", "ff_norm")}
    shapes |= {"model.transformer.ln_f.weight": (D,), "model.transformer.ff_out.weight": (size, D)}
    shards(folder, _draw(shapes, "llada"))
    return folder


def _qwen_shapes(size: int, bias: bool, norms: bool) -> dict[str, tuple[int, ...]]:
    kv = D * GROUPS // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (size, D)}
    for i in range(LAYERS):
        block = f"model.layers.{i}."
        for name, out in (("q", D), ("k", kv), ("v", kv)):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (out, D)
            if bias:
                shapes[f"{block}self_attn.{name}_proj.bias"] = (out,)
        if norms:
            shapes |= {f"{block}self_attn.{name}_norm.weight": (D // HEADS,) for name in "qk"}
        shapes[block + "self_attn.o_proj.weight"] = (D, D)
        shapes |= {f"{block}mlp.{name}_proj.weight": (FEED_FORWARD, D) for name in ("gate", "up")}
        shapes[block + "mlp.down_proj.weight"] = (D, FEED_FORWARD)
        shapes |= {block + name + ".weight": (D,) for name in ("input_layernorm", "post_attention_layernorm")}
    return shapes | {"model.norm.weight": (D,), "lm_head.weight": (size, D)}


def _qwen_config(size: int, **changes: Any) -> dict[str, Any]:
    return {
        **{"attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": D, "initializer_range": 0.02},
        **{"intermediate_size": FEED_FORWARD, "max_position_embeddings": CONTEXT, "num_attention_heads": HEADS},
        **{"num_hidden_layers": LAYERS, "num_key_value_heads": GROUPS, "rms_norm_eps": 1e-06},
        **{"rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False},
        **{"use_cache": False, "use_sliding_window": False, "vocab_size": size, "torch_dtype": "float32"},
        **changes,
    }


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_dream(folder: Path) -> Path:
    """As Dream-org/Dream-v0-Instruct-7B: model_type Dream, a tokenizer with code of its own, shifted logits."""
    folder.mkdir(parents=True)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
    tokenizer = byte_tokenizer(specials)
    tokenizer.model.save(str(folder))
    ids = {word: tokenizer.token_to_id(word) for word in specials}
    added = {
        str(i): {"content": word, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        | {"special": True}
        for word, i in ids.items()
    }
    about = {
        "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "chat_template": CHATML,
        **{"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"},
        **{"tokenizer_class": "DreamTokenizer", "unk_token": None, "model_max_length": 131072},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    size = tokenizer.get_vocab_size() + 3
    config = _qwen_config(
        size,
        architectures=["DreamModel"],
        auto_map={"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        mask_token_id=ids["<|mask|>"],
        max_window_layers=LAYERS,
        model_type="Dream",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shards(folder, _draw(_qwen_shapes(size, True, False), "dream"))
    return folder


def make_a2d(folder: Path, family: str = "a2d-qwen3") -> Path:
    """As the Tiny-A2D models: an autoregressive model, converted; the mask is a token of the tokenizer."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"},
        **{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    size = tokenizer.get_vocab_size()
    config = _qwen_config(size, model_type=family, head_dim=D // HEADS, attention_bias=False)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(_draw(_qwen_shapes(size, False, True), family), folder / "model.safetensors", {"format": "pt"})
    return folder


def make_bert(folder: Path) -> Path:
    """A BERT with its tokenizer of word pieces, written by transformers itself."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder.mkdir(parents=True)
    task = load_task("trace")
    words = sorted({word for i in range(300) for word in task.problem(i, "train", 0).prompt.split()})
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    pieces = [*listed, *dict.fromkeys(c for word in words for c in (word[0], f"##{word[-1]}", word[-1]))]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(pieces)),
        **{"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"intermediate_size": FEED_FORWARD, "max_position_embeddings": CONTEXT, "initializer_range": 0.5},
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


# ----------------------------------------------------------------------------------- what they must answer


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def _turn(x: Tensor, theta: float) -> Tensor:
    """RoPE on (heads, S, dimension): the pair (i, i + dimension/2) turns by position · theta^(−2i/dimension)."""
    length, dimension = x.shape[-2:]
    half = dimension // 2
    out = torch.empty_like(x)
    for position in range(length):
        for i in range(half):
            angle = position * theta ** (-2 * i / dimension)
            cosine, sine = math.cos(angle), math.sin(angle)
            first, second = x[:, position, i], x[:, position, i + half]
            out[:, position, i] = cosine * first - sine * second
            out[:, position, i + half] = sine * first + cosine * second
    return out


def _llama(ids: Tensor, get: Callable[[str, int], Tensor | None], eps: float, theta: float) -> Tensor:
    """Logits (S, V) of a Llama-like network with full attention; ``get`` gives a weight by its role and layer."""

    def must(role: str, layer: int = 0) -> Tensor:
        found = get(role, layer)
        assert found is not None, role
        return found

    x = must("embedding")[ids]
    for layer in range(LAYERS):
        h = _norm(x, must("attention norm", layer), eps)
        parts = []
        for role in ("query", "key", "value"):
            y = F.linear(h, must(role, layer), get(role + " bias", layer))
            y = y.view(len(ids), -1, D // HEADS).transpose(0, 1)
            scale = get(role + " norm", layer)
            y = y if scale is None else _norm(y, scale, eps)
            y = y if role == "value" else _turn(y, theta)
            parts.append(y.repeat_interleave(HEADS // len(y), 0))
        query, key, value = parts
        mixed = (query @ key.transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1) @ value
        x = x + F.linear(mixed.transpose(0, 1).reshape(len(ids), D), must("out", layer))
        h = _norm(x, must("feed-forward norm", layer), eps)
        x = x + F.linear(
            F.silu(F.linear(h, must("gate", layer))) * F.linear(h, must("up", layer)), must("down", layer)
        )
    return F.linear(_norm(x, must("norm"), eps), must("head"))


_LLADA_ROLES = {
    **{"embedding": "wte", "norm": "ln_f", "head": "ff_out"},
    **{"attention norm": "blocks.{}.attn_norm", "feed-forward norm": "blocks.{}.ff_norm"},
    **{"query": "blocks.{}.q_proj", "key": "blocks.{}.k_proj", "value": "blocks.{}.v_proj"},
    **{"out": "blocks.{}.attn_out", "gate": "blocks.{}.ff_proj", "up": "blocks.{}.up_proj"},
    **{"down": "blocks.{}.ff_out"},
}
_QWEN_ROLES = {
    **{"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"},
    "attention norm": "model.layers.{}.input_layernorm.weight",
    "feed-forward norm": "model.layers.{}.post_attention_layernorm.weight",
    **{
        f"{role}{more}": f"model.layers.{{}}.self_attn.{role[0]}_{kind}"
        for role in ("query", "key", "value")
        for more, kind in (("", "proj.weight"), (" bias", "proj.bias"), (" norm", "norm.weight"))
    },
    "out": "model.layers.{}.self_attn.o_proj.weight",
    **{role: f"model.layers.{{}}.mlp.{role}_proj.weight" for role in ("gate", "up", "down")},
}


def llada_logits(folder: Path, ids: Tensor) -> Tensor:
    """(S, V) logits of a LLaDA."""
    weights = read(folder)

    def get(role: str, layer: int) -> Tensor | None:
        name = _LLADA_ROLES.get(role)
        return None if name is None else weights[f"model.transformer.{name.format(layer)}.weight"]

    return _llama(ids, get, 1e-5, 500000.0)


def qwen_logits(folder: Path, ids: Tensor) -> Tensor:
    """(S, V) logits of a Qwen2 or Qwen3 with full attention, not shifted."""
    weights = read(folder)
    return _llama(ids, lambda role, layer: weights.get(_QWEN_ROLES[role].format(layer)), 1e-6, 1e6)


def bert_logits(folder: Path, ids: Tensor) -> Tensor:
    """(S, V) logits of a BERT."""
    w = read(folder)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * w[name + ".weight"] + w[name + ".bias"]

    e = "bert.embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: len(ids)]
    x = norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    for i in range(LAYERS):
        layer = f"bert.encoder.layer.{i}."
        query, key, value = (
            linear(x, f"{layer}attention.self.{name}").view(len(ids), HEADS, -1).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        mixed = (query @ key.transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1) @ value
        mixed = linear(mixed.transpose(0, 1).reshape(len(ids), D), layer + "attention.output.dense")
        x = norm(x + mixed, layer + "attention.output.LayerNorm")
        inner = F.gelu(linear(x, layer + "intermediate.dense"))
        x = norm(x + linear(inner, layer + "output.dense"), layer + "output.LayerNorm")
    top = norm(F.gelu(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    return F.linear(top, w[e + "word_embeddings.weight"], w["cls.predictions.bias"])

"""Makes a small checkpoint in the file format of a published diffusion language model, with random weights.

    python examples/make_checkpoint.py llada runs/tiny-llada
    dllm-env eval --policies threshold:0.3 --denoiser runs/tiny-llada --response-length 16 --problems 20

So commands for LLaDA or Dream can be tried where these cannot be downloaded. The responses are noise, of course.
``llada-8b`` and ``sdar-1.7b`` are of the published size, in bfloat16: 16 and 4 GB, for a GPU to be tried with.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from dllm_env.random import torch_generator
from dllm_env.tasks.load import load_task

D, LAYERS, HEADS, GROUPS, FEED_FORWARD, CONTEXT = 32, 2, 4, 2, 64, 4096
EXPERTS, CHOSEN, EXPERT_WIDTH = 8, 2, 24
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
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _inputs(name: str, shape: tuple[int, ...]) -> int:
    """How many numbers a product with the weight adds up; 1 for embeddings and vectors."""
    return shape[-1] if len(shape) > 1 and "wte" not in name and "embed" not in name else 1


def _draw(shapes: Mapping[str, tuple[int, ...]], seed: object) -> Weights:
    generator = torch_generator("checkpoint", seed)
    drawn = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 1.5 / math.sqrt(_inputs(name, shape))
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
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
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
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
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


def _qwen_shapes(size: int, bias: bool, norms: bool, experts: bool = False) -> dict[str, tuple[int, ...]]:
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
        if experts:
            shapes |= {block + "mlp.gate.weight": (EXPERTS, D)}
            shapes |= _expert_shapes(block + "mlp.experts.{}.")
        else:
            shapes |= _feed_forward_shapes(block + "mlp.", FEED_FORWARD)
        shapes |= {block + name + ".weight": (D,) for name in ("input_layernorm", "post_attention_layernorm")}
    return shapes | {"model.norm.weight": (D,), "lm_head.weight": (size, D)}


def _feed_forward_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}{name}_proj.weight": (width, D) for name in ("gate", "up")}
    return shapes | {prefix + "down_proj.weight": (D, width)}


def _expert_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(EXPERTS):
        shapes |= _feed_forward_shapes(prefix.format(i), EXPERT_WIDTH)
    return shapes


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
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(ids), encoding="utf-8")
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
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    shards(folder, _draw(_qwen_shapes(size, True, False), "dream"))
    return folder


def _make_qwen(folder: Path, shapes: Mapping[str, tuple[int, ...]], seed: str, **changes: Any) -> Path:
    """Configuration, weights and tokenizer; the mask is a token of the tokenizer. Shapes say V as −1."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        **{"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"},
        **{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    size = tokenizer.get_vocab_size()
    config = _qwen_config(size, **changes)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    sized = {name: tuple(size if n < 0 else n for n in shape) for name, shape in shapes.items()}
    save_file(_draw(sized, seed), folder / "model.safetensors", {"format": "pt"})
    return folder


QWEN3 = {"head_dim": D // HEADS, "attention_bias": False}
QWEN3_EXPERTS = {
    **QWEN3,
    **{"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": EXPERT_WIDTH},
    **{"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True},
}


def make_a2d(folder: Path, family: str = "a2d-qwen3") -> Path:
    """As the Tiny-A2D models: an autoregressive model, converted."""
    return _make_qwen(folder, _qwen_shapes(-1, False, True), family, model_type=family, **QWEN3)


def make_bd3lm(folder: Path) -> Path:
    """As those of them that are block-causal, which the name alone tells: it has to hold ``bd3lm``."""
    return make_a2d(folder / "qwen3-diffusion-bd3lm")


def make_sdar(folder: Path, block: int = 4) -> Path:
    """As JetLM/SDAR-1.7B-Chat and Gen-Verse/TraDo-4B-Instruct: Qwen3's weights, block-causal."""
    named = {"architectures": ["SDARForCausalLM"], "model_type": "sdar", "block_size": block}
    return _make_qwen(folder, _qwen_shapes(-1, False, True), "sdar", **named, **QWEN3)


def make_sdar_moe(folder: Path) -> Path:
    """As JetLM/SDAR-30B-A3B-Chat: a mixture of experts."""
    named = {"architectures": ["SDARMoeForCausalLM"], "model_type": "sdar_moe", "block_size": 4}
    return _make_qwen(folder, _qwen_shapes(-1, False, True, True), "sdar_moe", **named, **QWEN3_EXPERTS)


def make_fast_dllm(folder: Path, block: int = 8) -> Path:
    """As Efficient-Large-Model/Fast_dLLM_v2_7B: Qwen2's weights, block-causal, shifted."""
    named = {"architectures": ["Fast_dLLM_QwenForCausalLM"], "model_type": "Fast_dLLM_Qwen", "bd_size": block}
    return _make_qwen(folder, _qwen_shapes(-1, True, False), "fast_dllm", **named)


def make_llada_moe(folder: Path) -> Path:
    """As inclusionAI/LLaDA-MoE-7B-A1B-Instruct: full attention, and a mixture of experts; it calls itself llada."""
    named = {"architectures": ["LLaDAMoEModelLM"], "model_type": "llada", "num_key_value_heads": HEADS}
    said = {
        **{"attention_bias": False, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "clip_qkv": None},
        **{"expert_intermediate_size": EXPERT_WIDTH, "dense_intermediate_size": FEED_FORWARD},
        **{"shared_expert_intermediate_size": None, "norm_topk_prob": None, "qk_layernorm": True},
        **{"moe_layer_freq": [1] * LAYERS, "moe_router_enable_expert_bias": False, "router_num_group": None},
        **{"moe_router_score_function": "softmax", "partial_rotary_factor": 1, "routed_scaling_factor": 1},
    }
    shapes = _qwen_shapes(-1, False, True, True)
    shapes |= {name: (D, D) for name in shapes if name.endswith(("k_proj.weight", "v_proj.weight"))}
    return _make_qwen(folder, shapes, "llada_moe", **named, **said)


def make_llada2(folder: Path, block: int = 8) -> Path:
    """As inclusionAI/LLaDA2.0-mini: block-causal; a dense layer first, then experts in groups and a shared one."""
    named = {"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "block_size": block}
    said = {
        **{"head_dim": D // HEADS, "use_qkv_bias": False, "use_bias": False, "use_qk_norm": True},
        **{"norm_head": False, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "num_shared_experts": 1},
        **{"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "moe_intermediate_size": EXPERT_WIDTH},
        **{"first_k_dense_replace": 1, "partial_rotary_factor": 0.5, "norm_topk_prob": True},
        **{"score_function": "sigmoid", "moe_router_enable_expert_bias": True, "rope_scaling": None},
    }
    shapes: dict[str, tuple[int, ...]] = {"model.word_embeddings.weight": (-1, D)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        shapes |= {layer + "attention.query_key_value.weight": (D + 2 * D * GROUPS // HEADS, D)}
        shapes |= {layer + "attention.dense.weight": (D, D)}
        shapes |= {f"{layer}attention.{name}_layernorm.weight": (D // HEADS,) for name in ("query", "key")}
        shapes |= {layer + name + ".weight": (D,) for name in ("input_layernorm", "post_attention_layernorm")}
        if i == 0:
            shapes |= _feed_forward_shapes(layer + "mlp.", FEED_FORWARD)
            continue
        shapes |= {layer + "mlp.gate.weight": (EXPERTS, D), layer + "mlp.gate.expert_bias": (EXPERTS,)}
        shapes |= _expert_shapes(layer + "mlp.experts.{}.")
        shapes |= _feed_forward_shapes(layer + "mlp.shared_experts.", EXPERT_WIDTH)
    shapes |= {"model.norm.weight": (D,), "lm_head.weight": (-1, D)}
    return _make_qwen(folder, shapes, "llada2", **named, **said)


def make_bert(folder: Path) -> Path:
    """A BERT with its tokenizer of word pieces, written by transformers itself."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder.mkdir(parents=True)
    task = load_task("trace")
    words = sorted({word for i in range(300) for word in task.problem(i, "train", 0).prompt.split()})
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    pieces = [*listed, *dict.fromkeys(c for word in words for c in (word[0], f"##{word[-1]}", word[-1]))]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(pieces)),
        **{"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"intermediate_size": FEED_FORWARD, "max_position_embeddings": CONTEXT, "initializer_range": 0.5},
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def make_sedd(folder: Path, **changes: Any) -> Path:
    """As louaaron/sedd-small: a configuration in parts, no model_type; the mask is the id after the last token."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    tokens, condition = tokenizer.get_vocab_size(), 16
    config = {
        **{"ngpus": 1, "tokens": tokens, "graph": {"type": "absorb", "file": "data", "report_all": False}},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 128, "noise_removal": True},
        "model": {
            **{"name": "small", "type": "ddit", "hidden_size": D, "cond_dim": condition, "length": 1024},
            **{"n_blocks": LAYERS, "n_heads": HEADS, "scale_by_sigma": True, "dropout": 0.1},
        },
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    shapes: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (tokens + 1, D)}
    linear = {"sigma_map.mlp.0": (condition, 256), "sigma_map.mlp.2": (condition, condition)}
    for i in range(LAYERS):
        block = f"blocks.{i}."
        shapes |= {f"{block}{name}.weight": (D,) for name in ("norm1", "norm2")}
        shapes |= {block + "attn_qkv.weight": (3 * D, D), block + "attn_out.weight": (D, D)}
        linear |= {block + "mlp.0": (4 * D, D), block + "mlp.2": (D, 4 * D)}
        linear |= {block + "adaLN_modulation": (6 * D, condition)}
    linear |= {"output_layer.linear": (tokens + 1, D), "output_layer.adaLN_modulation": (2 * D, condition)}
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    weights = _draw({**shapes, "output_layer.norm_final.weight": (D,)}, "sedd")
    weights["rotary_emb.inv_freq"] = 1 / 10_000 ** (torch.arange(0, D // HEADS, 2) / (D // HEADS))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Size:
    """Of a model."""

    width: int
    layers: int
    heads: int
    groups: int
    feed_forward: int
    vocabulary: int

    def of_llada(self) -> dict[str, int]:
        """Fields of LLaDA's configuration."""
        heads = {"n_heads": self.heads, "n_kv_heads": self.groups, "n_layers": self.layers, "d_model": self.width}
        sizes = {"embedding_size": self.vocabulary, "vocab_size": self.vocabulary}
        return {**heads, **sizes, "mlp_hidden_size": self.feed_forward}

    def of_qwen(self) -> dict[str, Any]:
        """Fields of Qwen's, of which SDAR's is one."""
        heads = {"num_attention_heads": self.heads, "num_key_value_heads": self.groups}
        sizes = {"hidden_size": self.width, "vocab_size": self.vocabulary, "num_hidden_layers": self.layers}
        more = {"intermediate_size": self.feed_forward, "head_dim": self.width // self.heads}
        return {**heads, **sizes, **more, "torch_dtype": "bfloat16"}


LLADA_8B = Size(4096, 32, 32, 32, 12_288, 126_464)
SDAR_1_7B = Size(2048, 28, 16, 8, 6144, 151_936)


def make_llada_8b(folder: Path, size: Size = LLADA_8B) -> Path:
    """As GSAI-ML/LLaDA-8B-Instruct, 8.0 billion weights; the tokenizer has 300 tokens."""
    return _enlarge(make_llada(folder), size, size.of_llada())


def make_sdar_1_7b(folder: Path, size: Size = SDAR_1_7B) -> Path:
    """As JetLM/SDAR-1.7B-Chat, whose output has a matrix of its own here."""
    return _enlarge(make_sdar(folder), size, size.of_qwen())


def _enlarge(folder: Path, size: Size, changes: Mapping[str, Any]) -> Path:
    """Replaces a small checkpoint without biases by one of this size, with a file for each block."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    small = {D: size.width, FEED_FORWARD: size.feed_forward, int(config["vocab_size"]): size.vocabulary}
    small |= {D * GROUPS // HEADS: size.width * size.groups // size.heads, D // HEADS: size.width // size.heads}
    (folder / "config.json").write_text(json.dumps({**config, **changes}, indent=1), encoding="utf-8")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in folder.glob("*.safetensors"):
        shapes |= {name: tuple(value.shape) for name, value in load_file(file).items()}
        file.unlink()
    shapes = {name: tuple(small[n] for n in shape) for name, shape in shapes.items()}
    first = {name: shape for name, shape in shapes.items() if ".0." in name}
    rest = {name: shape for name, shape in shapes.items() if not any(f".{i}." in name for i in range(LAYERS))}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator, index = torch.Generator(device).manual_seed(0), {}
    for number in range(size.layers + 1):
        part = {name.replace(".0.", f".{number}."): shape for name, shape in first.items()}
        part, file = (part, f"block-{number}.safetensors") if number < size.layers else (rest, "rest.safetensors")
        drawn = {}
        for name, shape in part.items():
            value = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
            drawn[name] = (1 + 0.1 * value if len(shape) == 1 else value / math.sqrt(_inputs(name, shape))).cpu()
        save_file(drawn, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return folder


MAKERS = {
    **{"llada": make_llada, "dream": make_dream, "a2d": make_a2d, "bert": make_bert, "sedd": make_sedd},
    **{"llada-moe": make_llada_moe, "llada2": make_llada2, "sdar": make_sdar, "sdar-moe": make_sdar_moe},
    **{"fast-dllm-v2": make_fast_dllm, "bd3lm": make_bd3lm},
    **{"llada-8b": make_llada_8b, "sdar-1.7b": make_sdar_1_7b},
}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MAKERS:
        sys.exit(f"usage: python examples/make_checkpoint.py {{{','.join(MAKERS)}}} FOLDER")
    try:
        print(MAKERS[sys.argv[1]](Path(sys.argv[2])))
    except FileExistsError:  # also of one that is being made just now
        print(f"{sys.argv[2]} is there already; name a new folder", file=sys.stderr)
        sys.exit(2)

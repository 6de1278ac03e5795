"""Published families as models of transformers that compute the same: configuration, names of weights, weights.

Whatever a configuration could also say, and the model of transformers cannot do, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dllm_env.errors import UsageError

Raw = Mapping[str, Any]
"""A configuration as it was published."""
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Translation:
    """How a family is read.

    Attributes:
        plain: family of transformers.
        config: its configuration's fields, from the published ones.
        names: patterns of published names of weights to its own.
        weights: changes the weights, where names are not enough.
    """

    plain: str
    config: Callable[[Raw], dict[str, Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    weights: Callable[[Weights, Raw], Weights] | None = None


LLADA_NAMES = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    **{
        rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}."
        for theirs, ours in (
            ("attn_norm", "input_layernorm"),
            ("ff_norm", "post_attention_layernorm"),
            ("q_proj", "self_attn.q_proj"),
            ("k_proj", "self_attn.k_proj"),
            ("v_proj", "self_attn.v_proj"),
            ("attn_out", "self_attn.o_proj"),
            ("ff_proj", "mlp.gate_proj"),
            ("up_proj", "mlp.up_proj"),
            ("ff_out", "mlp.down_proj"),
        )
    },
}
"""LLaDA's names of weights, as patterns, to Llama's."""

_LLADA_IS = {
    **{"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True, "alibi": False},
    **{"include_bias": False, "include_qkv_bias": False, "attention_layer_norm": False, "scale_logits": False},
    **{"input_emb_norm": False, "multi_query_attention": False, "bias_for_layer_norm": False},
}
"""What LLaDA's configuration could also say, and Llama cannot do."""


def _refuse_variants(title: str, raw: Raw, supported: Raw) -> None:
    """Refuses what a configuration says that is none of these values, where it says it.

    Raises:
        UsageError: it does.
    """
    for name, value in supported.items():
        if raw.get(name) is not None and raw[name] != value:
            raise UsageError(f"this {title} has {name} = {raw[name]!r}; only {value!r} is supported")


def _llada_config(raw: Raw) -> dict[str, Any]:
    """LLaDA's configuration as Llama's.

    Raises:
        UsageError: a field is missing, or a variant that is no Llama.
    """
    _refuse_variants("LLaDA", raw, _LLADA_IS)
    with _complete("LLaDA"):
        return {
            "vocab_size": raw.get("embedding_size") or raw["vocab_size"],
            "hidden_size": raw["d_model"],
            "intermediate_size": raw.get("mlp_hidden_size") or raw["mlp_ratio"] * raw["d_model"],
            "num_hidden_layers": raw["n_layers"],
            "num_attention_heads": raw["n_heads"],
            "num_key_value_heads": raw.get("n_kv_heads") or raw["n_heads"],
            "max_position_embeddings": raw["max_sequence_length"],
            "rms_norm_eps": raw["rms_norm_eps"],
            "rope_parameters": {"rope_type": "default", "rope_theta": raw["rope_theta"]},
            "tie_word_embeddings": bool(raw.get("weight_tying", False)),
            "mask_token_id": raw.get("mask_token_id"),
        }


_LLADA_MOE_IS = {
    **{"qk_layernorm": True, "clip_qkv": None, "moe_router_enable_expert_bias": False, "routed_scaling_factor": 1},
    **{"moe_router_score_function": "softmax", "partial_rotary_factor": 1, "norm_topk_prob": False},
    **{"shared_expert_intermediate_size": 0, "hidden_act": "silu"},
}
"""What LLaDA-MoE's configuration could also say, and Qwen3's mixture of experts cannot do."""


def _llada_moe_config(raw: Raw) -> dict[str, Any]:
    """LLaDA-MoE's configuration as that of Qwen3's mixture of experts, whose names of weights it has."""
    _refuse_variants("LLaDA-MoE", raw, _LLADA_MOE_IS)
    layers = raw.get("moe_layer_freq")
    if layers and not (isinstance(layers, list) and all(layers)):
        raise UsageError(f"this LLaDA-MoE has dense layers, moe_layer_freq = {layers!r}; none are supported")
    with _complete("LLaDA-MoE"):
        return {
            **_kept(raw),
            **{"moe_intermediate_size": raw["expert_intermediate_size"], "norm_topk_prob": False},
            "intermediate_size": raw.get("dense_intermediate_size") or raw["expert_intermediate_size"],
            "head_dim": raw["hidden_size"] // raw["num_attention_heads"],
            **{"decoder_sparse_step": 1, "mlp_only_layers": []},
        }


_LLADA2_IS = {
    **{"use_qk_norm": True, "use_bias": False, "use_qkv_bias": False, "norm_head": False, "hidden_act": "silu"},
    **{"score_function": "sigmoid", "norm_topk_prob": True, "moe_router_enable_expert_bias": True},
    **{"use_sliding_window": False, "moe_shared_expert_intermediate_size": None},
}
"""What LLaDA2's configuration could also say, and GLM-4.5's mixture of experts cannot do."""

LLADA2_NAMES = {
    r"^model\.word_embeddings\.": "model.embed_tokens.",
    r"\.attention\.dense\.": ".self_attn.o_proj.",
    r"\.attention\.query_layernorm\.": ".self_attn.q_norm.",
    r"\.attention\.key_layernorm\.": ".self_attn.k_norm.",
    r"\.mlp\.gate\.expert_bias$": ".mlp.gate.e_score_correction_bias",
}


def _llada2_config(raw: Raw) -> dict[str, Any]:
    """LLaDA2's configuration as that of GLM-4.5's mixture of experts, which routes in the same way."""
    width = raw.get("moe_intermediate_size")
    _refuse_variants("LLaDA2", raw, {**_LLADA2_IS, "moe_shared_expert_intermediate_size": width})
    with _complete("LLaDA2"):
        heads = raw["num_attention_heads"]
        theta, turned = raw.get("rope_theta", 10000.0), raw.get("partial_rotary_factor", 0.5)
        scaled = raw.get("rope_scaling") or {"rope_type": "default"}
        return {
            **_kept(raw, "rope_scaling", "rope_theta", "partial_rotary_factor"),
            "head_dim": raw.get("head_dim") or raw["hidden_size"] // heads,
            **{"attention_bias": False, "use_qk_norm": True, "norm_topk_prob": True},
            "num_local_experts": raw["num_experts"],
            "n_routed_experts": raw["num_experts"],
            "n_shared_experts": raw["num_shared_experts"],
            "rope_parameters": {**scaled, "rope_theta": theta, "partial_rotary_factor": turned},
            "partial_rotary_factor": turned,
        }


def _llada2_weights(weights: Weights, raw: Raw) -> Weights:
    """Queries, keys and values on their own, and all biases of experts above 0, which changes no choice.

    A group or an expert is chosen where its score and bias are largest; some versions of transformers take 0 for
    those of groups that are not chosen.
    """
    size = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    rows = [n * size for n in (raw["num_attention_heads"], raw["num_key_value_heads"], raw["num_key_value_heads"])]
    found: Weights = {}
    for name, value in weights.items():
        if name.endswith(".attention.query_key_value.weight"):
            place = name.replace(".attention.query_key_value.weight", ".self_attn.")
            found |= zip((f"{place}{part}_proj.weight" for part in "qkv"), value.split(rows), strict=True)
        elif name.endswith(".mlp.gate.expert_bias"):
            found[name] = value.float() - value.float().min().clamp(max=0)
        else:
            found[name] = value
    return found


TRANSLATED = {
    "llada": Translation("llama", _llada_config, LLADA_NAMES),
    "llada_moe": Translation("qwen3_moe", _llada_moe_config),
    "llada2_moe": Translation("glm4_moe", _llada2_config, LLADA2_NAMES, _llada2_weights),
}
"""Families whose configuration or weights are not those of transformers' model that computes the same."""


def _kept(raw: Raw, *without: str) -> dict[str, Any]:
    """Fields that mean the same in both, less what says which code reads them."""
    without = ("model_type", "auto_map", "architectures", "transformers_weights", *without)
    return {name: value for name, value in raw.items() if name not in without}


@contextmanager
def _complete(title: str) -> Iterator[None]:
    """Says which field a configuration lacks."""
    try:
        yield
    except KeyError as error:
        raise UsageError(f"{title}'s config.json has no {error.args[0]}") from None

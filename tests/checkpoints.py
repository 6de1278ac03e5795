"""What small checkpoints of published families must answer, computed from their weights' published names alone.

Neither the code under test nor transformers takes part. ``examples/make_checkpoint.py`` makes the checkpoints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from make_checkpoint import CHOSEN, EXPERTS, HEADS, LAYERS, D, Weights
from safetensors.torch import load_file
from torch import Tensor

from dllm_env.denoisers.huggingface import HuggingFaceDenoiser
from dllm_env.denoisers.load import load_denoiser


def load_all(folders: Mapping[str, Path]) -> dict[str, HuggingFaceDenoiser]:
    """Checkpoints as a user loads them, by family."""
    found = {}
    for family, folder in folders.items():
        denoiser = load_denoiser(folder)
        assert isinstance(denoiser, HuggingFaceDenoiser)
        found[family] = denoiser
    return found


def read(folder: Path) -> Weights:
    """All weights of a checkpoint."""
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


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


def _llama(
    ids: Tensor,
    get: Callable[[str, int], Tensor | None],
    eps: float,
    theta: float,
    seen: list[Tensor],
    block: int = 0,
    turned: float = 1.0,
    mixture: Callable[[Tensor, int], Tensor] | None = None,
    lacks: int = 0,
) -> Tensor:
    """Logits (S, V) of a Llama-like network; ``get`` gives a weight by its role and layer.

    ``seen`` gets the attention weights (heads, S, S) of each layer. With a block, position i looks at j where j is
    in the same block or an earlier one, the first of which ``lacks`` some tokens. ``turned`` is the share of a head
    that turns with the position, and ``mixture`` what a layer without ``gate`` does instead.
    """

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
            size = int(turned * y.shape[-1])
            y = y if role == "value" else torch.cat((_turn(y[..., :size], theta), y[..., size:]), -1)
            parts.append(y.repeat_interleave(HEADS // len(y), 0))
        query, key, value = parts
        scores = query @ key.transpose(-1, -2) / math.sqrt(D // HEADS)
        if block:
            for i in range(len(ids)):
                scores[:, i, ((i + lacks) // block + 1) * block - lacks :] = -torch.inf
        seen.append(scores.softmax(-1))
        mixed = seen[-1] @ value
        x = x + F.linear(mixed.transpose(0, 1).reshape(len(ids), D), must("out", layer))
        h = _norm(x, must("feed-forward norm", layer), eps)
        if mixture is not None and get("gate", layer) is None:
            x = x + mixture(h, layer)
        else:
            x = x + _feed_forward(h, must("gate", layer), must("up", layer), must("down", layer))
    return F.linear(_norm(x, must("norm"), eps), must("head"))


def _feed_forward(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def _mixture(weights: Weights, route: Callable[[Tensor, str], dict[int, float]]) -> Callable[[Tensor, int], Tensor]:
    """What a mixture of experts adds, token by token; ``route`` says which expert counts how much for a token."""

    def mixture(x: Tensor, layer: int) -> Tensor:
        place, rows = f"model.layers.{layer}.mlp.", []

        def expert(name: str, token: Tensor) -> Tensor:
            return _feed_forward(
                token, *(weights[f"{place}{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
            )

        for token in x:
            row = torch.zeros(D)
            for i, share in route(token, place).items():
                row = row + share * expert(f"experts.{i}", token)
            if place + "shared_experts.up_proj.weight" in weights:
                row = row + expert("shared_experts", token)
            rows.append(row)
        return torch.stack(rows)

    return mixture


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


def llada_logits(folder: Path, ids: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """(S, V) logits of a LLaDA; ``seen`` gets the attention weights of each layer."""
    weights = read(folder)

    def get(role: str, layer: int) -> Tensor | None:
        name = _LLADA_ROLES.get(role)
        return None if name is None else weights[f"model.transformer.{name.format(layer)}.weight"]

    return _llama(ids, get, 1e-5, 500000.0, [] if seen is None else seen)


def qwen_logits(folder: Path, ids: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """(S, V) logits of a Qwen2 or Qwen3 with full attention, not shifted; ``seen`` as above."""
    weights, seen = read(folder), [] if seen is None else seen
    return _llama(ids, lambda role, layer: weights.get(_QWEN_ROLES[role].format(layer)), 1e-6, 1e6, seen)


def block_logits(block: int, lacks: int = 0) -> Callable[[Path, Tensor], Tensor]:
    """Of a Qwen2 or Qwen3 that attends in blocks, the first of which lacks some tokens."""

    def logits(folder: Path, ids: Tensor) -> Tensor:
        weights = read(folder)

        def get(role: str, layer: int) -> Tensor | None:
            return weights.get(_QWEN_ROLES[role].format(layer))

        return _llama(ids, get, 1e-6, 1e6, [], block, lacks=lacks)

    return logits


def expert_logits(block: int, normed: bool) -> Callable[[Path, Tensor], Tensor]:
    """Of a Qwen3 with experts, the probabilities of the chosen ones summing to 1 or left as they are."""

    def logits(folder: Path, ids: Tensor) -> Tensor:
        weights = read(folder)

        def route(token: Tensor, place: str) -> dict[int, float]:
            shares = F.linear(token, weights[place + "gate.weight"]).softmax(-1).tolist()
            chosen = sorted(range(EXPERTS), key=lambda i: -shares[i])[:CHOSEN]
            total = sum(shares[i] for i in chosen) if normed else 1.0
            return {i: shares[i] / total for i in chosen}

        def get(role: str, layer: int) -> Tensor | None:
            return weights.get(_QWEN_ROLES[role].format(layer))

        return _llama(ids, get, 1e-6, 1e6, [], block, mixture=_mixture(weights, route))

    return logits


_LLADA2_ROLES = {
    **{"embedding": "model.word_embeddings.weight", "norm": "model.norm.weight", "head": "lm_head.weight"},
    "attention norm": "model.layers.{}.input_layernorm.weight",
    "feed-forward norm": "model.layers.{}.post_attention_layernorm.weight",
    **{f"{role} norm": f"model.layers.{{}}.attention.{role}_layernorm.weight" for role in ("query", "key")},
    "out": "model.layers.{}.attention.dense.weight",
    **{role: f"model.layers.{{}}.mlp.{role}_proj.weight" for role in ("gate", "up", "down")},
}


def llada2_logits(folder: Path, ids: Tensor) -> Tensor:
    """(S, V) logits of a LLaDA2: of four groups of experts the two whose best two count most, of these the best."""
    weights, about = read(folder), json.loads((folder / "config.json").read_text())
    groups, kept, size = about["n_group"], about["topk_group"], EXPERTS // about["n_group"]

    def route(token: Tensor, place: str) -> dict[int, float]:
        score = F.linear(token, weights[place + "gate.weight"]).sigmoid().tolist()
        told = [s + bias for s, bias in zip(score, weights[place + "gate.expert_bias"].tolist(), strict=True)]
        worth = [sum(sorted(told[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
        best = sorted(range(groups), key=lambda g: -worth[g])[:kept]
        among = [i for i in range(EXPERTS) if i // size in best]
        chosen = sorted(among, key=lambda i: -told[i])[:CHOSEN]
        total = sum(score[i] for i in chosen)
        return {i: about["routed_scaling_factor"] * score[i] / total for i in chosen}

    def get(role: str, layer: int) -> Tensor | None:
        if role in ("query", "key", "value"):
            all_three = weights[f"model.layers.{layer}.attention.query_key_value.weight"]
            each = (len(all_three) - D) // 2
            return dict(zip(("query", "key", "value"), all_three.split([D, each, each]), strict=True))[role]
        return weights.get(_LLADA2_ROLES.get(role, role).format(layer))

    return _llama(ids, get, 1e-6, 1e6, [], about["block_size"], 0.5, _mixture(weights, route))


def bert_logits(folder: Path, ids: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """(S, V) logits of a BERT; ``seen`` as above."""
    w, seen = read(folder), [] if seen is None else seen

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
        seen.append((query @ key.transpose(-1, -2) / math.sqrt(D // HEADS)).softmax(-1))
        mixed = linear((seen[-1] @ value).transpose(0, 1).reshape(len(ids), D), layer + "attention.output.dense")
        x = norm(x + mixed, layer + "attention.output.LayerNorm")
        inner = F.gelu(linear(x, layer + "intermediate.dense"))
        x = norm(x + linear(inner, layer + "output.dense"), layer + "output.LayerNorm")
    top = norm(F.gelu(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    return F.linear(top, w[e + "word_embeddings.weight"], w["cls.predictions.bias"])


def sedd_log_scores(folder: Path, ids: Tensor, sigma: float) -> Tensor:
    """(S, V) log-scores of a SEDD at noise σ as its paper defines them: 0 for the token that stands there."""
    w = read(folder)
    about = json.loads((folder / "config.json").read_text())["model"]
    width, heads = about["hidden_size"], about["n_heads"]
    size = width // heads

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", torch.zeros(()))

    def norm(x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[name + ".weight"]

    def silu(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    angle = sigma * torch.tensor([10_000 ** (-i / 128) for i in range(128)])
    time = silu(linear(silu(linear(torch.cat((angle.cos(), angle.sin())), "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    x = w["vocab_embed.embedding"][ids]
    place = torch.arange(len(ids))[:, None] * torch.tensor([10_000 ** (-2 * i / size) for i in range(size // 2)])
    turn = torch.polar(torch.ones_like(place), place)

    def turned(part: Tensor) -> Tensor:
        both = torch.complex(part[:, : size // 2], part[:, size // 2 :]) * turn
        return torch.cat((both.real, both.imag), -1)

    for i in range(about["n_blocks"]):
        block = f"blocks.{i}."
        shift, scale, gate, shift_2, scale_2, gate_2 = linear(time, block + "adaLN_modulation").split(width)
        qkv = linear(norm(x, block + "norm1") * (1 + scale) + shift, block + "attn_qkv")
        mixed = []
        for head in range(heads):
            query, key, value = (qkv[:, k * width + head * size :][:, :size] for k in range(3))
            weights = (turned(query) @ turned(key).T / math.sqrt(size)).softmax(-1)
            mixed.append(weights @ value)
        x = x + gate * linear(torch.cat(mixed, -1), block + "attn_out")
        h = linear(norm(x, block + "norm2") * (1 + scale_2) + shift_2, block + "mlp.0")
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + gate_2 * linear(h, block + "mlp.2")
    shift, scale = linear(time, "output_layer.adaLN_modulation").split(width)
    out = linear(norm(x, "output_layer.norm_final") * (1 + scale) + shift, "output_layer.linear")
    out = out - math.log(math.expm1(sigma)) - math.log(out.shape[-1] - 1)
    return out.scatter(-1, ids[:, None], 0.0)

"""SEDD (arXiv 2310.16834) with the absorbing graph, read from its published format.

The network tells ratios of probabilities, scores, and reads a time. For absorbing diffusion a score is a factor of
time times a distribution over tokens that time is no part of (arXiv 2409.02908, 2406.03736): normalised over the
tokens, scores are what a masked diffusion model predicts. The time that the network wants is that at which so large
a share of the response is masked: σ = −log(1 − (1 − ε) · share), the log-linear noise.

A checkpoint is ``config.json`` with ``graph``, ``noise``, ``model`` and ``tokens``, and ``model.safetensors`` under
the names of the published code; its tokenizer is GPT-2's. The mask is the id after the last token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.plain_text import PlainText
from dllm_env.denoisers.tiny import CONFIG, WEIGHTS
from dllm_env.errors import UsageError
from dllm_env.files import write_together
from dllm_env.numerics import digest, in_tiles, rotate, rotation_angles, rows_at_once
from dllm_env.reading import exists, is_file, read_json, read_table
from dllm_env.weights import check_weights, read_safetensors

PAD = -1
"""Stands for padding; no token of the vocabulary."""
FREQUENCIES = 256
"""Numbers that a time is written as before the network reads it."""
LARGEST = {"hidden_size": 2**17, "cond_dim": 2**17, "length": 2**20, "n_blocks": 1024, "n_heads": 1024}
"""Sizes of a network; larger ones would not fit into any memory."""
TOKENS = 2**24
"""Tokens, at most."""
EPSILON = 1e-3
"""What the log-linear noise leaves unmasked at time 1."""
TIMED = "timed"
"""In ``model`` of a configuration, false where the network was trained without the time and is always told 0."""
NEEDS = "a SEDD needs transformers for its tokenizer: pip install 'dllm-env[hf]'"
"""What is said without."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""One of them in a folder says that its tokenizer is there."""


def sigma_of(share: Tensor) -> Tensor:
    """(B,) σ of the log-linear noise at which such a share (B,) is masked."""
    return -torch.log1p(-(1 - EPSILON) * share)


class Norm(nn.Module):
    """Layer norm with a factor and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.weight


class Block(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the time's condition."""

    def __init__(self, width: int, heads: int, condition: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.adaLN_modulation = nn.Linear(condition, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, rotation: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        """x (B, S, d), condition (B, c), rotation of RoPE, real (B, S) bool: not padding."""
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, -1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        h = self.norm1(x) * (1 + scale_1) + shift_1
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attn_qkv(h).chunk(3, -1))
        query, key, value = heads
        mixed = F.scaled_dot_product_attention(
            rotate(query, rotation), rotate(key, rotation), value, attn_mask=real[:, None, None]
        )
        x = x + gate_1 * self.attn_out(mixed.transpose(1, 2).flatten(2))
        h = self.norm2(x) * (1 + scale_2) + shift_2
        return x + gate_2 * self.mlp(h)


class _Embedding(nn.Module):
    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(vocabulary, width))


class _Time(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        half = FREQUENCIES // 2
        frequency = (-math.log(10_000) * torch.arange(half, device=sigma.device) / half).exp()
        angle = sigma[:, None] * frequency
        return self.mlp(torch.cat((angle.cos(), angle.sin()), -1))


class _Output(nn.Module):
    def __init__(self, width: int, vocabulary: int, condition: int) -> None:
        super().__init__()
        self.norm_final = Norm(width)
        self.linear = nn.Linear(width, vocabulary)
        self.adaLN_modulation = nn.Linear(condition, 2 * width)


class SEDDNetwork(nn.Module):
    """The network under its published names: tokens and σ to features, and features to log-scores by ``head``.

    Args:
        vocabulary: tokens, and the mask.
        width, heads, blocks, condition: its sizes.
    """

    def __init__(self, vocabulary: int, width: int, heads: int, blocks: int, condition: int) -> None:
        super().__init__()
        self.size = width // heads
        self.vocab_embed = _Embedding(width, vocabulary)
        self.sigma_map = _Time(condition)
        self.blocks = nn.ModuleList(Block(width, heads, condition) for _ in range(blocks))
        self.output_layer = _Output(width, vocabulary, condition)

    def forward(self, tokens: Tensor, sigma: Tensor, last: int) -> Tensor:
        """(B, S) tokens, ``PAD`` on the left, and (B,) σ to the (B, last, d) features of the last positions."""
        real = tokens != PAD
        x = self.vocab_embed.embedding[tokens.clamp(min=0)]
        condition = F.silu(self.sigma_map(sigma))
        rotation = rotation_angles(tokens.shape[1], self.size, tokens.device)
        for block in self.blocks:
            x = block(x, condition, rotation, real)
        shift, scale = self.output_layer.adaLN_modulation(condition)[:, None].chunk(2, -1)
        return self.output_layer.norm_final(x[:, -last:]) * (1 + scale) + shift

    def head(self, features: Tensor) -> Tensor:
        """(n, d) to (n, V) log-scores, but for what is the same for all tokens."""
        return self.output_layer.linear(features)


class SEDDDenoiser(Denoiser):
    """A SEDD with its tokenizer.

    Args:
        network: with its weights.
        tokenizer: of transformers.
        about: the checkpoint's configuration.
        name: how results call it.
    """

    tells_scores = True

    def __init__(self, network: SEDDNetwork, tokenizer: Any, about: Mapping[str, Any], name: str = "sedd") -> None:
        self.network, self.tokenizer, self.about = network.eval().requires_grad_(False), tokenizer, dict(about)
        self.name, self.pad_id = name, PAD
        weight = network.output_layer.linear.weight
        self.vocabulary, self.hidden_size = weight.shape
        self.device, self.dtype = weight.device, weight.dtype
        self.mask_id, self.max_length = self.vocabulary - 1, int(about["model"]["length"])
        eot = getattr(tokenizer, "eos_token_id", None)
        if not isinstance(eot, int) or not 0 <= eot < self.mask_id:
            raise UsageError(f"{name}: its tokenizer has no end-of-text below the mask, {self.mask_id}")
        self.eot_id = eot
        self.plain_text = PlainText(tokenizer, (self.mask_id, self.eot_id), self.vocabulary - 1)

    def sigma(self, tokens: Tensor, last: int) -> Tensor:
        """(B,) float32, the σ at which so large a share of the last positions is masked; 0 for one without time."""
        share = (tokens[:, -last:] == self.mask_id).float().mean(-1)
        return sigma_of(share) if self.about["model"].get(TIMED, True) else torch.zeros_like(share)

    def features(self, tokens: Tensor, last: int) -> Tensor:
        def some(rows: Tensor) -> Sequence[Tensor]:
            part = tokens[rows]
            return (self.network(part, self.sigma(part, last), last),)

        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.network.parameters())
        if learns or tokens.device.type != "cpu":
            return some(torch.arange(len(tokens), device=tokens.device))[0]
        size = rows_at_once(tokens.shape[1], self.hidden_size)
        return in_tiles(some, len(tokens), size, self, (tokens.shape[1], last))[0]

    def head(self, hidden: Tensor) -> Tensor:
        return self.network.head(hidden)

    @property
    def module(self) -> SEDDNetwork:
        return self.network

    def fingerprint(self) -> str:
        return digest(self.network.state_dict(), json.dumps(self.about, sort_keys=True, default=str))

    def encode(self, text: str) -> list[int]:
        return self.plain_text.encode(text)

    def encode_part(self, text: str) -> list[int]:
        return self.plain_text.encode(text, around=False)

    def decode(self, ids: Sequence[int]) -> str:
        # The mask is no token of GPT-2's.
        known = [[i] if i < self.mask_id else [] for i in map(int, ids)]
        return "".join(str(self.tokenizer.decode(one)) if one else "<mask>" for one in known)

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode([i for i in ids if i < self.mask_id], skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Writes configuration, weights and tokenizer in the published format."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        weights = save({name: value.contiguous() for name, value in self.network.state_dict().items()})
        write_together(folder, {WEIGHTS: weights, CONFIG: (json.dumps(self.about, indent=1) + "\n").encode()})


def is_sedd(folder: Path) -> bool:
    """Whether a folder's configuration is that of a SEDD."""
    if not exists(folder / CONFIG):
        return False
    try:
        about = read_json(folder / CONFIG)
    except UsageError:
        return False
    return isinstance(about, dict) and isinstance(about.get("graph"), dict) and isinstance(about.get("model"), dict)


def load_sedd(folder: Path, name: str, device: str | torch.device = "cpu") -> SEDDDenoiser:
    """A SEDD from its folder.

    Raises:
        UsageError: files that are missing, damaged or do not fit; another graph or noise; no tokenizer.
    """
    about = read_table(folder / CONFIG)
    network = SEDDNetwork(*_sizes(about, str(folder / CONFIG)))
    if not is_file(folder / WEIGHTS):
        raise UsageError(f"{folder}: {WEIGHTS} is missing; weights in other formats are not read")
    state, _ = read_safetensors(folder / WEIGHTS)
    state = {
        key: value for key, value in state.items() if not key.endswith("inv_freq")
    }  # of RoPE, kept as a buffer
    check_weights(state, network.state_dict(), f"{folder / WEIGHTS}")
    network.load_state_dict(state)
    return SEDDDenoiser(network.to(device), _tokenizer(folder), about, name)


def _sizes(about: Mapping[str, Any], where: str) -> tuple[int, int, int, int, int]:
    """Vocabulary, width, heads, blocks and width of the condition."""
    for part, wanted in (("graph", "absorb"), ("noise", "loglinear")):
        kind = about[part].get("type") if isinstance(about.get(part), dict) else None
        if kind != wanted:
            raise UsageError(
                f"{where}: only a SEDD of the {part} {wanted!r} unmasks tokens; this one's is {kind!r}"
            )
    model = about["model"]
    sizes = {"tokens": about.get("tokens"), **{name: model.get(name) for name in LARGEST}}
    for name, value in sizes.items():
        most = LARGEST.get(name, TOKENS)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise UsageError(f"{where}: {name} has to be a whole number from 1 to {most:,}, got {value!r}")
    width, heads = sizes["hidden_size"], sizes["n_heads"]
    if width % heads or width // heads % 2:
        raise UsageError(f"{where}: width {width} has to be an even multiple of heads {heads}")
    return sizes["tokens"] + 1, width, heads, sizes["n_blocks"], sizes["cond_dim"]


def _tokenizer(folder: Path) -> Any:
    """The folder's, or GPT-2's from the Hub."""
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError:
        raise UsageError(NEEDS) from None
    try:
        if is_file(folder / "tokenizer.json"):
            return PreTrainedTokenizerFast.from_pretrained(folder)
        place = folder if any(is_file(folder / name) for name in TOKENIZER_FILES) else "openai-community/gpt2"
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # transformers raises all kinds of errors for damaged files
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UsageError(
            f"{folder} has no tokenizer that can be read, and GPT-2's cannot be had from the Hub: {reason}"
        ) from None

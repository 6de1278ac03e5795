"""The bundled denoiser: a small masked diffusion transformer without time input.

No time input is needed: the number of masks already tells how far generation is (arXiv 2409.02908). Each block is
pre-norm bidirectional attention with RoPE and normalised queries and keys, then a GELU feed-forward. Before
attention a depthwise convolution over neighbouring positions is added; without it a model of this size takes
several times longer to learn to look at the token next to the one that it needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from dllm_env.denoisers.base import Denoiser, attending
from dllm_env.errors import UsageError
from dllm_env.files import write_together
from dllm_env.numerics import digest, in_tiles, of_distinct, rotate, rotation_angles, rows_at_once
from dllm_env.reading import as_table, check_fields, check_value, is_file, read_table, reason
from dllm_env.specs import check_types
from dllm_env.tasks.cascade import CASCADE
from dllm_env.tasks.choice import CHOICE
from dllm_env.tasks.copying import COPY
from dllm_env.tasks.sudoku import BLANK
from dllm_env.tasks.trace import BACKWARD, FILLERS, OPERATIONS
from dllm_env.weights import (
    DIGESTS,
    SHAPES,
    check_weights,
    digest_of_bytes,
    fits,
    not_fitting,
    pack,
    read_safetensors,
    unpack,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"

LARGEST, DEEPEST = 2**17, 1024
"""Sizes of a network, and its layers: larger ones would not fit into any memory."""

PAD, MASK, END = "<pad>", "<mask>", "<eot>"
WORDS = (PAD, MASK, END, *"0123456789", *OPERATIONS, *FILLERS, ";", BLANK, *"abcdefghijklmnopqrstuvwx")
"""The vocabulary of ``tiny`` and ``tiny-b``: every word of ``trace`` and ``sudoku`` is one token."""
MANY_WORDS = (*WORDS, BACKWARD, CASCADE, CHOICE, COPY)
"""That of ``many`` and ``many-b``: every word of every bundled task."""


@dataclass(frozen=True)
class TinyConfig:
    """Shape of the network."""

    width: int = 128
    """Model width d."""
    layers: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    feed_forward: int = 256
    """Width of the feed-forward layer."""
    convolution: int = 5
    """Positions that the depthwise convolution sees (odd)."""
    max_length: int = 128
    """Longest prompt plus response in tokens."""

    def __post_init__(self) -> None:
        check_types(self)
        if (
            max(self.width, self.feed_forward, self.max_length) > LARGEST
            or max(self.layers, self.convolution) > DEEPEST
        ):
            raise UsageError(f"a denoiser has at most {DEEPEST:,} layers, and sizes up to {LARGEST:,}, got {self}")
        if min(self.width, self.layers, self.heads, self.feed_forward, self.convolution, self.max_length) < 1:
            raise UsageError(f"every size of a denoiser must be at least 1, got {self}")
        if self.convolution % 2 == 0:
            raise UsageError(f"a denoiser's convolution has to be odd, got {self.convolution}")
        if self.width % self.heads or self.width // self.heads % 2:
            raise UsageError(f"width {self.width} has to be an even multiple of heads {self.heads}")


class _Seen:
    """Adds up what the last n positions attend to among themselves; ``total`` (B, n, n) is the sum over layers."""

    def __init__(self, last: int) -> None:
        self.last, self.layers, self.total = last, 0, torch.zeros(())

    def add(self, query: Tensor, key: Tensor, real: Tensor) -> None:
        """Queries and keys (B, heads, m, size) of a layer, and (B, S) bool, which keys are no padding."""
        scores = query[:, :, -self.last :] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~real[:, None, None], -torch.inf).softmax(-1)
        self.total = self.total + weights[..., -self.last :].mean(1)
        self.layers += 1


class TinyBlock(nn.Module):
    """Convolution, attention, feed-forward, each added to the residual stream."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.attention_norm = nn.RMSNorm(d)
        self.convolution = nn.Conv1d(
            d, d, config.convolution, padding=config.convolution // 2, groups=d, bias=False
        )
        self.query_key_value = nn.Linear(d, 3 * d, bias=False)
        self.query_norm = nn.RMSNorm(d // config.heads)
        self.key_norm = nn.RMSNorm(d // config.heads)
        self.attention_out = nn.Linear(d, d, bias=False)
        self.feed_forward_norm = nn.RMSNorm(d)
        self.feed_forward_in = nn.Linear(d, config.feed_forward, bias=False)
        self.feed_forward_out = nn.Linear(config.feed_forward, d, bias=False)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], real: Tensor, last: int, seen: _Seen | None = None
    ) -> Tensor:
        """x (B, S, d), rotation of RoPE, real (B, S) bool: not padding; (B, last, d) of the last positions.

        ``seen`` is told what positions attend to.
        """
        h = self.attention_norm(x) * real[..., None]
        h = h + self.convolution(h.transpose(1, 2)).transpose(1, 2)
        query, key, value = self._heads(*self._project(h, last), rotation)
        if seen is not None:
            seen.add(query, key, real)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        return self._finish(x[:, -last:], mixed)

    def shadow(self, x: Tensor, shadow: Tensor, rotation: tuple[Tensor, Tensor], real: Tensor) -> Tensor:
        """The second stream after this block, (B, n, d), of the last n positions; x (B, S, d): the first before it.

        A shadow looks at itself in its own place, and at the first stream everywhere else.
        """
        n = shadow.shape[1]
        h = self.attention_norm(x) * real[..., None]
        own = self.attention_norm(shadow) * real[:, -n:, None]
        near = self.convolution(h.transpose(1, 2)).transpose(1, 2)
        center = self.convolution.weight[:, 0, self.convolution.kernel_size[0] // 2]
        own = own + near[:, -n:] + center * (own - h[:, -n:])
        _, key, value = self._project(h + near, 0)
        query, own_key, own_value = self.query_key_value(own).chunk(3, -1)
        query, key, value = self._heads(query, key, value, rotation)
        _, own_key, own_value = self._heads(own_key, own_key, own_value, rotation)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        own_scores = (query * own_key).sum(-1, keepdim=True) / query.shape[-1] ** 0.5
        places = torch.arange(x.shape[1], device=x.device)
        hidden = ~real[:, None, None, :] | (places[-n:, None] == places)
        weights = torch.cat([scores.masked_fill(hidden, -torch.inf), own_scores], -1).softmax(-1)
        return self._finish(shadow, weights[..., :-1] @ value + weights[..., -1:] * own_value)

    def _project(self, h: Tensor, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last positions, keys and values of all, (B, …, d) each, from h (B, S, d)."""
        if last == h.shape[1] or type(self.query_key_value) is not nn.Linear:  # an adapter is no mere product
            query, key, value = self.query_key_value(h).chunk(3, -1)
            return query[:, h.shape[1] - last :], key, value
        query = F.linear(h[:, h.shape[1] - last :], self.query_key_value.weight[: h.shape[-1]])
        key, value = F.linear(h, self.query_key_value.weight[h.shape[-1] :]).chunk(2, -1)
        return query, key, value

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, n, d) each to (B, heads, n, d / heads), queries and keys normalised and rotated."""
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (query, key, value))
        return rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation), value

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Adds what attention mixed, (B, heads, n, d / heads), and the feed-forward to x (B, n, d)."""
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        return x + self.feed_forward_out(F.gelu(self.feed_forward_in(self.feed_forward_norm(x))))


class TinyTransformer(nn.Module):
    """The network: (B, S) tokens to features, and features to logits by ``head``."""

    def __init__(self, config: TinyConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        # Not drawn: all weights are loaded or drawn later, and on the meta device it would load torch's compiler.
        self.embedding = nn.Embedding.from_pretrained(torch.zeros(vocabulary, config.width), freeze=False)
        self.blocks = nn.ModuleList(TinyBlock(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, vocabulary, bias=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draws the weights: outputs of the residual branches and the head start at zero."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            elif name.endswith(("attention_out.weight", "feed_forward_out.weight", "head.weight")):
                parameter.zero_()
            else:
                fan_in = 1 if name.startswith("embedding") else parameter[0].numel()
                parameter.normal_(0.0, fan_in**-0.5, generator=generator)

    def forward(self, tokens: Tensor, pad_id: int, last: int = 0, seen: _Seen | None = None) -> Tensor:
        """(B, S) tokens to (B, last, d) features of the last positions; 0 takes all.

        Other positions give the last block keys and values only. ``seen`` is told the attention of the last blocks.
        """
        config = self.config
        length = tokens.shape[1]
        real = tokens != pad_id
        rotation = rotation_angles(length, config.width // config.heads, tokens.device)
        x = self.embedding(tokens) * real[..., None]
        first = len(self.blocks) - attending(len(self.blocks))
        for i, block in enumerate(self.blocks):
            kept = last if last and i == len(self.blocks) - 1 else length
            x = block(x, rotation, real, kept, seen if i >= first else None)
        return self.norm(x)

    def shadow(self, tokens: Tensor, pad_id: int, mask_id: int, last: int) -> tuple[Tensor, Tensor]:
        """Features of the last positions and of their shadows, (B, last, d) each.

        See ``Denoiser.shadow_features``.
        """
        config = self.config
        real = tokens != pad_id
        rotation = rotation_angles(tokens.shape[1], config.width // config.heads, tokens.device)
        x = self.embedding(tokens) * real[..., None]
        shadow = self.embedding.weight[mask_id].expand(len(tokens), last, -1)
        for i, block in enumerate(self.blocks, 1):
            kept = last if i == len(self.blocks) else tokens.shape[1]
            assert isinstance(block, TinyBlock)
            x, shadow = block(x, rotation, real, kept), block.shadow(x, shadow, rotation, real)
        return self.norm(x), self.norm(shadow)


class TinyDenoiser(Denoiser):
    """The bundled transformer behind the ``Denoiser`` interface, saved as safetensors and JSON.

    Args:
        network: the transformer.
        words: the vocabulary, one word a token; it has to hold the three special tokens.
        name: how the denoiser is called in results.
    """

    def __init__(self, network: TinyTransformer, words: Sequence[str] = WORDS, name: str = "tiny") -> None:
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.words = tuple(words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.pad_id, self.mask_id, self.eot_id = (self._ids[word] for word in (PAD, MASK, END))
        self.vocabulary = len(self.words)
        self.hidden_size = network.config.width
        self.max_length = network.config.max_length
        self.device = network.head.weight.device

    def features(self, tokens: Tensor, last: int) -> Tensor:
        return self._by_rows(lambda some: (self.network(some, self.pad_id, last),), tokens, last, "features")[0]

    def shadow_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        def both(some: Tensor) -> tuple[Tensor, Tensor]:
            return self.network.shadow(some, self.pad_id, self.mask_id, last)

        x, shadow = self._by_rows(both, tokens, last, "shadow")
        return x, shadow

    def attending_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        def both(some: Tensor) -> tuple[Tensor, Tensor]:
            seen = _Seen(last)
            return self.network(some, self.pad_id, last, seen), seen.total / seen.layers

        x, attention = self._by_rows(both, tokens, last, "attention")
        return x, attention

    def _by_rows(
        self, function: Callable[[Tensor], Sequence[Tensor]], tokens: Tensor, last: int, what: str
    ) -> Sequence[Tensor]:
        """A function of tokens (B, S); on the processor in tiles, but for training."""
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.network.parameters())
        if learns or tokens.device.type != "cpu":
            return function(tokens)
        length = tokens.shape[1]
        size = rows_at_once(length, self.hidden_size)

        def in_rows(some: Tensor) -> Sequence[Tensor]:
            return in_tiles(lambda rows: function(some[rows]), len(some), size, self, (what, length, last))

        return of_distinct(in_rows, tokens)

    def head(self, hidden: Tensor) -> Tensor:
        return self.network.head(hidden)

    @property
    def module(self) -> TinyTransformer:
        return self.network

    def fingerprint(self) -> str:
        about = json.dumps([asdict(self.network.config), self.words])
        return digest(self.network.state_dict(), about)

    def encode(self, text: str) -> list[int]:
        # Text is text: what looks like a special token is a word that it does not know.
        unknown = [word for word in text.split() if word not in self._ids or word in (PAD, MASK, END)]
        if unknown:
            raise UsageError(f"denoiser {self.name!r} does not know the word {unknown[0]!r} of the prompt")
        return [self._ids[word] for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[int(i)] for i in ids)

    def save(self, folder: Path, packed: bool = False) -> None:
        """Writes ``model.safetensors`` and ``config.json``, which has the digest of the weights.

        Args:
            folder: where to.
            packed: weights as ``weights.pack`` makes them, as the bundled ones are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = self.network.state_dict()
        weights = save(*pack(state)) if packed else save(state)
        digests = {WEIGHTS: digest_of_bytes(weights)}
        about = {"network": asdict(self.network.config), "words": list(self.words), DIGESTS: digests}
        write_together(folder, {WEIGHTS: weights, CONFIG: (json.dumps(about, indent=1) + "\n").encode()})

    @classmethod
    def load(cls, folder: Path, name: str | None = None, device: str | torch.device = "cpu") -> TinyDenoiser:
        """Reads what ``save`` wrote.

        Raises:
            UsageError: a file is missing, damaged, or does not fit the network.
        """
        for file in (CONFIG, WEIGHTS):
            if not is_file(folder / file):
                raise UsageError(f"no denoiser in {folder}: {file} is missing")
        try:
            about = read_table(folder / CONFIG)
            words, shape = _checked(about)
            if not fits(folder, about):
                raise not_fitting(folder, CONFIG, WEIGHTS)
            state, beside = read_safetensors(folder / WEIGHTS)
            if SHAPES in beside:
                state = unpack(state, beside)
            with torch.device("meta"):  # nothing is made of these sizes before the weights are known to have them
                network = TinyTransformer(shape, len(words))
            check_weights(state, network.state_dict(), WEIGHTS)
            # Assigned, not copied into empty ones: making these from the meta device would load sympy.
            made = {key: value.clone() for key, value in state.items()}
            network.load_state_dict(made, assign=True)
            return cls(network.to(device), words, name or str(folder))
        except (UsageError, RuntimeError) as error:
            raise UsageError(f"cannot load the denoiser in {folder}: {reason(error)}") from None


def _checked(about: Mapping[str, Any]) -> tuple[list[str], TinyConfig]:
    """The words and the shape that a denoiser's ``config.json`` says.

    Raises:
        UsageError: one of them is missing or of another type.
    """
    for name in ("network", "words"):
        if name not in about:
            raise UsageError(f"{CONFIG}: the field {name!r} is missing")
    words = about["words"]
    check_value(words, list[str], f"{CONFIG}: words")
    if len(set(words)) < len(words) or not {PAD, MASK, END} <= set(words):
        raise UsageError(f"{CONFIG}: words have to be different, and {PAD}, {MASK} and {END} among them")
    shape = as_table(about["network"], f"{CONFIG}: network")
    check_fields(TinyConfig, shape, f"{CONFIG}: network")
    return words, TinyConfig(**shape)

"""Diffusion language models in Hugging Face's format, read by transformers' own classes without remote code.

What can be loaded, by ``load_denoiser``, with a checkpoint's folder or its name on the Hub (``checkpoints.py``):

* LLaDA (arXiv 2502.09992): Llama with full attention; its configuration and names of weights are translated.
* Dream (arXiv 2508.15487): Qwen2 with full attention, whose position i predicts token i + 1.
* Autoregressive models that were converted to masked diffusion (``a2d-…``, or any decoder of transformers with a
  mask token): full attention is switched on.
* Masked language models (``AutoModelForMaskedLM``): BERT, RoBERTa, ModernBERT, …
* Block-causal models (SDAR, TraDo, Fast-dLLM v2, conversions of the kind ``bd3lm``): a position sees its own block
  and finished ones, whose keys and values are kept; see ``families.py``.

Settings stand behind a colon, ``GSAI-ML/LLaDA-8B-Instruct:dtype=bfloat16,chat=1``; see ``Options``. What a model
claims is tried out when it is loaded: a token must see what stands to its right, and padding must change nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, PrefixCache
from dllm_env.denoisers.plain_text import PlainText
from dllm_env.errors import UsageError
from dllm_env.numerics import digest, in_tiles, of_distinct

try:
    import transformers as transformers  # for checkpoints.py, too, which needs the same message
except ImportError:
    raise UsageError("models in Hugging Face's format need transformers: pip install 'dllm-env[hf]'") from None

from dllm_env.denoisers.attention import seeing
from dllm_env.denoisers.backbones import Decoder, backbone, evaluation_mode
from dllm_env.denoisers.families import Family, find_family, refuse_unsupported, said_by
from dllm_env.denoisers.saving import refuse_unsaved, save_huggingface

PAD = -1
"""Stands for padding; no token of a vocabulary, because several models pad with their end-of-text."""

SAMPLED = 1024
"""How many numbers of each weight the fingerprint reads."""


@dataclass(frozen=True)
class Options:
    """How a checkpoint is loaded and talked to."""

    dtype: str = "auto"
    """float32, bfloat16 or float16; auto: float32 on a CPU, the checkpoint's own elsewhere."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: the first GPU, where there is one."""
    device_map: str = ""
    """auto spreads the model over all GPUs (by accelerate)."""
    attention: str = "sdpa"
    """transformers' attention implementation: sdpa, eager, flash_attention_2, …"""
    chat: bool | None = None
    """Put prompts into the tokenizer's chat template; none: where it has one."""
    shift: bool | None = None
    """Position i predicts token i + 1, instead of token i; none: what the family does."""
    mask: int = -1
    """Id of the mask token; −1: the checkpoint's."""
    attention_block: int = -1
    """Tokens of a block, of a model that sees its own block and those before it only; 0: it sees everything; −1:
    what the family does."""
    blocks_from: str = ""
    """Where such blocks are counted from: the first token of the prompt, or of the response; empty: the prompt."""
    bits: int = 0
    """4 or 8: weights are held in so many bits, by bitsandbytes; 0: as they are."""
    cache: bool = True
    """Keep keys and values of finished blocks, of such a model: exact, and faster."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a checkpoint, with all your rights; only for what is not supported
    without, and only from people whom you trust."""

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UsageError(f"unknown dtype {self.dtype!r}; choose auto, float32, bfloat16 or float16")
        if self.bits not in (0, 4, 8):
            raise UsageError(f"a denoiser's bits are 4, 8, or 0 for its weights as they are, got {self.bits}")
        if not -1 <= self.attention_block <= 2**20:
            raise UsageError(f"attention_block is a number of tokens, 0, or -1, got {self.attention_block}")
        if self.blocks_from not in ("", "prompt", "response"):
            raise UsageError(f"a denoiser's blocks_from is prompt or response, got {self.blocks_from!r}")
        for name in ("chat", "shift"):
            if getattr(self, name) not in (None, False, True):
                raise UsageError(f"a denoiser's {name} is true, false or None, got {getattr(self, name)!r}")


# -------------------------------------------------------------------------------------------- denoiser


class HuggingFaceDenoiser(Denoiser):
    """A model and its tokenizer as a denoiser.

    Args:
        model: of transformers, or anything that answers ``input_ids`` with ``logits``.
        tokenizer: of transformers.
        name: how results call it.
        options: of these ``chat``, ``shift`` and ``mask`` count here.
        raw: the checkpoint's configuration as it was published.

    Raises:
        UsageError: no mask token or end-of-text is known, or the model attends to the left only.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "",
        options: Options = Options(),
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        config = getattr(model, "config", None)
        known = dict(raw or {})
        place, kind = name or str(getattr(config, "name_or_path", "")), type(model).__name__
        family = find_family(place, known, config, kind)
        refuse_unsupported(place, family, kind)
        self.model, self.tokenizer, self.options, self.raw = model, tokenizer, options, known
        self.name = place or kind
        block = options.attention_block
        if block < 0 and family.named not in (0, family.attention_block):
            said = family.attention_block
            raise UsageError(
                f"{self.name} attends in blocks of {family.named} by its name, and of {said} by its config.json; "
                f"say which with attention_block={family.named} or attention_block={said}"
            )
        self.attention_block = family.attention_block if block < 0 else block
        self.blocks_from_response = options.blocks_from == "response"
        if self.blocks_from_response and not self.attention_block:
            raise UsageError(f"{self.name} attends in no blocks, so that blocks_from=response means nothing")
        self.parts = backbone(model, self.attention_block)
        self.shift = family.shift if options.shift is None else bool(options.shift)
        self.settles_first = self.shift and self.attention_block > 0
        templated = bool(getattr(tokenizer, "chat_template", None))
        self.chat = templated if options.chat is None else bool(options.chat)
        self.pad_id = PAD
        self.mask_id = _mask_of(self.name, family, known, config, tokenizer, options.mask)
        self.eot_id = _first_id(
            _id(tokenizer, "eos_token"), said_by(known, config, "eos_token_id"), _id(tokenizer, "sep_token")
        )
        if self.eot_id < 0:
            raise UsageError(f"{self.name}: its tokenizer has no end-of-text (eos_token or sep_token)")
        self._ends = _ends(tokenizer, self.eot_id, said_by(known, config, "eos_token_id"))
        weight = next(iter(model.parameters()))
        self.device = weight.device
        self.dtype = weight.dtype
        self.vocabulary = int(said_by(known, config, "embedding_size") or said_by(known, config, "vocab_size") or 0)
        rows = _rows(known, config)
        if 0 < rows <= self.mask_id:
            raise UsageError(
                f"{self.name}: its mask token is {self.mask_id}, but it knows {self.vocabulary:,} tokens"
            )
        self.plain_text = PlainText(tokenizer, (self.mask_id, *self._ends), rows)
        self.hidden_size = self.parts.hidden_size
        if self.attention_block and not isinstance(self.parts, Decoder):
            raise UsageError(f"{self.name} cannot attend in blocks: it is no decoder that transformers can compute")
        self.caches_prefix = isinstance(self.parts, Decoder)
        self.keeps_blocks = bool(self.attention_block) and options.cache
        length = said_by({}, config, "max_position_embeddings") or known.get("max_sequence_length") or 2**20
        self.max_length = int(length) - getattr(self.parts, "_first", 0)
        with evaluation_mode(model):
            self._check()

    def features(self, tokens: Tensor, last: int) -> Tensor:
        if not self.pads and self._real(tokens) is not None:
            raise UsageError(f"{self.name} cannot pad prompts; give prompts of one length, or one at a time")
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.model.parameters())
        with evaluation_mode(self.model):
            if learns or tokens.device.type != "cpu":
                return self._features(tokens, last)

            def row_by_row(some: Tensor) -> list[Tensor]:
                # On the processor more at once are hardly faster, and their number would show.
                return in_tiles(lambda row: (self._features(some[row], last),), len(some), 1, self, last)

            return of_distinct(row_by_row, tokens)[0]

    def _features(self, tokens: Tensor, last: int) -> Tensor:
        real, length = self._real(tokens), tokens.shape[1]
        shown = self._to_end_of_block(tokens)
        ids, known = shown.clamp(min=0), self._real(shown)
        if isinstance(self.parts, Decoder) and self.blocks_from_response:
            hidden = self.parts.features(ids, known, self._lacks(tokens, last))
        else:
            hidden = self.parts.features(ids, known)
        hidden = hidden[:, :length].to(tokens.device)  # spread over devices, it ends on another
        return self._cut(hidden, last, real)

    def _lacks(self, tokens: Tensor, last: int) -> Tensor:
        """(B,) int64, by how many tokens a row's first block is shorter than the others."""
        if not self.blocks_from_response:
            return tokens.new_zeros(len(tokens))
        prompt = (tokens[:, : tokens.shape[1] - last] != PAD).sum(-1)
        return -prompt % self.attention_block

    def _to_end_of_block(self, tokens: Tensor) -> Tensor:
        """The same, with as many masks behind as the last block may lack: it has learned blocks that are whole."""
        more = max(self.attention_block - 1, 0)
        return F.pad(tokens, (0, more), value=self.mask_id) if more else tokens

    def attending_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        with evaluation_mode(self.model):
            if tokens.device.type != "cpu":
                return self._attending_features(tokens, last)
            x, attention = in_tiles(
                lambda row: self._attending_features(tokens[row], last), len(tokens), 1, self, ("attention", last)
            )
        return x, attention

    def _attending_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        base = getattr(self.parts, "base", None)
        count = min(last + int(self.shift), tokens.shape[1])
        with seeing(base, count) if base is not None else nullcontext() as seen:
            hidden = self._features(tokens, last)
        if seen is None or not seen.layers:
            raise UsageError(f"denoiser {self.name!r} does not show what its positions attend to")
        attention = (seen.total / seen.layers).to(tokens.device)
        return hidden, self._cut(attention, last, self._real(tokens))[..., -last:]

    def cached_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        features = self._kept_features if self.attention_block else self._cached_features
        with evaluation_mode(self.model):
            if tokens.device.type != "cpu":
                return features(tokens, last, prefix)
            found = []
            for row in torch.arange(len(tokens)).split(1):
                own = prefix[row]
                found.append(features(tokens[row], last, own))
                prefix.write(row, own)
        return torch.cat(found)

    def _kept_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        """What stands before the block of a row's active one is kept: it sees nothing behind, so that is exact.

        A row in a new block is evaluated from where its last one began, others from where this one does.
        """
        assert isinstance(self.parts, Decoder)
        size, shown = self.attention_block, self._to_end_of_block(tokens)
        ids, real = shown.clamp(min=0), shown != PAD
        before, lacks = (~real).sum(-1), self._lacks(tokens, last)
        origin = before - lacks
        begin = torch.maximum(origin + (prefix.start - origin) // size * size, before)
        end = origin - (origin - prefix.end) // size * size  # rounded up
        done = torch.maximum(prefix.kept, before)
        first = torch.maximum(done - int(self.shift), before)
        out = torch.zeros(*ids.shape, self.hidden_size, device=self.device, dtype=self.model.dtype)
        new = done < begin
        for some in (new, ~new):
            rows = some.nonzero()[:, 0]
            if not len(rows):
                continue
            width = int((end - first)[rows].max())
            place = first[rows, None] + torch.arange(width, device=ids.device)
            place = torch.minimum(place, end[rows, None] - 1)
            part = prefix[rows]
            hidden = self.parts.look(ids[rows], real[rows], place, part.layers, lacks[rows])
            out[rows[:, None], place] = hidden
            part.kept = begin[rows]
            prefix.write(rows, part)
        return self._cut(out[:, : tokens.shape[1]], last, real[:, : tokens.shape[1]])

    def _cached_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        assert isinstance(self.parts, Decoder)
        ids, real = tokens.clamp(min=0), tokens != PAD
        start = (prefix.start - int(self.shift)).clamp(min=0)
        out = torch.zeros(
            len(tokens), tokens.shape[1], self.hidden_size, device=self.device, dtype=self.model.dtype
        )
        fresh = prefix.kept != start
        if fresh.any():
            rows = fresh.nonzero()[:, 0]
            out[rows], layers = self.parts.begin(ids[rows], real[rows])
            begun = PrefixCache(len(rows), tokens.device)
            begun.start, begun.kept, begun.layers = prefix.start[rows], start[rows], layers
            prefix.write(rows, begun)
        if not fresh.all():
            rows = (~fresh).nonzero()[:, 0]
            kept = [(keys[rows], values[rows]) for keys, values in prefix.layers]
            hidden, first = self.parts.go_on(ids[rows], real[rows], start[rows], kept)
            out[rows, first:] = hidden
        return self._cut(out, last, real)

    def _real(self, tokens: Tensor) -> Tensor | None:
        """(B, S) bool: no padding; None where there is none."""
        real = tokens != PAD
        return None if bool(real.all()) else real

    def _cut(self, hidden: Tensor, last: int, real: Tensor | None) -> Tensor:
        """(B, last, d): the hidden states that predict the last positions.

        Shifted, the first token of a text has none before it and is predicted by its own, padded or not.
        """
        if not self.shift:
            return hidden[:, -last:]
        if last == hidden.shape[1]:
            return torch.cat((hidden[:, :1], hidden[:, :-1]), 1)
        before = hidden[:, -last - 1 : -1]
        if real is None or bool(real[:, -last - 1].all()):
            return before
        first = torch.where(real[:, -last - 1, None], before[:, 0], hidden[:, -last])
        return torch.cat((first[:, None], before[:, 1:]), 1)

    def head(self, hidden: Tensor) -> Tensor:
        with evaluation_mode(self.model):
            return self.parts.head(hidden).to(hidden.device)

    @torch.no_grad()
    def _check(self) -> None:
        """Tries out what everything else relies on, on a few tokens."""
        known = [i for i in range(min(self.vocabulary, 4096)) if i not in (self.mask_id, *self.end_ids)]
        a, b, c, d = (known[len(known) * k // 5] for k in range(1, 5))
        first = self.parts.features(torch.tensor([[a, b, c]], device=self.device), None)
        other = self.parts.features(torch.tensor([[a, b, d]], device=self.device), None)
        if not bool(first.isfinite().all()):
            raise UsageError(
                f"{self.name}: its hidden states are NaN or infinite; weights or config.json are damaged"
            )
        if torch.equal(first[:, 0], other[:, 0]) and not 0 < self.attention_block < 3:
            raise UsageError(
                f"{self.name} attends to the left only, so it cannot predict masks from what follows them; "
                f"another attention implementation may help: {self.name}:attention=eager"
            )
        if self.attention_block:
            self._check_blocks([a, b, c, d])
        self.pads = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ids = torch.tensor([[0, 0, a, b, c], [a, b, c, d, a]], device=self.device)
                real = torch.tensor([[0, 0, 1, 1, 1], [1] * 5], device=self.device).bool()
                padded = self.parts.features(ids, real)[:1, 2:]
            except Exception:
                return
        scale = first.float().abs().max()
        self.pads = bool((padded - first).float().abs().max() <= 0.05 * scale)

    def _check_blocks(self, some: list[int]) -> None:
        """Whether a later block changes an earlier one, and its own block does."""
        size = self.attention_block
        ids = torch.tensor([(some * size)[: 2 * size]] * 3, device=self.device)
        ids[1, size], ids[2, size - 1] = some[(some.index(int(ids[0, size])) + 1) % 4], some[size % 4]
        plain, behind, within = (self.parts.features(row[None], None)[0, :size] for row in ids)
        if not torch.allclose(plain, behind, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
            raise UsageError(
                f"{self.name} does not keep to blocks of {size}: a later block changes what stands in an earlier "
                f"one; another attention implementation may help: {self.name}:attention=eager"
            )
        if size > 1 and torch.equal(plain[0], within[0]):
            raise UsageError(
                f"{self.name} attends to the left only, and not to the rest of a block; another attention "
                f"implementation may help: {self.name}:attention=eager"
            )

    @property
    def module(self) -> torch.nn.Module:
        found: torch.nn.Module = self.model
        return found

    @contextmanager
    def learning(self) -> Iterator[None]:
        with evaluation_mode(self.model), self.parts.full_attention():
            yield

    def save(self, folder: Path) -> None:
        """Writes weights under their published names, configuration and tokenizer."""
        save_huggingface(self, folder)

    def check_saves(self) -> None:
        refuse_unsaved(self)

    def fingerprint(self) -> str:
        """A digest of a sample of each weight, and of how the model is used."""
        sample = {}
        for name, value in self.model.state_dict().items():
            flat = value.detach().reshape(-1)
            sample[name] = flat[:: max(len(flat) // SAMPLED, 1)]
        return digest(sample, repr((self.shift, self.chat, self.mask_id, transformers.__version__, *self._blocks)))

    @property
    def _blocks(self) -> tuple[int, ...]:
        """N, where there is one: fingerprints of others are what they were."""
        return (self.attention_block,) if self.attention_block else ()

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self._ends

    def encode(self, text: str) -> list[int]:
        if self.chat:
            return self.plain_text.conversation([{"role": "user", "content": text}])
        return self.plain_text.encode(text)

    def encode_part(self, text: str) -> list[int]:
        return self.plain_text.encode(text, around=False)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _id(tokenizer: Any, name: str) -> Any:
    """A special token's id; without a warning where there is none."""
    known = getattr(tokenizer, "special_tokens_map", {})
    return getattr(tokenizer, f"{name}_id", None) if name in known else None


def _mask_of(name: str, family: Family, raw: Mapping[str, Any], config: Any, tokenizer: Any, asked: int) -> int:
    """The id of the mask token.

    Raises:
        UsageError: none is known, or the tokenizer has another than all models of the family. Transformers gives a
            mask token that a vocabulary lacks an id of its own, and says nothing.
    """
    published, own = said_by(raw, config, "mask_token_id"), _id(tokenizer, "mask_token")
    found = _first_id(asked, published, own, family.mask)
    if found < 0:
        raise UsageError(
            f"{name}: no mask token is known; say which with {name}:mask=ID, in Python with "
            "options=Options(mask=ID)"
        )
    if max(asked, _first_id(published)) < 0 <= family.mask < _rows(raw, config) and found != family.mask:
        raise UsageError(
            f"{name}: its tokenizer's mask token is {found}, that of {family.title} is {family.mask}; say which "
            f"with {name}:mask={family.mask} or mask={found}"
        )
    return found


def _rows(raw: Mapping[str, Any], config: Any) -> int:
    """Tokens that the model knows, padding included; 0 where nothing says it."""
    # ELECTRA calls the width of its embeddings embedding_size, others the number of their rows.
    return max(int(said_by(raw, config, name) or 0) for name in ("embedding_size", "vocab_size"))


def _first_id(*candidates: Any) -> int:
    """The first that is an id; −1 for none."""
    for candidate in candidates:
        one = candidate[0] if isinstance(candidate, list) and candidate else candidate
        if isinstance(one, int) and one >= 0:
            return one
    return -1


def _ends(tokenizer: Any, eot_id: int, listed: Any) -> tuple[int, ...]:
    """All tokens that end a text: end-of-text, the configuration's, and the known ends of a turn."""
    ends = {eot_id, *(listed if isinstance(listed, list) else ())}
    vocabulary = tokenizer.get_vocab()
    ends |= {vocabulary[word] for word in ("<|endoftext|>", "<|eot_id|>", "<|im_end|>") if word in vocabulary}
    return tuple(sorted(ends))

"""Models of transformers in two parts: tokens to hidden states, and hidden states to logits.

Between the two the positions are picked whose predictions are needed, so that logits of all positions never exist.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values (B, heads, S, size) of each layer."""


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """A model without dropout as long as this lasts; then each of its modules is in the mode that it was in."""
    training = [module for module in getattr(model, "modules", list)() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers' own progress bars stay away while this lasts."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Backbone(ABC):
    """A model in two parts: tokens to hidden states, and hidden states to logits.

    Attributes:
        hidden_size: width of the hidden states; 0 where there are none to show.
    """

    hidden_size: int

    @abstractmethod
    def features(self, ids: Tensor, real: Tensor | None) -> Tensor:
        """(B, S) token ids and (B, S) bool, what is no padding (None: everything), to (B, S, d)."""

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """(n, d) to (n, V) logits."""

    def full_attention(self) -> AbstractContextManager[None]:
        """While this lasts, every position looks everywhere; of what does so anyway, nothing."""
        return nullcontext()


class Decoder(Backbone):
    """A causal language model of transformers, with full attention as long as it is asked, or with that in blocks.

    Args:
        model: with a base model and output embeddings. It is left as it is.
        block: N, a position sees its own block of so many and those before; 0: everything.
    """

    def __init__(self, model: PreTrainedModel, block: int = 0) -> None:
        self.config: Any = model.config
        self.block = block
        self.base: Any = model.base_model
        self.output: Any = model.get_output_embeddings()
        self.hidden_size = int(self.config.hidden_size)
        self._causal: list[Any] = [m for m in self.base.modules() if getattr(m, "is_causal", False) is True]

    def features(self, ids: Tensor, real: Tensor | None, lacks: Tensor | None = None) -> Tensor:
        """As of any backbone; ``lacks`` (B,), tokens that the first block has less than N, None for none."""
        mask, positions = _where(ids, real)
        if self.block:
            known = torch.ones_like(ids, dtype=torch.bool) if real is None else real
            counted = positions if lacks is None else positions + lacks[:, None]
            mask = _additive(self._sees(counted, counted, known), self.base.dtype)
        return self.run(ids, attention_mask=mask, position_ids=positions)

    def look(self, ids: Tensor, real: Tensor, place: Tensor, layers: Layers, lacks: Tensor) -> Tensor:
        """Hidden states (B, W, d) at the places (B, W), for block-causal models.

        All other places have the keys and values that were kept, (B, heads, S, size) of each layer; those of these
        places are written there. A place may be named more than once. ``lacks`` as of ``features``.
        """
        _, positions = _where(ids, real)
        asked, more = positions.gather(1, place), lacks[:, None]
        mask = _additive(self._sees(asked + more, positions + more, real), self.base.dtype)
        write = _Write(layers, place, ids.shape[1])
        return self.run(ids.gather(1, place), attention_mask=mask, position_ids=asked, past_key_values=write)

    def _sees(self, queries: Tensor, keys: Tensor, real: Tensor) -> Tensor:
        """(B, W, S) bool: whether the position (B, W) is in the block of the position (B, S), or in a later one."""
        earlier = (keys // self.block)[:, None] <= (queries // self.block)[..., None]
        return earlier & real[:, None]

    def run(self, ids: Tensor, **inputs: Any) -> Tensor:
        """The base model's last hidden states."""
        with self.full_attention():
            return self.base(input_ids=ids, use_cache=False, **inputs).last_hidden_state

    @contextmanager
    def full_attention(self) -> Iterator[None]:
        """Every position looks everywhere as long as this lasts."""
        before = getattr(self.config, "is_causal", None)
        were = [module.is_causal for module in self._causal]  # not causal within a longer while of that
        self.config.is_causal = False
        for module in self._causal:
            module.is_causal = False
        try:
            yield
        finally:
            for module, was in zip(self._causal, were, strict=True):
                module.is_causal = was
            if before is None:
                del self.config.is_causal
            else:
                self.config.is_causal = before

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)

    def begin(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Layers]:
        """``features``, and the keys and values (B, heads, S, size) of each layer."""
        _, positions = _where(ids, real)
        kept = _Keep()
        mask = _additive(real[:, None], self.base.dtype).expand(-1, 1, ids.shape[1], -1)
        hidden = self.run(ids, attention_mask=mask, position_ids=positions, past_key_values=kept)
        return hidden, kept.layers

    def go_on(self, ids: Tensor, real: Tensor, start: Tensor, layers: Layers) -> tuple[Tensor, int]:
        """Hidden states (B, S − m, d) from m = min(start) on, and m; those before a row's ``start`` mean nothing.

        What stands before ``start`` (B,) is not evaluated: its keys and values are those given.
        """
        _, positions = _where(ids, real)
        first = int(start.min())
        length = ids.shape[1] - first
        merge = _Merge(layers, first, start)
        mask = _additive(real[:, None], self.base.dtype).expand(-1, 1, length, -1)
        inputs = {"attention_mask": mask, "position_ids": positions[:, first:], "past_key_values": merge}
        return self.run(ids[:, first:], **inputs), first


class _Keep:
    """Takes the place of transformers' cache of keys and values, to keep them."""

    def __init__(self) -> None:
        self.layers: Layers = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each layer in turn: (B, heads, S, size) each."""
        self.layers.append((keys, values))
        return keys, values


class _Write:
    """Takes the place of transformers' cache: kept keys and values, into which new ones are written."""

    def __init__(self, layers: Layers, place: Tensor, length: int) -> None:
        self.layers, self.place, self.length = layers, place[:, None, :, None], length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each layer in turn: (B, heads, W, size) to (B, heads, S, size) each."""
        if layer == len(self.layers):
            shape = (*keys.shape[:2], self.length)
            empty = keys.new_zeros(*shape, keys.shape[-1]), values.new_zeros(*shape, values.shape[-1])
            self.layers.append(empty)
        for kept, new in zip(self.layers[layer], (keys, values), strict=True):
            kept.scatter_(2, self.place.expand_as(new), new)
        return self.layers[layer]


class _Merge:
    """Takes the place of transformers' cache: kept keys and values before each row's start, new ones behind."""

    def __init__(self, layers: Layers, first: int, start: Tensor) -> None:
        self.layers, self.first = layers, first
        position = torch.arange(first, layers[0][0].shape[-2], device=start.device)
        self.old = (position < start[:, None])[:, None, :, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Called by each layer: (B, heads, S − first, size) to (B, heads, S, size) each."""
        return self._merged(self.layers[layer][0], keys), self._merged(self.layers[layer][1], values)

    def _merged(self, kept: Tensor, new: Tensor) -> Tensor:
        recent = torch.where(self.old, kept[:, :, self.first :], new)
        return torch.cat((kept[:, :, : self.first], recent), -2)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, W, S): 0 where a position sees a key, (B, W, S), else the least number.

    Every attention implementation takes it.
    """
    hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class Encoder(Backbone):
    """A masked language model of transformers.

    Args:
        model: made for ``AutoModelForMaskedLM``. It is left as it is.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.base: Any = model.base_model
        self.hidden_size = int(model.config.hidden_size)
        known = inspect.signature(self.base.forward).parameters
        self._takes_positions = "position_ids" in known
        embeddings = [module for name, module in self.base.named_modules() if name.endswith("position_embeddings")]
        reserved = getattr(embeddings[0], "padding_idx", None) if embeddings else None
        self._first = 0 if reserved is None else reserved + 1  # RoBERTa's positions begin behind its padding index
        # The model's own way from hidden states to logits, whatever it consists of: the model on a base that gives
        # back what it gets.
        self._top: Any = copy.copy(model)
        self._top._modules = {**model._modules, model.base_model_prefix: _Given()}
        self._top.training = False

    def features(self, ids: Tensor, real: Tensor | None) -> Tensor:
        mask, positions = _where(ids, real)
        inputs = {"position_ids": positions + self._first} if self._takes_positions else {}
        return self.base(input_ids=ids, attention_mask=mask, **inputs).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        return self._top(inputs_embeds=hidden[None]).logits[0]


class _Given(nn.Module):
    """A base model that gives back what it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class Whole(Backbone):
    """Any model that answers token ids with ``logits``; it cannot be taken apart, so all logits are made.

    Args:
        model: called with ``input_ids``, and with ``attention_mask`` where there is padding.
    """

    hidden_size = 0

    def __init__(self, model: Any) -> None:
        self.model = model

    def features(self, ids: Tensor, real: Tensor | None) -> Tensor:
        inputs = {} if real is None else {"attention_mask": real.long()}
        return self.model(input_ids=ids, **inputs).logits

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def _where(ids: Tensor, real: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """The attention mask that transformers takes, and positions that begin with the first real token."""
    if real is None:
        return None, torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return real.long(), (real.long().cumsum(-1) - 1).clamp(min=0)


def backbone(model: Any, block: int = 0) -> Backbone:
    """The parts of a loaded model, by its class; ``block`` is that of a block-causal one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = type(model)
    if not isinstance(model, PreTrainedModel) or not kind.__module__.startswith("transformers."):
        return Whole(model)
    if kind.__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return Encoder(model)
    if kind.__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and model.get_output_embeddings() is not None:
        return Decoder(model, block)
    return Whole(model)

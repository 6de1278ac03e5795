"""The kinds of denoisers that can be trained from nothing: what they read, what they lose, and how they are saved.

Examples are words of a recipe's vocabulary, ``PAD`` and ``MASK`` among them; a family has ids of its own.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_env.denoisers import sedd
from dllm_env.denoisers.base import log_mass
from dllm_env.denoisers.tiny import END, MASK, PAD, WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.errors import UsageError

_PAD, _MASK = WORDS.index(PAD), WORDS.index(MASK)


class Family(abc.ABC):
    """A network with what its kind adds to it.

    Attributes:
        network: that learns.
        words: the vocabulary of the examples.
    """

    network: nn.Module

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    @abc.abstractmethod
    def initialize(self, generator: torch.Generator) -> None:
        """Draws the weights."""

    @abc.abstractmethod
    def features(self, shown: Tensor, length: int) -> Tensor:
        """(B, P+L) words, some of them masked, to the (B, L, d) features of the response."""

    @abc.abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """(n, d) to (n, V), of words first."""

    def losses(self, features: Tensor, target: Tensor) -> Tensor:
        """(n,) in nats of features (n, d) of masked positions, given their words (n,)."""
        return F.cross_entropy(self.logits(features), target, reduction="none")

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what ``load_denoiser`` reads."""

    def matrices(self) -> list[nn.Parameter]:
        """What Muon trains: the matrices of the blocks, but for those that read the time."""
        named = ((name, p) for name, p in self.network.named_parameters() if name.startswith("blocks"))
        return [p for name, p in named if p.ndim == 2 and "adaLN" not in name]


class TinyFamily(Family):
    """That of the bundled denoisers, without time."""

    network: TinyTransformer

    def __init__(self, words: Sequence[str], config: TinyConfig) -> None:
        super().__init__(words)
        self.network = TinyTransformer(config, len(words))

    def initialize(self, generator: torch.Generator) -> None:
        self.network.initialize(generator)

    def features(self, shown: Tensor, length: int) -> Tensor:
        found: Tensor = self.network(shown, _PAD)
        return found[:, -length:]

    def logits(self, features: Tensor) -> Tensor:
        found: Tensor = self.network.head(features)
        return found

    def save(self, folder: Path) -> None:
        TinyDenoiser(self.network, self.words, str(folder.parent)).save(folder)


class SEDDFamily(Family):
    """SEDD (arXiv 2310.16834), in its published format, its tokens the words themselves.

    Its loss, denoising score entropy over the log-linear noise, is (1/t) · Σ over masked positions of
    [−log p(x₀) + M − 1 − log M] and what no weight changes, M being e^``log_mass`` and p the normalised scores: the
    cross-entropy of a masked diffusion model, and a term that normalises the scores.

    Args:
        words: the vocabulary.
        config: width, layers, heads and longest sequence; feed-forward layers are four times as wide.
        timed: whether it is told the time; otherwise it is always told σ = 0, as its configuration then says.
    """

    network: sedd.SEDDNetwork

    def __init__(self, words: Sequence[str], config: TinyConfig, timed: bool = True) -> None:
        super().__init__(words)
        self.about = {
            "tokens": len(words),
            "graph": {"type": "absorb"},
            "noise": {"type": "loglinear"},
            "model": {
                **{"hidden_size": config.width, "cond_dim": config.width, "length": config.max_length},
                **{"n_blocks": config.layers, "n_heads": config.heads, "scale_by_sigma": True},
                **({} if timed else {sedd.TIMED: False}),
            },
        }
        self.timed, self.tokenizer = timed, _tokenizer(words)
        self.network = sedd.SEDDNetwork(len(words) + 1, config.width, config.heads, config.layers, config.width)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Gates and scores begin with zero, so that the scores are normalised."""
        for name, weight in self.network.named_parameters():
            if "norm" in name:
                weight.fill_(1.0)
            elif weight.ndim == 1 or "adaLN" in name or name == "output_layer.linear.weight":
                weight.zero_()
            else:
                fan_in = 1 if "embed" in name else weight.shape[1]
                weight.normal_(0.0, fan_in**-0.5, generator=generator)

    def features(self, shown: Tensor, length: int) -> Tensor:
        mask = shown == _MASK
        tokens = shown.masked_fill(mask, len(self.words)).masked_fill(shown == _PAD, sedd.PAD)
        time = sedd.sigma_of(mask[:, -length:].float().mean(-1))
        found: Tensor = self.network(tokens, time if self.timed else torch.zeros_like(time), length)
        return found

    def logits(self, features: Tensor) -> Tensor:
        return self.network.head(features)[:, :-1]  # without the mask, which is never written

    def losses(self, features: Tensor, target: Tensor) -> Tensor:
        logits = self.logits(features)
        mass = log_mass(logits.logsumexp(-1), len(self.words) + 1)
        return F.cross_entropy(logits, target, reduction="none") + mass.exp() - 1 - mass

    def save(self, folder: Path) -> None:
        sedd.SEDDDenoiser(self.network, self.tokenizer, self.about, str(folder.parent)).save(folder)


def _tokenizer(words: Sequence[str]) -> Any:
    """Of transformers: words with spaces between them.

    Raises:
        UsageError: transformers is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError:
        raise UsageError(sedd.NEEDS) from None
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


def make_family(name: str, words: Sequence[str], config: TinyConfig, timed: bool = True) -> Family:
    """A family by name, tiny or sedd, without its weights; ``timed`` is that of SEDD.

    Raises:
        UsageError: SEDD without transformers, for its tokenizer.
    """
    return TinyFamily(words, config) if name == "tiny" else SEDDFamily(words, config, timed)

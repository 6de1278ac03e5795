"""What the environment needs of a masked diffusion language model, and how one is loaded.

A denoiser reads a batch of partly masked sequences and predicts, for each masked position, a distribution over
tokens. Only the positions that are asked for get logits, and of these only the few numbers that a policy reads
are kept: the p largest probabilities, the token, and on request entropy, margin, or hidden states.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.numerics import fill_rows
from dllm_env.random import RowRandom

NoiseType = Literal["float64", "float32"]
NOISE_TYPES: tuple[str, ...] = get_args(NoiseType)


@dataclass(frozen=True)
class Extras:
    """Which optional features a prediction carries besides ``token`` and ``confidence``; see ``Prediction``."""

    entropy: bool = False
    margin: bool = False
    hidden: bool = False
    log_probability: bool = False
    support: bool = False


NO_EXTRAS = Extras()


@dataclass
class Prediction:
    """A denoiser's view of the response positions that it was asked about; zeros everywhere else.

    Attributes:
        token: (B, L) int64, the token to write if the position is unmasked.
        confidence: (B, L, p) float32, the p largest probabilities, the mask token excluded, largest first.
        entropy: (B, L) float32 in nats, or None.
        margin: (B, L) float32, largest minus second largest probability, or None.
        hidden: (B, L, d) float32, the denoiser's last hidden states, or None.
        log_probability: (B, L, V) float32 in nats, −inf at the mask token, or None; large for large vocabularies.
        support: (B, L) float32, of committed positions: how probable the rest of the response makes the token that
            stands there (see ``Denoiser.shadow_features``), or None.
    """

    token: Tensor
    confidence: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    hidden: Tensor | None = None
    log_probability: Tensor | None = None
    support: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Prediction:
        """The chosen rows, as a copy."""
        return self.map(lambda value: value[rows])

    def write(self, rows: Tensor, other: Prediction) -> None:
        """Puts the rows of ``other`` in the places ``rows``."""
        for mine, theirs in zip(self.values(), other.values(), strict=True):
            if mine is not None and theirs is not None:
                mine[rows] = theirs

    def map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        """A prediction with ``function`` applied to every attribute that is there."""
        return Prediction(*(None if value is None else function(value) for value in self.values()))  # type: ignore[arg-type]

    def values(self) -> list[Tensor | None]:
        """All attributes, in order."""
        return [getattr(self, field.name) for field in fields(self)]


class Denoiser(abc.ABC):
    """A frozen masked diffusion language model with its tokenizer.

    Subclasses give ``features``, ``head`` and the tokenizer; everything else follows from these.

    Attributes:
        name: the name or path that ``load_denoiser`` takes.
        mask_id, eot_id, pad_id: special tokens; ``pad_id`` fills prompts on the left and is never attended to.
        vocabulary: number of token ids V.
        hidden_size: width d of the last hidden states.
        max_length: longest prompt plus response, in tokens.
        device: where tokens have to be.
    """

    name: str
    mask_id: int
    eot_id: int
    pad_id: int
    vocabulary: int
    hidden_size: int
    max_length: int
    device: torch.device

    @abc.abstractmethod
    def features(self, tokens: Tensor, last: int) -> Tensor:
        """(B, S) tokens to the (B, last, d) last hidden states of the last so many positions.

        A row depends on its own tokens only.
        """

    def shadow_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """``features``, and the same for positions that see a mask in their own place: (B, last, d) each.

        What stands at a position then tells it nothing directly, as in the shadow block of WINO (arXiv 2507.18578):
        queries of a second stream, which starts from masks, look at the keys and values of all other positions. At
        masked positions both are equal. One evaluation, of up to twice the work.

        Raises:
            UsageError: a denoiser that cannot.
        """
        raise UsageError(f"denoiser {self.name!r} cannot say how well a token is supported by the others")

    @abc.abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """(n, d) hidden states to (n, V) logits."""

    def fingerprint(self) -> str:
        """A digest of what its predictions follow from, so that results of different weights are told apart.

        Empty where a subclass does not say.
        """
        return ""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt.

        Raises:
            UsageError: the text has words that the tokenizer does not know.
        """

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""

    def response_text(self, ids: Sequence[int]) -> str:
        """Text of a response up to its first end-of-text, without special tokens."""
        ids = list(ids)
        ids = ids[: ids.index(self.eot_id)] if self.eot_id in ids else ids
        return self.decode([i for i in ids if i not in (self.mask_id, self.pad_id)])

    @torch.no_grad()
    def predict(
        self,
        tokens: Tensor,
        needed: Tensor,
        top: int = 1,
        temperature: float = 0.0,
        random: RowRandom | None = None,
        extras: Extras = NO_EXTRAS,
        noise: NoiseType = "float64",
        judged: Tensor | None = None,
    ) -> Prediction:
        """Predicts the needed response positions.

        Args:
            tokens: (B, P+L) int64.
            needed: (B, L) bool, the response positions to predict; the others stay zero.
            top: p, how many of the largest probabilities to return.
            temperature: 0 takes the most probable token; above 0 draws one by Gumbel-max.
            random: (B,) streams; required, and moved on by L·V numbers a row, if temperature > 0.
            extras: optional features.
            noise: precision of Gumbel-max (arXiv 2409.02908 shows that float32 lowers the effective temperature).
            judged: (B, L) bool, the committed positions whose ``support`` to tell; needs ``extras.support``.

        Returns:
            The prediction. ``confidence`` is that of the model itself, at temperature 1.
        """
        batch, length = needed.shape
        if tokens.shape[0] != batch or tokens.shape[1] < length:
            raise ValueError(f"tokens {tuple(tokens.shape)} do not fit needed {tuple(needed.shape)}")
        if extras.support:
            hidden, shadow = self.shadow_features(tokens, length)
        else:
            hidden = self.features(tokens, length)
        selected = hidden[needed]
        count = len(selected)
        logits = self.head(fill_rows(selected)).float()
        logits[:, self.mask_id] = -torch.inf
        log_total = logits.logsumexp(-1, keepdim=True)
        largest, order = logits.topk(max(top, 2 if extras.margin else 1), dim=-1)
        probability = (largest - log_total).exp()

        def place(values: Tensor) -> Tensor:
            out = values.new_zeros((batch, length, *values.shape[1:]))
            out[needed] = values[:count]
            return out

        prediction = Prediction(place(order[:, 0]), place(probability[:, :top]))
        if temperature > 0:
            if random is None:
                raise ValueError("temperature > 0 needs the rows' random streams")
            drawn = random.gumbel(length * self.vocabulary, noise).view(batch, length, -1)[needed]
            prediction.token[needed] = (logits[:count].to(drawn.dtype) / temperature + drawn).argmax(-1)
        if extras.entropy or extras.log_probability:
            log_probability = logits - log_total
            prediction.log_probability = place(log_probability) if extras.log_probability else None
            prediction.entropy = place(_entropy(log_probability)) if extras.entropy else None
        if extras.margin:
            prediction.margin = place(probability[:, 0] - probability[:, 1])
        if extras.hidden:
            prediction.hidden = place(selected.float())
        if extras.support:
            prediction.support = self._support(
                tokens, shadow, torch.zeros_like(needed) if judged is None else judged
            )
        return prediction

    def _support(self, tokens: Tensor, shadow: Tensor, judged: Tensor) -> Tensor:
        """(B, L) probability of the tokens at the judged positions, 0 elsewhere."""
        support = torch.zeros(judged.shape, device=judged.device)
        written = tokens[:, -judged.shape[1] :][judged]
        logits = self.head(fill_rows(shadow[judged])).float()[: len(written)]
        logits[:, self.mask_id] = -torch.inf
        support[judged] = logits.log_softmax(-1).gather(1, written[:, None])[:, 0].exp()
        return support


def _entropy(log_probability: Tensor) -> Tensor:
    """(n, V) to (n,) in nats; a token of probability 0 adds nothing."""
    terms = torch.where(log_probability == -torch.inf, 0.0, log_probability.exp() * log_probability)
    return -terms.sum(-1)


ASSETS = Path(__file__).parent / "assets"


def bundled_denoisers() -> list[str]:
    """Names of the denoisers that come with the package."""
    return sorted(path.parent.name for path in ASSETS.glob("*/model.safetensors"))


def load_denoiser(name: str | Path | Denoiser, device: str | torch.device = "cpu") -> Denoiser:
    """A denoiser by bundled name (``tiny``, ``tiny-b``) or folder path.

    Raises:
        UsageError: no such name or folder, or its files cannot be read.
    """
    if isinstance(name, Denoiser):
        return name
    from dllm_env.tiny import TinyDenoiser

    folder = ASSETS / str(name) if str(name) in bundled_denoisers() else Path(name)
    if not folder.is_dir():
        known = ", ".join(bundled_denoisers())
        raise UsageError(f"unknown denoiser {str(name)!r}; choose one of {known}, or give the path of a folder")
    return TinyDenoiser.load(folder, name=str(name), device=device)

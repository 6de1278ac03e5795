"""What the environment needs of a masked diffusion language model, and how one is loaded.

A denoiser reads a batch of partly masked sequences and predicts, for each masked position, a distribution over
tokens. Only the positions that are asked for get logits, and of these only the few numbers that a policy reads
are kept: the p largest probabilities, the token, and on request entropy, margin, or hidden states.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dllm_env.errors import LogitsError, UsageError
from dllm_env.numerics import in_tiles, log_sum_exp
from dllm_env.random import RowRandom, to_gumbel
from dllm_env.user_code import digest_of_class

NoiseType = Literal["float64", "float32"]
NOISE_TYPES: tuple[str, ...] = get_args(NoiseType)

LOGITS_AT_ONCE = 2**26
"""Logits that exist at a time: positions are looked at in pieces of so many (256 MiB in float32)."""

TILE_LOGITS = 2**21
"""The same on the processor, where pieces are tiles of one size, which a lone position has to fill, too."""

TILE_POSITIONS = (32, 256)
"""Positions of such a tile, at least and at most: each tile reads all weights of the head."""


BLANKS = re.compile(r" ?\[\[(\d+)\]\]")
"""So many masks in the template of a response."""


@dataclass(frozen=True)
class Extras:
    """Which optional features a prediction carries besides ``token`` and ``confidence``; see ``Prediction``.

    Examples:
        >>> both = Extras(entropy=True) | Extras(margin=True)
        >>> both.entropy, both.margin, both.hidden
        (True, True, False)
    """

    entropy: bool = False
    margin: bool = False
    hidden: bool = False
    log_probability: bool = False
    support: bool = False
    attention: bool = False
    token: bool = False
    """Which token would be written; a prediction has it anyway, an observation only then."""
    token_log_prob: bool = False
    log_mass: bool = False
    rewrite: bool = False
    settled: bool = False
    """Of an observation alone: where nothing that is still written can change the prediction."""

    def __or__(self, other: Extras) -> Extras:
        """What either of two has."""
        return Extras(
            **{column.name: getattr(self, column.name) | getattr(other, column.name) for column in fields(self)}
        )


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
        attention: (B, L, L) float32, symmetric, between any two response positions, masked or not: the mean of both
            directions, of the heads and of the last layers (see ``Denoiser.attending_features``), or None.
        token_log_prob: (B, L) float32, the log-probability in nats with which ``token`` was drawn: of
            softmax(logits / temperature), 0 where the temperature is; or None.
        log_mass: (B, L) float32, the logarithm of how much faster than a normalised model the denoiser would leave
            the mask at a position: of a score model log Σ_y s(y) · (e^σ − 1), which is about 0 where it is well
            trained, and 0 of all others; or None.
        rewrite: (B, L) float32, of committed positions: how probable the most probable token is where that is
            another one than stands there, and 0 where it is the same; or None.
        rewrite_token: (B, L) int64, that token, or None.
    """

    token: Tensor
    confidence: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    hidden: Tensor | None = None
    log_probability: Tensor | None = None
    support: Tensor | None = None
    attention: Tensor | None = None
    token_log_prob: Tensor | None = None
    log_mass: Tensor | None = None
    rewrite: Tensor | None = None
    rewrite_token: Tensor | None = None

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


class PrefixCache:
    """Keys and values of what stands before the active blocks of B rows, reused while a block lasts.

    Where the denoiser attends in blocks they are exact, and reused for ever.

    Attributes:
        start: (B,) int64, where in the sequence the row's active block begins; set before every prediction.
        end: (B,) int64, up to where predictions are wanted; set before every prediction of a denoiser that attends
            in blocks.
        kept: (B,) int64, up to where keys and values are those of when the row's block began; −1 for nowhere.
        layers: keys and values (B, heads, S, size) of each layer; none before the first prediction.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.start = torch.zeros(count, dtype=torch.int64, device=device)
        self.end = torch.zeros(count, dtype=torch.int64, device=device)
        self.kept = torch.full((count,), -1, device=device)
        self.layers: list[tuple[Tensor, Tensor]] = []

    def __getitem__(self, rows: Tensor) -> PrefixCache:
        """The chosen rows, as a copy."""
        part = PrefixCache(0, self.start.device)
        part.start, part.end, part.kept = self.start[rows], self.end[rows], self.kept[rows]
        part.layers = [(keys[rows], values[rows]) for keys, values in self.layers]
        return part

    def write(self, rows: Tensor, other: PrefixCache) -> None:
        """Puts the rows of ``other`` in the places ``rows``."""
        self.start[rows], self.end[rows], self.kept[rows] = other.start, other.end, other.kept
        if other.layers and not self.layers:
            shapes = [(keys.shape[1:], keys) for keys, _ in other.layers]
            self.layers = [(k.new_zeros(len(self.kept), *s), k.new_zeros(len(self.kept), *s)) for s, k in shapes]
        for mine, theirs in zip(self.layers, other.layers, strict=False):
            for tensor, value in zip(mine, theirs, strict=True):
                tensor[rows] = value


def attending(layers: int) -> int:
    """Of how many of the last layers attention is told: of half of them, at most four."""
    return max(1, min(4, layers // 2))


class Denoiser(abc.ABC):
    """A masked diffusion language model with its tokenizer, frozen unless it is trained by ``module``.

    Subclasses give ``features``, ``head`` and the tokenizer; everything else follows from these.

    Attributes:
        name: the name or path that ``load_denoiser`` takes; that of the class, where a subclass does not say.
        mask_id, eot_id, pad_id: special tokens; ``pad_id`` fills prompts on the left and is never attended to.
        vocabulary: number of token ids V.
        hidden_size: width d of the last hidden states.
        max_length: longest prompt plus response, in tokens.
        device: where tokens have to be.
        dtype: precision of the hidden states.

    Examples:
        >>> from dllm_env import load_denoiser
        >>> denoiser = load_denoiser("tiny")
        >>> denoiser.decode(denoiser.encode("a 6 b +2"))
        'a 6 b +2'
    """

    name: str
    mask_id: int
    eot_id: int
    pad_id: int
    vocabulary: int
    hidden_size: int
    max_length: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    pads = True
    """Whether prompts can be padded: what stands behind padding is then predicted as without it."""
    attention_block = 0
    """N of a denoiser that attends in blocks: a position sees its own block of N and those before it, counted from
    the first token of the prompt, and nothing behind; 0 where everything sees everything."""
    blocks_from_response = False
    """Whether such blocks are counted from the response's first token instead: the prompt's first may be short."""
    settles_first = False
    """Whether what stands before such a block alone predicts the block's first token."""
    tells_scores = False
    """Whether logits are log-scores, whose sum has a meaning: ``log_mass`` of a prediction."""

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

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

    def attending_features(self, tokens: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """``features``, and how much attention the last positions pay each other: (B, last, d), (B, last, last).

        Attention is that of row i to column j in float32, the mean over the heads of the last ``attending(layers)``
        layers. Weights of all layers never exist at a time.

        Raises:
            UsageError: a denoiser that cannot.
        """
        raise UsageError(f"denoiser {self.name!r} cannot say which positions attend to each other")

    caches_prefix = False
    """Whether it has ``cached_features``."""
    keeps_blocks = False
    """Whether it always is given a cache: it attends in blocks, and keys and values of finished ones are exact."""

    def cached_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        """``features``, with the cache's keys and values for what stands before each row's active block.

        A row whose block has just begun is evaluated as a whole, and its keys and values are kept; afterwards only
        what stands from its block on is. That is exact in a block's first step, and approximate in later ones,
        because what stands before a block does not see what was revealed in it since. Only positions from each
        row's ``prefix.start`` on are filled in.
        """
        raise UsageError(f"denoiser {self.name!r} has no prefix cache")

    @abc.abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """(n, d) hidden states to (n, V) logits."""

    @property
    def module(self) -> nn.Module:
        """What learns where the denoiser itself is trained: ``features`` and ``head`` are made of its parameters.

        Raises:
            UsageError: a denoiser that cannot be trained.
        """
        raise UsageError(f"denoiser {self.name!r} cannot be trained; train the policy alone: --train-denoiser none")

    def learning(self) -> AbstractContextManager[None]:
        """Has to be open while gradients are computed, which may compute ``features`` again."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Writes its weights and all that ``load_denoiser`` needs to read them again.

        Raises:
            UsageError: a denoiser that cannot be saved.
        """
        raise UsageError(f"denoiser {self.name!r} cannot be saved as a whole; train an adapter: lora")

    def check_saves(self) -> None:
        """Says before any work what ``save`` would say after it.

        Raises:
            UsageError: a denoiser that cannot be saved.
        """
        if type(self).save is Denoiser.save:
            self.save(Path())

    def fingerprint(self) -> str:
        """A digest of what its predictions follow from, so that results of different weights are told apart.

        Where a subclass does not say, of the file that it stands in.
        """
        return digest_of_class(type(self))

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt.

        Raises:
            UsageError: the text has words that the tokenizer does not know.
        """

    def encode_part(self, text: str) -> list[int]:
        """Token ids of a part of a response, with nothing put around it."""
        return self.encode(text)

    def encode_template(self, template: str, length: int = 0) -> list[int]:
        """The L token ids that a response begins with: those of a text, with masks where it has blanks.

        Args:
            template: ``[[3]]`` in it stands for three masks, with the space before it.
            length: L; behind the template are masks. 0 takes the template's own length.

        Raises:
            UsageError: it is longer than L, or has words that the tokenizer does not know.
        """
        ids: list[int] = []
        most, limit = (length, "the response length") if length else (self.max_length, "the denoiser's context")
        for i, part in enumerate(BLANKS.split(template)):
            if i % 2:
                ids += [self.mask_id] * min(int(part), most + 1)
            elif part:
                ids += self.encode_part(part)
        if len(ids) > most:
            shown = template if len(template) <= 60 else f"{template[:57]}..."
            raise UsageError(f"the template {shown!r} has more tokens than {limit}, {most}")
        return ids + [self.mask_id] * (length - len(ids))

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All tokens that end a text."""
        return (self.eot_id,)

    def response_text(self, ids: Sequence[int]) -> str:
        """Text of a response up to its first end-of-text, without special tokens."""
        ids = list(ids)
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
        return self.text([i for i in ids[:end] if i not in (self.mask_id, self.pad_id)])

    def text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.decode(ids)

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
        prefix: PrefixCache | None = None,
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
            judged: (B, L) bool, the committed positions whose ``support`` or ``rewrite`` to tell; needs that extra.
            prefix: reuse keys and values, see ``cached_features``; only positions of the active block on are right.

        Returns:
            The prediction. ``confidence`` is that of the model itself, at temperature 1.
        """
        batch, length = needed.shape
        if tokens.shape[0] != batch or tokens.shape[1] < length:
            raise ValueError(f"tokens {tuple(tokens.shape)} do not fit needed {tuple(needed.shape)}")
        if extras.support and extras.attention:
            raise UsageError("support and attention are of two evaluations; a policy reads one of them")
        if extras.support:
            hidden, shadow = self.shadow_features(tokens, length)
        elif extras.attention:
            hidden, attention = self.attending_features(tokens, length)
        elif prefix is not None:
            hidden = self.cached_features(tokens, length, prefix)
        else:
            hidden = self.features(tokens, length)
        streams, vocabulary = random, self.vocabulary
        if temperature > 0 and streams is None:
            raise ValueError("temperature > 0 needs the rows' random streams")

        def logits_at(row: Tensor, position: Tensor) -> Tensor:
            return self.head(hidden[row, position])

        def noise_at(row: Tensor, position: Tensor) -> Tensor:
            assert streams is not None
            return to_gumbel(streams.peek(row, position * vocabulary, vocabulary), noise) * temperature

        draws = noise_at if temperature > 0 else None
        reading = Reading(vocabulary, self.mask_id, top, extras, temperature, self.tells_scores)
        prediction = read_positions(needed, logits_at, reading, draws, self)
        if streams is not None and temperature > 0:
            streams.skip(length * vocabulary)
        if extras.hidden:
            prediction.hidden = hidden.float().masked_fill(~needed[..., None], 0)
        if extras.attention:
            prediction.attention = (attention + attention.mT) / 2
        if extras.support or extras.rewrite:
            judged = torch.zeros_like(needed) if judged is None else judged
            if extras.support:
                prediction.support = self._support(tokens, shadow, judged)
            if extras.rewrite:
                prediction.rewrite, prediction.rewrite_token = self._rewrite(tokens, hidden, judged)
        return prediction

    def _rewrite(self, tokens: Tensor, hidden: Tensor, judged: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) probability of the most probable token at judged positions where it is another one, and it."""

        def best(hidden: Tensor, written: Tensor) -> list[Tensor]:
            logits = self.head(hidden).float()
            logits[:, self.mask_id] = -torch.inf
            largest, found = logits.max(-1)
            total = log_sum_exp(logits, largest[:, None])[:, 0]
            return [(largest - total).exp().masked_fill(found == written, 0), found, total]

        probability, token = self._judge(best, (torch.float32, torch.int64), "rewrite", tokens, hidden, judged)
        return probability, token

    def _support(self, tokens: Tensor, shadow: Tensor, judged: Tensor) -> Tensor:
        """(B, L) probability of the tokens at the judged positions, 0 elsewhere."""

        def probability(hidden: Tensor, written: Tensor) -> list[Tensor]:
            values, log_total = self.log_probability_at(hidden, written)
            return [values.exp(), log_total]

        (support,) = self._judge(probability, (torch.float32,), "support", tokens, shadow, judged)
        return support

    def _judge(
        self,
        function: Callable[[Tensor, Tensor], Sequence[Tensor]],
        kinds: Sequence[torch.dtype],
        key: str,
        tokens: Tensor,
        hidden: Tensor,
        judged: Tensor,
    ) -> list[Tensor]:
        """What a function makes of hidden states and written tokens at the judged positions, 0 elsewhere.

        Args:
            function: (n, d) and (n,) to columns (n,), of these kinds, and the log-totals of the logits (n,).
            kinds: of the columns.
            key: of the function, for ``in_pieces``.
            tokens: (B, P+L).
            hidden: (B, L, d).
            judged: (B, L) bool.
        """
        columns = [torch.zeros(judged.shape, dtype=kind, device=judged.device) for kind in kinds]
        if not bool(judged.any()):
            return columns
        row, position = judged.nonzero(as_tuple=True)
        written = tokens[:, -judged.shape[1] :][row, position]

        def judge(piece: Tensor) -> Sequence[Tensor]:
            return function(hidden[row[piece], position[piece]], written[piece])

        *found, log_total = in_pieces(judge, len(row), self.vocabulary, self, key, judged.device)
        refuse_broken(log_total, row)
        for column, values in zip(columns, found, strict=True):
            column[row, position] = values
        return columns

    def log_probability_at(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) log-probabilities of the tokens (n,) from hidden states (n, d), and (n,) log-totals of the logits.

        In nats; −inf for the mask token, which is never written.
        """
        logits = self.head(hidden).float()
        logits[:, self.mask_id] = -torch.inf
        log_total = logits.logsumexp(-1)
        return logits.gather(1, tokens[:, None])[:, 0] - log_total, log_total


At = Callable[[Tensor, Tensor], Tensor]
"""From rows (n,) and positions (n,) to something of each."""


def in_pieces(
    function: Callable[[Tensor], Sequence[Tensor]],
    count: int,
    vocabulary: int,
    owner: object,
    key: Hashable,
    device: torch.device,
) -> list[Tensor]:
    """``function`` of n positions, so few at a time that no more than ``LOGITS_AT_ONCE`` logits exist.

    On the processor these are tiles of one size, see ``in_tiles``, whose arguments these are.
    """
    if device.type == "cpu":
        least, most = TILE_POSITIONS
        size = max(min(max(TILE_LOGITS // vocabulary, least), most, LOGITS_AT_ONCE // vocabulary), 1)
        return in_tiles(function, count, size, owner, (key, vocabulary), device)
    pieces = torch.arange(count, device=device).split(max(LOGITS_AT_ONCE // vocabulary, 1))
    done = [function(piece) for piece in pieces]
    return list(done[0]) if len(done) == 1 else [torch.cat(column) for column in zip(*done, strict=True)]


@dataclass(frozen=True)
class Reading:
    """What is read from logits.

    Attributes:
        vocabulary: V.
        mask_id: the token that is never written.
        top: p, how many of the largest probabilities.
        extras: of these entropy, margin, log_probability, token_log_prob and log_mass.
        temperature: what the noise that draws tokens was multiplied by.
        tells_scores: whether the logits are log-scores.
    """

    vocabulary: int
    mask_id: int
    top: int = 1
    extras: Extras = NO_EXTRAS
    temperature: float = 1.0
    tells_scores: bool = False


def read_positions(
    needed: Tensor, logits_at: At, reading: Reading, noise_at: At | None = None, owner: object = None
) -> Prediction:
    """``read_logits`` of the needed positions, a piece at a time.

    Args:
        needed: (B, L) bool.
        logits_at: gives (n, V).
        reading: what is read.
        noise_at: gives (n, V), what is added to the logits to draw tokens; without it they are the most probable.
        owner: whose logits these are, see ``in_tiles``.

    Returns:
        A prediction (B, L, …), zeros elsewhere.

    Raises:
        LogitsError: logits of a needed position that are no numbers.
    """
    row, position = needed.nonzero(as_tuple=True)
    device = needed.device

    optional = ("entropy", "margin", "log_probability", "token_log_prob", "log_mass")
    shown = ["token", "confidence", *(name for name in optional if getattr(reading.extras, name))]

    def read(piece: Tensor) -> list[Tensor]:
        at = row[piece], position[piece]
        found, log_total = read_logits(logits_at(*at), reading, None if noise_at is None else noise_at(*at))
        return [log_total, *(getattr(found, name) for name in shown)]

    key = ("read", reading, noise_at is not None)
    who = read if owner is None else owner
    log_total, *values = in_pieces(read, len(row), reading.vocabulary, who, key, device)
    refuse_broken(log_total, row)

    def place(values: Tensor) -> Tensor:
        out = values.new_zeros((*needed.shape, *values.shape[1:]))
        out[row, position] = values
        return out

    return Prediction(**dict(zip(shown, map(place, values), strict=True)))


def refuse_broken(log_total: Tensor, row: Tensor) -> None:
    """Checks the log-totals (n,) of the logits of positions in these rows (n,).

    A total is a number exactly if no logit is NaN or +infinity, and one of a token that can be written is above
    −infinity.

    Raises:
        LogitsError: a total that is none.
    """
    if not len(log_total) or math.isfinite(log_total.abs().amax().item()):
        return
    broken = ~log_total.isfinite()
    totals = log_total[broken]
    kinds = (totals.isnan(), "NaN"), (totals == torch.inf, "infinite"), (totals == -torch.inf, "all −infinity")
    what = " or ".join(name for found, name in kinds if bool(found.any()))
    raise LogitsError(what, row[broken].unique().tolist())


def read_logits(logits: Tensor, reading: Reading, drawn: Tensor | None = None) -> tuple[Prediction, Tensor]:
    """What is known of n positions from their logits.

    Args:
        logits: (n, V), at temperature 1; the mask token's are overwritten.
        reading: what is read.
        drawn: (n, V), noise that is added to the logits to draw the tokens; without it, they are the most probable
            ones. Of equals the token is the one of lowest id.

    Returns:
        A prediction with (n, …) instead of (B, L, …), without hidden states, support and attention; and (n,) the
        log-totals of the logits, for ``refuse_broken``.
    """
    extras, top = reading.extras, reading.top
    logits[:, reading.mask_id] = -torch.inf
    best, surest = logits.max(-1, keepdim=True)  # the first of equals, which topk does not promise
    most = max(top, 2 if extras.margin else 1)
    largest = (best if most == 1 else logits.topk(most, dim=-1).values).float()
    total = log_sum_exp(logits, best.float())
    probability = (largest - total).exp()
    token = surest[:, 0] if drawn is None else (logits.to(drawn.dtype) + drawn).max(-1).indices
    log_probability = logits - total if extras.entropy or extras.log_probability else None
    found = Prediction(
        token=token,
        confidence=probability[:, :top],
        entropy=_entropy(log_probability) if log_probability is not None and extras.entropy else None,
        margin=probability[:, 0] - probability[:, 1] if extras.margin else None,
        log_probability=log_probability if extras.log_probability else None,
    )
    total = total[:, 0]
    if extras.token_log_prob:
        found.token_log_prob = torch.zeros_like(total)
        if drawn is not None:
            found.token_log_prob = token_log_prob(logits.float(), token, reading.temperature)
    if extras.log_mass:
        found.log_mass = log_mass(total, logits.shape[-1]) if reading.tells_scores else torch.zeros_like(total)
    return found, total


def log_mass(log_total: Tensor, vocabulary: int) -> Tensor:
    """(n,) ``log_mass`` of a score model from (n,) log-totals of its V logits.

    The published scores are e^logits / ((e^σ − 1) · (V − 1)), so that a network of zeros is normalised.
    """
    return log_total - math.log(vocabulary - 1)


def token_log_prob(logits: Tensor, token: Tensor, temperature: float) -> Tensor:
    """(n,) log-probabilities in nats of the tokens (n,) under softmax(logits / temperature), logits (n, V)."""
    scaled = logits / temperature
    return scaled.gather(1, token[:, None])[:, 0] - scaled.logsumexp(-1)


def _entropy(log_probability: Tensor) -> Tensor:
    """(n, V) to (n,) in nats; a token of probability 0 adds nothing."""
    terms = torch.where(log_probability == -torch.inf, 0.0, log_probability.exp() * log_probability)
    return -terms.sum(-1)

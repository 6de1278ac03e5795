"""Distributions over sets of positions, each one object that owns sample, mode, log-probability and entropy.

All act on ``selectable`` positions only. A row without any yields the empty set with log-probability 0 and
entropy 0.

What a head draws is a **draw**, (…, W): above 0 where a position is drawn. ``Bernoulli`` draws sets, and its draws
are bool. The Plackett–Luce heads draw one position after the other, and their draws are int64 places: 1 for the
first position, 2 for the second, …. ``draw > 0`` is the set of either. The likelihood of a ranked draw is that of
this very order: the set alone would need a sum over all K! orders that lead to it, while the order is known, its
likelihood is a product, and it is what the papers use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, NewType, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.numerics import constant, counted
from dllm_env.random import RowRandom
from dllm_env.reading import check_value
from dllm_env.specs import load
from dllm_env.user_code import file_part, load_class, load_from_file, origin_of


class Head(Protocol):
    """A family of distributions over draws from the selectable positions, given one score per position."""

    @property
    def temperature(self) -> float:
        """Divides the scores."""

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        """Draws once per row: (B, …, W) scores and bool, (B,) streams, to a draw (B, …, W)."""

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        """The most probable draw: (…, W) to (…, W)."""

    def log_prob(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Log-probability of draws, −inf for those that cannot be: (…, W) to (…,)."""

    def entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Entropy in nats: (…, W) to (…,).

        Where it is a sum over all orders (Plackett–Luce, K > 1), it is replaced by the entropies of the single
        choices, each given the positions that ``draw`` has drawn before. Its mean over draws is the entropy.
        """

    def as_draw(self, unmask: Tensor, priority: Tensor) -> Tensor:
        """Sets that something else has chosen as draws: (…, W) bool, in descending (…, W) priority."""


MOST = 10**6
"""The largest k: as many positions as no response has."""
FLOOR = -600.0
"""Plackett–Luce scores count as at most so many nats below the row's best: weights stay above 0 in float64."""


COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures between which scores neither overflow nor all become equal."""


def _check_temperature(temperature: float) -> None:
    if isinstance(temperature, (int, float)) and not 0 < temperature < float("inf"):
        raise UsageError(f"the head's temperature must be above 0, got {temperature}")
    check_value(temperature, float, "the head's temperature")
    if not COLDEST <= temperature <= HOTTEST:
        said = f"from {COLDEST:g} to {HOTTEST:g}"
        raise UsageError(f"the head's temperature must be {said}, got {temperature:g}")


@dataclass(frozen=True)
class Bernoulli:
    """Each selectable position on its own, with probability sigmoid(score / temperature).

    With ``force_progress`` the empty draw is replaced by the best-scoring selectable position j. The distribution
    is then that of what is really done: the set {j} collects its own probability and that of the empty set,
    p_j·Π_{i≠j}(1−p_i) + Π_i(1−p_i) = Π_{i≠j}(1−p_i), and the empty set has none.

    Source: arXiv 2512.09106 (whose implementation scores a forced set as if it had been drawn).

    Raises:
        UsageError: a temperature that is not above 0.
    """

    temperature: float = 1.0
    """Divides the scores."""
    force_progress: bool = False
    """Never draw the empty set where something can be selected."""

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def as_draw(self, unmask: Tensor, priority: Tensor) -> Tensor:
        return unmask

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        probability = 1 / (1 + torch.exp(-self._logits(scores).double()))  # sigmoid itself depends on the place
        noise = random.rand(scores[0].numel()).view(scores.shape)
        drawn = (noise < probability) & selectable
        return self._forced(drawn, scores, selectable) if self.force_progress else drawn

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        likely = (scores > 0) & selectable
        if not self.force_progress:
            return likely
        best = _best(scores, selectable)
        better = self.log_prob(scores, selectable, likely) > self.log_prob(scores, selectable, best)
        return torch.where(better[..., None], likely, best)

    def log_prob(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Also −inf for sets that cannot be drawn (outside ``selectable``, or empty where progress is forced)."""
        logits, unmask = self._logits(scores), draw > 0
        terms = torch.where(selectable, F.logsigmoid(torch.where(unmask, logits, -logits)), 0.0)
        if self.force_progress:
            best = _best(scores, selectable)
            forced = (unmask == best).all(-1, keepdim=True)
            terms = torch.where(forced & best, 0.0, terms)
        impossible = (unmask & ~selectable).any(-1)
        if self.force_progress:
            impossible |= selectable.any(-1) & ~unmask.any(-1)
        return terms.sum(-1).masked_fill(impossible, -torch.inf)

    def entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor | None = None) -> Tensor:
        """Exact, and the same for all draws."""
        logits = self._logits(scores)
        log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
        terms = -(log_yes.exp() * log_yes + log_no.exp() * log_no)
        entropy = torch.where(selectable, terms, 0.0).sum(-1)
        if not self.force_progress:
            return entropy
        # The outcomes "nothing" and "only the best" become one: take out their two terms, put in that of the sum.
        best = _best(scores, selectable)
        log_nothing = torch.where(selectable, log_no, 0.0).sum(-1)
        log_rest = torch.where(selectable & ~best, log_no, 0.0).sum(-1)
        log_only_best = log_rest + torch.where(best, log_yes, 0.0).sum(-1)
        merged = entropy + _p_log_p(log_nothing) + _p_log_p(log_only_best) - _p_log_p(log_rest)
        return torch.where(selectable.any(-1), merged, 0.0)

    def _logits(self, scores: Tensor) -> Tensor:
        return (scores if scores.dtype == torch.float64 else scores.float()) / self.temperature

    @staticmethod
    def _forced(drawn: Tensor, scores: Tensor, selectable: Tensor) -> Tensor:
        return torch.where(drawn.any(-1, keepdim=True), drawn, _best(scores, selectable))


def _p_log_p(log_p: Tensor) -> Tensor:
    return log_p.exp() * log_p


def _best(scores: Tensor, selectable: Tensor) -> Tensor:
    """(…, W) bool: the selectable position of highest score (the leftmost of equals), none where none is."""
    ranked = scores.detach().masked_fill(~selectable, -torch.inf)
    best = F.one_hot(ranked.argmax(-1), scores.shape[-1]).bool()
    return best & selectable


@dataclass(frozen=True)
class PlackettLuce:
    """K positions, one after the other without replacement, each with probability ∝ exp(score / temperature).

    log π(l₁…l_K) = Σ_k [ s_{l_k} − logsumexp of s over the positions not drawn before k ]. Where fewer than K are
    selectable, all are drawn. Needs L / K steps, always.

    Source: arXiv 2505.10446.

    Raises:
        UsageError: k below 1, or a temperature that is not above 0.
    """

    k: int = 1
    """K, positions drawn in a step."""
    temperature: float = 1.0
    """Divides the scores."""

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= MOST:
            raise UsageError(f"the head's k must be a whole number of at least 1, up to {MOST:,}, got {self.k!r}")

    def as_draw(self, unmask: Tensor, priority: Tensor) -> Tensor:
        return _places(priority, unmask)

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        noise = random.gumbel(scores[0].numel()).view(scores.shape)
        return self._first(scores.double() / self.temperature + noise, selectable)

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        return self._first(scores, selectable)

    def _first(self, keys: Tensor, selectable: Tensor) -> Tensor:
        place = _places(keys, selectable)
        return place.masked_fill(place > self.k, 0)

    def log_prob(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Also −inf for draws of another size than min(K, selectable positions)."""
        return self._log_prob(_Ranked(scores, self.temperature, selectable, draw), selectable).to(scores.dtype)

    def entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Exact for K = 1; see ``Head.entropy``."""
        return self._entropy(_Ranked(scores, self.temperature, selectable, draw)).to(scores.dtype)

    def log_prob_and_entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        ranked = _Ranked(scores, self.temperature, selectable, draw)
        log_prob, entropy = self._log_prob(ranked, selectable), self._entropy(ranked)
        return log_prob.to(scores.dtype), entropy.to(scores.dtype)

    def _log_prob(self, ranked: _Ranked, selectable: Tensor) -> Tensor:
        log_prob = _sum_where(ranked.drawn, ranked.score - _log(ranked.weight_left)[..., :-1])
        possible = ranked.possible & (ranked.count == selectable.sum(-1).clamp(max=self.k))
        return log_prob.masked_fill(~possible, -torch.inf)

    @staticmethod
    def _entropy(ranked: _Ranked) -> Tensor:
        positive = _positive(ranked.weight_left)
        choices = positive.log() - ranked.moment_left / positive
        return _sum_where(ranked.drawn, choices[..., :-1])


@dataclass(frozen=True)
class DynamicPlackettLuce:
    """As many positions as the scores say: one is always drawn, then a STOP of score 0 joins and ends the draw.

    log π = log softmax(s)[l₁] + Plackett–Luce log-probability of (l₂, …, l_K, STOP). Every step makes progress, so
    nothing needs to be forced.

    Source: arXiv 2512.09106, appendix C.

    Raises:
        UsageError: a temperature that is not above 0.
    """

    temperature: float = 1.0
    """Divides the scores."""

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def as_draw(self, unmask: Tensor, priority: Tensor) -> Tensor:
        return _places(priority, unmask)

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        width = scores.shape[-1]
        count = scores[0].numel() // width * (2 * width + 1)
        noise = random.gumbel(count).view(*scores.shape[:-1], 2 * width + 1)
        logits = scores.double() / self.temperature
        first = (logits + noise[..., :width]).masked_fill(~selectable, -torch.inf).argmax(-1, keepdim=True)
        later = (logits + noise[..., width:-1]).scatter(-1, first, torch.inf)
        return _places(later, (later > noise[..., -1:]) & selectable)

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        place = _places(scores, selectable)
        ranked = _Ranked(scores, self.temperature, selectable, place)
        left, stop = self._with_stop(ranked)
        log_left = _log(left)
        chosen = torch.where(ranked.drawn, ranked.score - log_left[..., :-1], 0.0).cumsum(-1)
        # Of n positions: the first n choices, then STOP among what is left.
        log_prob = chosen + stop - log_left[..., 1:]
        count = log_prob.masked_fill(~ranked.drawn, -torch.inf).argmax(-1, keepdim=True) + 1
        return place.masked_fill(place > count, 0)

    def log_prob(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Also −inf for the empty draw where something is selectable."""
        ranked = _Ranked(scores, self.temperature, selectable, draw)
        left, stop = self._with_stop(ranked)
        return self._log_prob(ranked, selectable, _log(left), stop).to(scores.dtype)

    def entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        """Of the single choices, STOP included; see ``Head.entropy``."""
        ranked = _Ranked(scores, self.temperature, selectable, draw)
        left, stop = self._with_stop(ranked)
        positive = _positive(left)
        return self._entropy(ranked, positive, positive.log(), stop).to(scores.dtype)

    def log_prob_and_entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        ranked = _Ranked(scores, self.temperature, selectable, draw)
        left, stop = self._with_stop(ranked)
        positive = _positive(left)
        log_left = positive.log()
        log_prob = self._log_prob(ranked, selectable, log_left, stop)
        return log_prob.to(scores.dtype), self._entropy(ranked, positive, log_left, stop).to(scores.dtype)

    @staticmethod
    def _log_prob(ranked: _Ranked, selectable: Tensor, log_left: Tensor, stop: Tensor) -> Tensor:
        count = ranked.count
        log_prob = _sum_where(ranked.drawn, ranked.score - log_left[..., :-1])
        log_stop = stop[..., 0] - log_left.gather(-1, count[..., None])[..., 0]
        some = count > 0
        log_prob = torch.where(some, log_prob + log_stop, log_prob)
        possible = ranked.possible & (some >= selectable.any(-1))
        return log_prob.masked_fill(~possible, -torch.inf)

    @staticmethod
    def _entropy(ranked: _Ranked, left: Tensor, log_left: Tensor, stop: Tensor) -> Tensor:
        place, count = counted(left.shape[-1], left.device), ranked.count[..., None]
        moment = ranked.moment_left + torch.where(place > 0, stop.exp() * stop, 0.0)
        return _sum_where((place <= count) & (count > 0), log_left - moment / left)

    @staticmethod
    def _with_stop(ranked: _Ranked) -> tuple[Tensor, Tensor]:
        """(…, W+1) weight of what is left with STOP from the second choice on; (…, 1) score of STOP."""
        stop = (-ranked.best).clamp(FLOOR, -FLOOR)
        later = counted(ranked.weight_left.shape[-1], stop.device) > 0
        return ranked.weight_left + torch.where(later, stop.exp(), 0.0), stop


def _sum_where(condition: Tensor, values: Tensor) -> Tensor:
    """Σ along the last dimension of the values where the condition holds."""
    return values.masked_fill(~condition, 0.0).sum(-1)


def _places(keys: Tensor, selectable: Tensor) -> Tensor:
    """(…, W) int64: 1 for the selectable position of largest key, 2 for the next (the leftmost of equals first).

    Positions that are not selectable get 0.
    """
    width, hidden = keys.shape[-1], ~selectable
    order = keys.masked_fill(hidden, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    place = _ordinals(width, keys.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place).masked_fill_(hidden, 0)


@constant
def _ordinals(width: int, device: torch.device) -> Tensor:
    """(W,) int64: 1, 2, 3, …"""
    return torch.arange(1, width + 1, device=device)


class _Ranked:
    """Scores in the order of a draw: drawn positions, then the other selectable ones, then the rest.

    Attributes:
        best: (…, 1) float64, the row's largest selectable score; the other scores are relative to it.
        score: (…, W) float64, divided by the temperature, at least ``FLOOR``.
        weight_left: (…, W+1) float64, Σ exp(score) over the selectable positions from here on.
        moment_left: (…, W+1) float64, Σ score·exp(score) over them.
        drawn: (…, W) bool.
        count: (…,) int64, how many are drawn.
        possible: (…,) bool, the draw is of selectable positions, in places 1, 2, 3, ….
    """

    def __init__(self, scores: Tensor, temperature: float, selectable: Tensor, draw: Tensor) -> None:
        width = scores.shape[-1]
        unranked = selectable * -1 + (width + 2)
        place, order = torch.where(draw > 0, draw.long(), unranked).sort(dim=-1, stable=True)
        logits = scores.double() / temperature
        # Where nothing is selectable any number will do.
        best = logits.detach().masked_fill(~selectable, -torch.inf).amax(-1, keepdim=True).clamp(min=LOWEST)
        self.best = best
        self.drawn = place <= width
        self.count = self.drawn.sum(-1)
        real = selectable.gather(-1, order)
        hidden = ~real
        self.score = (logits.gather(-1, order) - best).masked_fill(hidden, 0.0).clamp(min=FLOOR)
        weight = self.score.exp().masked_fill(hidden, 0.0)
        left = _from_here_on(torch.stack((weight, weight * self.score)))
        self.weight_left, self.moment_left = F.pad(left, (0, 1)).unbind()
        in_order = place == _ordinals(width, place.device)
        self.possible = (self.drawn <= (in_order & real)).all(-1)


LOWEST = -1e300
"""Below all scores, and finite."""


def _from_here_on(values: Tensor) -> Tensor:
    """Σ_{j ≥ i} values_j along the last dimension."""
    return values.flip(-1).cumsum(-1).flip(-1)


def _positive(values: Tensor) -> Tensor:
    """Zeros, which stand where nothing is left to choose, become ones."""
    return torch.where(values > 0, values, 1.0)


def _log(values: Tensor) -> Tensor:
    """log of values ≥ 0, and 0 where nothing is left to choose."""
    return _positive(values).log()


def log_prob_and_entropy(head: Head, scores: Tensor, selectable: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of draws, (…,) each; the Plackett–Luce heads do most of the work once for both.

    Arguments as in ``Head``.
    """
    if type(head) is PlackettLuce or type(head) is DynamicPlackettLuce:  # and no subclass, with a law of its own
        return head.log_prob_and_entropy(scores, selectable, draw)
    return head.log_prob(scores, selectable, draw), head.entropy(scores, selectable, draw)


HEADS: dict[str, type[Head]] = {
    "bernoulli": Bernoulli,
    "plackett_luce": PlackettLuce,
    "dynamic_plackett_luce": DynamicPlackettLuce,
}
"""Heads by name."""


if TYPE_CHECKING:
    HeadLike = str | Head
else:
    HeadLike = NewType("HeadLike", str)  # what a command line can say; an object is for Python
"""A head, or the text that names one."""


def load_head(head: str | Head) -> Head:
    """A head by name with its settings, ``plackett_luce:k=2``, ``bernoulli:force_progress=true``, or from a file.

    Args:
        head: text by the grammar of ``specs``, or a head, which is returned as it is.

    Raises:
        UsageError: no such head or setting, or a value out of range.
    """
    if not isinstance(head, str):
        return head
    if (place := file_part(head)) is not None:
        return load_from_file(place, "head", METHODS).value
    return load(head, HEADS, "head")


METHODS = ("sample", "mode", "log_prob", "entropy", "as_draw")
"""What a head has to have."""


def describe_head(head: Head) -> dict[str, Any]:
    """What ``restore_head`` makes the head of again: its kind, and its fields where it is a dataclass."""
    known = {kind: name for name, kind in HEADS.items()}
    settings: dict[str, Any] = asdict(head) if is_dataclass(head) else {}
    return {"kind": known.get(type(head)) or origin_of(head), **settings}


def restore_head(description: Mapping[str, Any]) -> Head:
    """The head that ``describe_head`` described.

    Raises:
        UsageError: its kind is unknown, its file is not there, or its fields do not fit.
    """
    kind, settings = str(description["kind"]), {k: v for k, v in description.items() if k != "kind"}
    try:
        if kind in HEADS:
            return HEADS[kind](**settings)
        if (place := file_part(kind)) is not None:
            return load_class(place, "head")(**settings)
    except UsageError:
        raise
    except Exception as error:  # a head of the user's may raise anything
        raise UsageError(f"the head {kind!r} does not take its settings: {error}") from None
    raise UsageError(f"the head {kind!r} is unknown: made by another version, or not in a file")

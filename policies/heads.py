"""Distributions over sets of positions, each one object that owns sample, mode, log-probability and entropy.

All act on ``selectable`` positions only. A row without any yields the empty set with log-probability 0 and
entropy 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.random import RowRandom


class Head(Protocol):
    """A family of distributions over subsets of the selectable positions, given one score per position."""

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        """Draws one set per row: (B, W) scores and bool to (B, W) bool."""

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        """The most probable set: (…, W) to (…, W) bool."""

    def log_prob(self, scores: Tensor, selectable: Tensor, unmask: Tensor) -> Tensor:
        """Log-probability of the sets: (…, W) to (…,)."""

    def entropy(self, scores: Tensor, selectable: Tensor) -> Tensor:
        """Entropy in nats: (…, W) to (…,)."""


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
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"the head's temperature must be above 0, got {self.temperature}")

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        probability = 1 / (1 + torch.exp(-self._logits(scores).double()))  # sigmoid itself depends on the place
        drawn = (random.rand(scores.shape[-1]) < probability) & selectable
        return self._forced(drawn, scores, selectable) if self.force_progress else drawn

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        likely = (scores > 0) & selectable
        if not self.force_progress:
            return likely
        best = _best(scores, selectable)
        better = self.log_prob(scores, selectable, likely) > self.log_prob(scores, selectable, best)
        return torch.where(better[..., None], likely, best)

    def log_prob(self, scores: Tensor, selectable: Tensor, unmask: Tensor) -> Tensor:
        """Also −inf for sets that cannot be drawn (outside ``selectable``, or empty where progress is forced)."""
        logits = self._logits(scores)
        terms = torch.where(selectable, F.logsigmoid(torch.where(unmask, logits, -logits)), 0.0)
        if self.force_progress:
            best = _best(scores, selectable)
            forced = (unmask == best).all(-1, keepdim=True)
            terms = torch.where(forced & best, 0.0, terms)
        impossible = (unmask & ~selectable).any(-1)
        if self.force_progress:
            impossible |= selectable.any(-1) & ~unmask.any(-1)
        return terms.sum(-1).masked_fill(impossible, -torch.inf)

    def entropy(self, scores: Tensor, selectable: Tensor) -> Tensor:
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

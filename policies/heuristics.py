"""Published unmasking rules. Each scores the selectable positions of a row and unmasks a set of them.

c is the top-1 probability of a position, H the entropy of its distribution in nats, M the number of masks in the
row. Ties go to the position further left. Comparisons include equality. "+top-1" means that the best selectable
position of that very row is always unmasked, so that every row makes progress whatever its neighbours do; these
rules take another position instead with ``fallback=leftmost`` or ``fallback=lowest_entropy``.

A rule of your own is a class like these in a file of yours: ``--policies my_rules.py:MyRule(k=2)``.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.numerics import counted
from dllm_env.policies.base import Decision
from dllm_env.policies.schedules import (
    SCHEDULES,
    SHIFT,
    Schedule,
    block_steps,
    llada_plan,
    new_block,
    scheduled,
)
from dllm_env.random import RowRandom
from dllm_env.rules import Context


@dataclass(frozen=True)
class Heuristic(abc.ABC):
    """Base of the rules: they see the active block, and of it the top-1 probability unless they say otherwise."""

    rule: ClassVar[str] = ""
    """Its name on the command line."""
    extras: ClassVar[Extras] = Extras()
    """Optional features that it reads."""
    context: ClassVar[Context] = "block"
    top: ClassVar[int] = 1
    remasks: ClassVar[bool] = False
    """Whether it puts tokens back to mask."""
    edits: ClassVar[bool] = False
    """Whether it replaces written tokens."""

    @property
    def name(self) -> str:
        """``rule:parameters``: what differs from the defaults, or the first parameter where nothing does."""
        known = sorted(fields(self), key=lambda field: bool(field.kw_only))  # as its arguments are ordered
        shown = [field for field in known if getattr(self, field.name) != field.default] or list(known[:1])
        if shown == list(known[:1]):
            settings = [number(getattr(self, field.name)) for field in shown]
        else:
            settings = [f"{field.name}={number(getattr(self, field.name))}" for field in shown]
        return ":".join([self.rule or type(self).__name__, *filter(None, [",".join(settings)])])

    @abc.abstractmethod
    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""


def number(value: float | str) -> str:
    """The shortest text that reads back as the same value, so that no two settings share a name."""
    if isinstance(value, str):
        return value
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


# ------------------------------------------------------------------------------- what the rules have in common


def best_k(scores: Tensor, selectable: Tensor, k: int | Tensor) -> Tensor:
    """(B, W) bool: the k selectable positions of highest score, all where fewer than k are selectable.

    Args:
        scores: (B, W).
        selectable: (B, W) bool.
        k: for all rows, or (B,) one for each.
    """
    ranked, none = scores.masked_fill(~selectable, -torch.inf), torch.zeros_like(selectable)
    if isinstance(k, int) and k == 1:
        return none.scatter_(1, ranked.max(-1, keepdim=True).indices, True) & selectable
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    count = torch.as_tensor(k, device=scores.device).expand(len(scores))[:, None]
    return none.scatter_(1, order, counted(scores.shape[1], scores.device) < count) & selectable


MOST = 10**9
"""The largest parameter of a rule: beyond it none means anything."""
SMALLEST_SHIFT = 1e-3
"""The smallest ``shift``."""


def at_least(rule: str, lowest: float, **values: float) -> None:
    """Checks parameters.

    Raises:
        UsageError: one of them is below ``lowest``, beyond all use, or not a whole number where ``lowest`` is one.
    """
    for name, value in values.items():
        if isinstance(lowest, int) and (not isinstance(value, int) or isinstance(value, bool)):
            raise UsageError(f"{rule}: {name} must be a whole number, got {value}")
        if not value >= lowest:
            raise UsageError(f"{rule}: {name} must be at least {lowest}, got {value}")
        if value > MOST:
            raise UsageError(f"{rule}: {name} must be at most {MOST:,}, got {value:,}")


def one_of(rule: str, choices: Sequence[str], **values: str) -> None:
    """Checks parameters.

    Raises:
        UsageError: one of them is none of the choices.
    """
    for name, value in values.items():
        if value not in choices:
            raise UsageError(f"{rule}: {name} must be {' or '.join(choices)}, got {value!r}")


def probabilities(rule: str, **values: float) -> None:
    """Checks parameters.

    Raises:
        UsageError: one of them is no probability.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UsageError(f"{rule}: {name} must be between 0 and 1, got {value}")


Fallback = Literal["best", "leftmost", "lowest_entropy"]


@dataclass(frozen=True)
class Progressing(Heuristic):
    """Base of the rules with "+top-1"."""

    reads: ClassVar[Extras] = Extras()
    """Optional features that the rule reads, whatever its fallback."""
    fallback: Fallback = field(default="best", kw_only=True)
    """The position that is unmasked in any case: the best by c, the leftmost, or that of lowest entropy."""

    def __post_init__(self) -> None:
        one_of(self.rule, get_args(Fallback), fallback=self.fallback)

    @property
    def extras(self) -> Extras:  # type: ignore[override]
        """The rule's, and the fallback's."""
        return replace(self.reads, entropy=True) if self.fallback == "lowest_entropy" else self.reads

    def always(self, observation: Observation) -> Tensor:
        """(B, W) bool: the one position that is unmasked in any case, none where none is selectable."""
        selectable = observation.selectable
        if self.fallback == "leftmost":
            return selectable & (selectable.cumsum(-1) <= 1)
        if self.fallback == "best":
            return best_k(observation.confidence[..., 0], selectable, 1)
        assert observation.entropy is not None
        return best_k(-observation.entropy, selectable, 1)


# -------------------------------------------------------------------------------------------- k at a time


@dataclass(frozen=True)
class Ranked(Heuristic):
    """Base of the rules that unmask the k best, or as many as a published schedule of so many steps asks for."""

    k: int = 1
    """Positions a step."""
    steps: int = 0
    """Steps of a whole response that ``schedule`` shares out, instead of k."""
    schedule: Schedule = "llada"
    """How the steps are shared out: ``llada``, ``dream`` or ``lavida``, see ``schedules.py``."""
    shift: float = field(default=SHIFT, kw_only=True)
    """LaViDa's factor of time: below 1 the first steps reveal the most, above 1 the last ones."""

    def __post_init__(self) -> None:
        at_least(self.rule, 1, k=self.k)
        at_least(self.rule, 0, steps=self.steps)
        at_least(self.rule, SMALLEST_SHIFT, shift=self.shift)
        one_of(self.rule, SCHEDULES, schedule=self.schedule)
        if self.steps and self.k != 1:
            raise UsageError(f"{self.rule}: give k or steps, not both")

    @abc.abstractmethod
    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        """(B, W), the higher the better."""

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        scores = self.scores(observation, random)
        if not self.steps:
            return Decision(best_k(scores, observation.selectable, self.k))
        count, at = scheduled(self.rule, observation, self.steps, self.schedule, self.shift)
        unmask = best_k(scores, observation.selectable, count)
        return Decision(unmask, memory=at.memory(unmask))


@dataclass(frozen=True)
class Random(Ranked):
    """k selectable positions, uniformly (LLaDA's "random" remasking, arXiv 2502.09992)."""

    rule = "random"

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        return random.rand(observation.selectable.shape[1])


@dataclass(frozen=True)
class TopK(Ranked):
    """The k positions of highest c (LLaDA's "low confidence" remasking, arXiv 2502.09992).

    With ``schedule=dream`` it is Dream's ``maskgit_plus``.
    """

    rule = "top_k"

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        return observation.confidence[..., 0]


@dataclass(frozen=True)
class Margin(Ranked):
    """The k positions of highest p1 − p2, the two largest probabilities (Dream, arXiv 2508.15487)."""

    rule = "margin"
    extras = Extras(margin=True)
    schedule: Schedule = "dream"

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        assert observation.margin is not None
        return observation.margin


@dataclass(frozen=True)
class Entropy(Ranked):
    """The k positions of lowest entropy H (Dream, arXiv 2508.15487)."""

    rule = "entropy"
    extras = Extras(entropy=True)
    schedule: Schedule = "dream"

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        assert observation.entropy is not None
        return -observation.entropy


@dataclass(frozen=True)
class Leftmost(Heuristic):
    """The k leftmost selectable positions; k = 1 is left-to-right decoding."""

    rule = "leftmost"
    k: int = 1

    def __post_init__(self) -> None:
        at_least(self.rule, 1, k=self.k)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        return Decision(selectable & (selectable.cumsum(-1) <= self.k))


@dataclass(frozen=True)
class Rightmost(Heuristic):
    """The k rightmost selectable positions: a reference for what is to be written from its end."""

    rule = "rightmost"
    k: int = 1

    def __post_init__(self) -> None:
        at_least(self.rule, 1, k=self.k)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        return Decision(selectable & (selectable.flip(-1).cumsum(-1).flip(-1) <= self.k))


@dataclass(frozen=True)
class Dilated(Heuristic):
    """Positions a stride apart, then those between them, and so on (DUS, arXiv 2506.19037; published base 2).

    In round r all positions with (i − block start) mod s = 0, s = max(1, BL // base^r), r = 1, 2, …: neighbours,
    which depend on each other most, come in different rounds. A row is in the first round that it has not finished.
    """

    rule = "dilated"
    base: int = 2

    def __post_init__(self) -> None:
        at_least(self.rule, 2, base=self.base)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        stride, offset = selectable.shape[1], torch.arange(selectable.shape[1], device=selectable.device)
        unmask = torch.zeros_like(selectable)
        while stride > 1:
            stride = max(1, stride // self.base)
            unmask |= selectable & (offset % stride == 0) & ~unmask.any(-1, keepdim=True)
        return Decision(unmask if selectable.shape[1] > 1 else selectable)


@dataclass(frozen=True)
class FirstHitting(Heuristic):
    """One uniform position per event, at the times at which masked diffusion has them (FHS, arXiv 2409.02908).

    With n positions left the next event is at τ ← τ·U^(1/n). The memory keeps ``elapsed`` = −log τ for denoisers
    that take the time as an input; those here take none, so that the rule unmasks as ``random:1`` does.
    """

    rule = "first_hitting"

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        drawn = random.rand(1 + selectable.shape[1])
        waited = -drawn[:, 0].log() / selectable.sum(-1).clamp(min=1)
        elapsed = observation.memory.get("elapsed", torch.zeros_like(waited)) + waited
        return Decision(best_k(drawn[:, 1:], selectable, 1), memory={"elapsed": elapsed})


@dataclass(frozen=True)
class Ancestral(Heuristic):
    """Each position on its own, as T steps of the reverse process of diffusion reveal it.

    From time t to t − 1/T a mask is revealed with probability M / (T·t), at most 1, so that nothing is left at time
    0; blocks share the steps. M is how much faster than a normalised model the denoiser would leave the mask there:
    ``log_mass``, of score models only, else 1. For the log-linear noise these are SEDD's analytic (Tweedie) and its
    Euler step (arXiv 2310.16834), which are the same there: e^(σ(t) − σ(s)) − 1 = σ'(t)·(t − s). A step that
    reveals nothing costs no evaluation. More than L steps need as many ``max_steps``.
    """

    rule = "ancestral"
    extras = Extras(log_mass=True)
    steps: int = 20
    """T."""

    def __post_init__(self) -> None:
        at_least(self.rule, 1, steps=self.steps)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.log_mass is not None
        at = block_steps(observation, self.steps)
        share = 1 / (at.steps - at.step).clamp(min=1)[:, None]
        drawn = random.rand(observation.selectable.shape[1])
        unmask = (drawn < observation.log_mass.double().exp() * share) & observation.selectable
        return Decision(unmask, memory=at.memory(unmask))


# --------------------------------------------------------------------------------------- as many as are sure


@dataclass(frozen=True)
class Threshold(Progressing):
    """Every position with c ≥ threshold, +top-1 (Fast-dLLM, arXiv 2505.22618; published 0.9)."""

    rule = "threshold"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        sure = (observation.confidence[..., 0] >= self.threshold) & observation.selectable
        return Decision(sure | self.always(observation))


@dataclass(frozen=True)
class FastDLLM2(Threshold):
    """``threshold``, but a settled position first and alone: Fast-dLLM v2's own loop (arXiv 2509.26328).

    In that model a block's first token follows from the finished text, and no later look tells more about it. Its
    code writes it when the block before it is done, whatever its confidence, and looks again. With other denoisers
    this is ``threshold``.
    """

    rule = "fast_dllm_v2"
    reads = Extras(settled=True)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.settled is not None
        first = observation.settled & observation.selectable
        return Decision(torch.where(first.any(-1, keepdim=True), first, super().act(observation, random).unmask))


Variant = Literal["shipped", "paper"]


@dataclass(frozen=True)
class Factor(Progressing):
    """The n highest c with c₍ₙ₎ ≥ 1 − f/(n+1), +top-1 (Fast-dLLM, arXiv 2505.22618; published f = 1).

    The paper's formula and the code that Fast-dLLM ships differ. ``paper``: the largest n that keeps its own bound,
    whether or not those before it do. ``shipped``, the default as people compare with it, is
    ``get_transfer_index_dynamic`` in its ``llada/generate.py``: down the sorted list until one fails, of which the
    first never does; and when all but the last were taken, the last as well.
    """

    rule = "factor"
    f: float = 1.0
    variant: Variant = "shipped"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.rule, 0.0, f=self.f)
        one_of(self.rule, get_args(Variant), variant=self.variant)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        ordered = confidence.masked_fill(~selectable, -torch.inf).sort(-1, descending=True).values
        n = torch.arange(1, selectable.shape[1] + 1, device=confidence.device)
        enough = ordered >= 1 - self.f / (n + 1)
        if self.variant == "paper":
            count = (enough * n).amax(-1)
        else:
            enough[:, 0] |= self.fallback == "best"
            count = enough.long().cumprod(-1).sum(-1)
            count = count + (count == selectable.sum(-1) - 1)
        return Decision(best_k(confidence, selectable, count) | self.always(observation))


@dataclass(frozen=True)
class EntropyBound(Heuristic):
    """The k lowest H, the largest k with ΣH − max H ≤ gamma (EB-Sampler, arXiv 2505.24857; published 0.1).

    Sum and maximum are over the k chosen; k = 1 always satisfies it.
    """

    rule = "entropy_bound"
    extras = Extras(entropy=True)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        at_least(self.rule, 0.0, gamma=self.gamma)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.entropy is not None
        entropy, selectable = observation.entropy.clamp(min=0), observation.selectable
        ordered = entropy.double().masked_fill(~selectable, torch.inf).sort(-1).values
        before = F.pad(ordered.cumsum(-1)[:, :-1], (1, 0))  # of k in ascending order, the last is the maximum
        count = ((before <= self.gamma) & ordered.isfinite()).sum(-1)
        return Decision(best_k(-entropy, selectable, count))


@dataclass(frozen=True)
class Klass(Heuristic):
    """Positions that are sure and steady; if none, the best k (KLASS, arXiv 2511.05664; published 0.6, 0.015, 2).

    Sure: c ≥ tau. Steady: KL(p_t ‖ p_{t−1}) ≤ kappa in each of the last ``history`` steps, all within the active
    block. The rule keeps the last distributions, (B, W, V), in its memory. The published code counts the comparison
    with the last step of the block before as well, which a loop that shows the active block alone cannot see, and
    gives up what is left at the end of its steps.
    """

    rule = "klass"
    extras = Extras(log_probability=True)
    tau: float = 0.6
    kappa: float = 0.015
    history: int = 2
    k: int = 1
    """Positions a step where none is sure and steady."""
    steps: int = 0
    """Steps of LLaDA's schedule, instead of k; they count on while positions are sure and steady."""

    def __post_init__(self) -> None:
        probabilities(self.rule, tau=self.tau)
        at_least(self.rule, 0.0, kappa=self.kappa)
        at_least(self.rule, 1, history=self.history)
        TopK(self.k, self.steps)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.log_probability is not None
        now, memory = observation.log_probability, observation.memory
        new, outside = new_block(observation)
        before = memory.get("log_probability", now)
        terms = torch.where(now == -torch.inf, 0.0, now.exp() * (now - before))
        calm = (terms.sum(-1) <= self.kappa) & ~new[:, None]
        steady = torch.where(calm, memory.get("steady", torch.zeros_like(calm, dtype=torch.int64)) + 1, 0)
        sure = observation.selectable & (observation.confidence[..., 0] >= self.tau) & (steady >= self.history)
        at = block_steps(observation, self.steps) if self.steps else None
        count = self.k if at is None else llada_plan(at)
        usual = best_k(observation.confidence[..., 0], observation.selectable, count)
        unmask = torch.where(sure.any(-1, keepdim=True), sure, usual)
        # A copy: the loop writes the next prediction in the place of this one.
        kept: Mapping[str, Tensor] = {"log_probability": now.clone(), "steady": steady, "outside": outside}
        return Decision(unmask, memory=kept if at is None else {**at.memory(unmask), **kept})


@dataclass(frozen=True)
class LocalLeap(Progressing):
    """c ≥ threshold, and near such an anchor c ≥ relaxed, +top-1 (LocalLeap, arXiv 2510.07081; 0.9, 0.75, 4).

    Near means at most ``radius`` positions away.
    """

    rule = "local_leap"
    threshold: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold, relaxed=self.relaxed)
        at_least(self.rule, 0, radius=self.radius)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        anchor = (confidence >= self.threshold) & selectable
        radius = min(self.radius, selectable.shape[1])  # farther there is nothing
        near = F.max_pool1d(anchor.float()[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0
        leap = near & (confidence >= self.relaxed) & selectable
        return Decision(anchor | leap | self.always(observation))


@dataclass(frozen=True)
class Hierarchy(Progressing):
    """The best of every masked run if c ≥ low, all with c ≥ high, +top-1 (dInfer, arXiv 2510.08666; 0.4, 0.9).

    Runs lie within the active block; unmasking inside a run splits it, so that work proceeds by halves.
    """

    rule = "hierarchy"
    low: float = 0.4
    high: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, low=self.low, high=self.high)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        width = selectable.shape[1]
        run = (selectable & ~F.pad(selectable[:, :-1], (1, 0))).cumsum(-1)  # the number of the run, from 1
        score = confidence.masked_fill(~selectable, -1.0)
        best = score.new_full((len(run), width + 1), -1.0).scatter_reduce(1, run, score, "amax").gather(1, run)
        place = torch.arange(width, device=run.device).expand_as(run).masked_fill(score < best, width)
        first = place.new_full((len(run), width + 1), width).scatter_reduce(1, run, place, "amin").gather(1, run)
        leads = selectable & (place == first) & (confidence >= self.low)
        sure = selectable & (confidence >= self.high)
        return Decision(leads | sure | self.always(observation))

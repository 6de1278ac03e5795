"""Settings of the process, and what a policy sees of it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from dllm_env.denoisers.base import NO_EXTRAS, NOISE_TYPES, Extras, NoiseType
from dllm_env.errors import UsageError
from dllm_env.specs import check_types

Context = Literal["full", "block"]

LONGEST = 2**20
"""Tokens of a response; no model has a longer context."""
STEPS = 10**9
"""Steps of a row, or positions that it puts back to mask."""
COLDEST, HOTTEST = 1e-6, 1e6
"""Temperatures between which logits neither overflow nor all become equal."""


@dataclass(frozen=True)
class Rules:
    """Settings of the process. Everything that plays has these, declared here and nowhere else.

    Raises:
        UsageError: a value of another kind or out of range.

    Examples:
        >>> rules = Rules(response_length=40, block_length=8)
        >>> rules.step_limit
        40
        >>> Rules(response_length=40, block_length=7)
        Traceback (most recent call last):
        dllm_env.errors.UsageError: block length 7 does not divide response length 40; use 1, 2, 4, 5, 8, 10, 20, 40
    """

    response_length: int = 0
    """L, tokens to generate; 0 takes the task's."""
    block_length: int = 0
    """BL, divides L; 0 takes L, which is full diffusion, or the denoiser's own where it attends in blocks. BL < L
    is semi-autoregressive."""
    temperature: float = 0.0
    """Of the denoiser's tokens; 0 takes the most probable."""
    noise: NoiseType = "float64"
    """Precision of the noise that tokens are drawn with at temperature > 0; float32 distorts (arXiv 2409.02908)."""
    max_steps: int = 0
    """Steps after which a row is cut off; 0 means L, with allow_remask the budget more, with allow_edit what blocks
    stay open for."""
    stop_at_eot: bool = False
    """End a row as soon as an end-of-text is written and everything before it is."""
    allow_remask: bool = False
    """Let policies put written tokens of the active block back to mask (wino, remdm)."""
    remask_budget: int = 0
    """How often a row may do so, positions of all steps together; 0 means L."""
    allow_edit: bool = False
    """Let policies replace written tokens of the active block, as LLaDA2.1 was trained for (joint_threshold)."""
    edit_steps: int = 0
    """Steps that a block stays open after its last mask, as long as each replaces something; 0 means 16."""
    limit_block_steps: bool = False
    """End a block after BL steps, whatever is still masked in it, and judge the text without what is missing, as
    arXiv 2512.09106 does."""
    deadline: int = 0
    """Denoiser evaluations that a row may take: with the last one everything that is left is written; 0 for no
    limit."""
    prefix_cache: bool = False
    """Reuse keys and values of what stands before the active block while it lasts: faster, but approximate."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, most in (("response_length", LONGEST), ("block_length", LONGEST), ("max_steps", STEPS)):
            self._check_count(name, most)
        self._check_count("remask_budget", STEPS)
        self._check_count("edit_steps", STEPS)
        self._check_count("deadline", STEPS)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if self.temperature and not COLDEST <= self.temperature <= HOTTEST:
            said = f"from {COLDEST:g} to {HOTTEST:g}, or 0 for the most probable tokens"
            raise UsageError(f"temperature must be {said}, got {self.temperature:g}")
        if self.noise not in NOISE_TYPES:
            raise UsageError(f"unknown noise {self.noise!r}; choose {' or '.join(NOISE_TYPES)}")
        if self.allow_edit and self.limit_block_steps:
            raise UsageError("allow_edit keeps a block open and limit_block_steps ends it; leave one of them away")
        length, block = self.response_length, self.block_length
        if length and block and length % block:
            found = [str(d) for d in range(1, length + 1) if length % d == 0]
            divisors = ", ".join(found if len(found) < 40 else [*found[:20], "…", *found[-20:]])
            raise UsageError(f"block length {block} does not divide response length {length}; use {divisors}")

    def _check_count(self, name: str, most: int) -> None:
        value = getattr(self, name)
        if value < 0:
            raise UsageError(f"{name} must be at least 1, or 0 for its default, got {value}")
        if value > most:
            raise UsageError(f"{name} must be at most {most:,}, got {value:,}")

    @classmethod
    def of(cls, settings: Rules, **changes: Any) -> Rules:
        """The rules within settings that have more fields, with some of them changed."""
        names = [field.name for field in fields(Rules)]
        return Rules(**{name: changes.get(name, getattr(settings, name)) for name in names})

    def resolve(self, response_length: int = 0, attention_block: int = 0) -> Rules:
        """With the lengths that were left open.

        Args:
            response_length: L, where the rules do not say it.
            attention_block: of the denoiser, which is the block length where the rules do not say it.

        Raises:
            UsageError: nobody says it, or the block length does not divide it.
        """
        length = self.response_length or response_length
        if length < 1:
            raise UsageError("the rules need a response length of at least 1")
        return replace(self, response_length=length, block_length=self.block_length or attention_block or length)

    @property
    def step_limit(self) -> int:
        """Steps after which a row is cut off."""
        return self.max_steps or self.response_length + self.remasks_allowed + self._edits_allowed

    @property
    def steps_after(self) -> int:
        """Steps that a block stays open for editing after its last mask."""
        return (self.edit_steps or 16) if self.allow_edit else 0

    @property
    def _edits_allowed(self) -> int:
        blocks = self.response_length // max(self.block_length, 1) + 1  # the first may begin in the prompt
        return self.steps_after * blocks

    @property
    def remasks_allowed(self) -> int:
        """How many positions a row may put back to mask."""
        return (self.remask_budget or self.response_length) if self.allow_remask else 0


@dataclass(frozen=True)
class View:
    """What a policy sees of a row, which its policy or the user of an environment chooses.

    Raises:
        UsageError: a value out of range.
    """

    context: Context = "full"
    """The whole response (W = L), or its active block only (W = BL)."""
    top: int = 1
    """p, how many of the largest probabilities a position's confidence holds."""
    extras: Extras = NO_EXTRAS
    """Optional features of the observation."""

    def __post_init__(self) -> None:
        if self.context not in ("full", "block"):
            raise UsageError(f"unknown context {self.context!r}; choose full or block")
        if isinstance(self.top, bool) or not isinstance(self.top, int) or self.top < 1:
            raise UsageError(f"top must be a whole number of at least 1, got {self.top!r}")


FULL_VIEW = View()

"""The Markov decision process of unmasking, as pure batched tensor code.

Everything about masks, blocks and ends of rows is here and nowhere else. ``env.py``, ``vector_env.py`` and
``policies/rollout.py`` are thin adapters.

A row's response starts as all masks. An action is a set of positions; those that are masked and in the row's
active block (the block of its first mask) get the denoiser's token. The row ends when nothing is masked, or after
``max_steps`` steps. Rows never look at each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.denoisers import NO_EXTRAS, Denoiser, Extras, Prediction
from dllm_env.errors import UsageError
from dllm_env.random import RowRandom

Context = Literal["full", "block"]


@dataclass(frozen=True)
class Rules:
    """Settings of the process.

    Raises:
        UsageError: a value out of range.
    """

    response_length: int
    """L, tokens to generate."""
    block_length: int
    """BL, has to divide L; BL = L is full diffusion, BL < L is semi-autoregressive."""
    context: Context = "full"
    """What a policy sees: the whole response (W = L) or its active block only (W = BL)."""
    temperature: float = 0.0
    """Of the denoiser's tokens; 0 takes the most probable."""
    max_steps: int = 0
    """Steps after which a row is cut off; 0 means L."""
    stop_at_eot: bool = False
    """End a row as soon as an end-of-text is committed and everything before it is."""
    top: int = 1
    """p, how many of the largest probabilities a position's confidence holds."""
    extras: Extras = NO_EXTRAS
    """Optional features of the observation."""

    def __post_init__(self) -> None:
        length, block = self.response_length, self.block_length
        if length < 1:
            raise UsageError(f"response length must be at least 1, got {length}")
        if block < 1 or length % block:
            divisors = ", ".join(str(d) for d in range(1, length + 1) if length % d == 0)
            raise UsageError(f"block length {block} does not divide response length {length}; use {divisors}")
        if self.context not in ("full", "block"):
            raise UsageError(f"unknown context {self.context!r}; choose full or block")
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if self.max_steps < 0:
            raise UsageError(f"maximum steps must be at least 1 (or 0 for L), got {self.max_steps}")
        if self.top < 1:
            raise UsageError(f"top must be at least 1, got {self.top}")

    @property
    def width(self) -> int:
        """W, the positions of an observation and an action."""
        return self.response_length if self.context == "full" else self.block_length

    @property
    def step_limit(self) -> int:
        """Steps after which a row is cut off."""
        return self.max_steps or self.response_length


@dataclass
class Observation:
    """What a policy sees of B rows. W is L, or BL for ``context="block"``.

    Attributes:
        confidence: (B, W, p) float32, the largest probabilities of masked positions, 0 elsewhere.
        masked: (B, W) bool.
        selectable: (B, W) bool, masked and in the active block.
        progress: (B,) float32, steps taken / L.
        masked_total: (B,) int64, masks left in the whole response.
        entropy, margin: (B, W) float32 or None.
        hidden: (B, W, d) float32 or None.
    """

    confidence: Tensor
    masked: Tensor
    selectable: Tensor
    progress: Tensor
    masked_total: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    hidden: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Observation:
        """The chosen rows, as a copy."""
        values = (getattr(self, field.name) for field in fields(self))
        return Observation(*(None if value is None else value[rows] for value in values))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.masked)

    @classmethod
    def concatenate(cls, parts: Sequence[Observation]) -> Observation:
        """All rows of the parts, in order."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


@dataclass
class State:
    """B rows of the process.

    Attributes:
        tokens: (B, P+L) int64, prompt (left-padded) then response.
        masked: (B, L) bool.
        step: (B,) int64, steps taken.
        nfe: (B,) int64, denoiser evaluations used.
        revealed_at: (B, L) int64, the step (from 0) in which a position was unmasked, −1 before.
        ignored: (B,) int64, positions asked for that could not be selected.
        stale: (B,) bool, the prediction does not belong to the tokens any more.
        prediction: of the masked positions that the context shows, (B, W) wide.
        random: (B,) streams of the tokens drawn at temperature > 0.
    """

    tokens: Tensor
    masked: Tensor
    step: Tensor
    nfe: Tensor
    revealed_at: Tensor
    ignored: Tensor
    stale: Tensor
    prediction: Prediction
    random: RowRandom

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, rows: Tensor) -> State:
        """The chosen rows, as a copy."""
        return State(*(getattr(self, field.name)[rows] for field in fields(self)))

    def write(self, rows: Tensor, other: State) -> None:
        """Puts the rows of ``other`` in the places ``rows``; both need the same prompt width."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Tensor):
                mine[rows] = theirs
            else:
                mine.write(rows, theirs)


class Dynamics:
    """The process for one denoiser and one set of rules; it holds no rows itself.

    Args:
        denoiser: predicts tokens.
        rules: settings.
        prompt_length: P, to which prompts are left-padded.

    Raises:
        UsageError: P + L does not fit the denoiser's context.
    """

    def __init__(self, denoiser: Denoiser, rules: Rules, prompt_length: int) -> None:
        total = prompt_length + rules.response_length
        if total > denoiser.max_length:
            raise UsageError(
                f"prompt of {prompt_length} and response of {rules.response_length} tokens exceed the context of "
                f"denoiser {denoiser.name!r} ({denoiser.max_length}); shorten the prompt or the response"
            )
        self.denoiser = denoiser
        self.rules = rules
        self.prompt_length = prompt_length

    def reset(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> State:
        """Rows with these prompts, all masked. Row i's tokens depend on its prompt and ``seeds[i]`` alone.

        Raises:
            UsageError: a prompt is longer than ``prompt_length``.
        """
        device, rules, count = self.denoiser.device, self.rules, len(prompts)
        longest = max(map(len, prompts))
        if longest > self.prompt_length:
            raise UsageError(f"a prompt has {longest} tokens, more than the prompt length {self.prompt_length}")
        padded = [[self.denoiser.pad_id] * (self.prompt_length - len(prompt)) + list(prompt) for prompt in prompts]
        tokens = torch.tensor(padded, dtype=torch.int64, device=device).view(count, self.prompt_length)
        shape = (count, rules.response_length)

        def zeros() -> Tensor:
            return torch.zeros(count, dtype=torch.int64, device=device)

        return State(
            tokens=F.pad(tokens, (0, rules.response_length), value=self.denoiser.mask_id),
            masked=torch.ones(shape, dtype=torch.bool, device=device),
            step=zeros(),
            nfe=zeros(),
            revealed_at=torch.full(shape, -1, device=device),
            ignored=zeros(),
            stale=torch.ones(count, dtype=torch.bool, device=device),
            prediction=self._empty_prediction(count),
            random=RowRandom.from_seeds(list(seeds), "tokens", device),
        )

    def _empty_prediction(self, count: int) -> Prediction:
        rules, device = self.rules, self.denoiser.device
        shape, extras = (count, rules.width), rules.extras

        def zeros(*more: int) -> Tensor:
            return torch.zeros(*shape, *more, device=device)

        return Prediction(
            token=torch.zeros(shape, dtype=torch.int64, device=device),
            confidence=zeros(rules.top),
            entropy=zeros() if extras.entropy else None,
            margin=zeros() if extras.margin else None,
            hidden=zeros(self.denoiser.hidden_size) if extras.hidden else None,
        )

    def block_start(self, state: State) -> Tensor:
        """(B,) int64, the first position of each row's active block: the one that holds its first mask."""
        first = state.masked.to(torch.uint8).argmax(-1)
        return first // self.rules.block_length * self.rules.block_length

    def selectable(self, state: State) -> Tensor:
        """(B, L) bool: masked and inside the active block."""
        block, position = (
            self.rules.block_length,
            torch.arange(self.rules.response_length, device=state.masked.device),
        )
        return state.masked & (position // block == self.block_start(state)[:, None] // block)

    def predict(self, state: State) -> None:
        """Renews the prediction of all stale rows with one denoiser call, and counts it."""
        rows = state.stale.nonzero()[:, 0]
        if not len(rows):
            return
        everything = len(rows) == len(state)
        part = state if everything else state[rows]
        self._predict(part)
        if not everything:
            state.write(rows, part)

    def _predict(self, state: State) -> None:
        rules = self.rules
        needed = state.masked if rules.context == "full" else self.selectable(state)
        prediction = self.denoiser.predict(
            state.tokens, needed, rules.top, rules.temperature, state.random, rules.extras
        )
        if rules.context == "block":
            prediction = prediction.map(lambda values: self._window(state, values))
        state.prediction = prediction
        state.nfe += 1
        state.stale.zero_()

    def _window(self, state: State, values: Tensor) -> Tensor:
        """(B, L, …) to (B, W, …): the part that the context shows."""
        if self.rules.context == "full":
            return values
        position = self.block_start(state)[:, None] + torch.arange(self.rules.block_length, device=values.device)
        return values[torch.arange(len(values), device=values.device)[:, None], position]

    def observe(self, state: State) -> Observation:
        """What a policy sees; call ``predict`` first."""
        masked = self._window(state, state.masked)
        return Observation(
            confidence=state.prediction.confidence,
            masked=masked,
            selectable=self._window(state, self.selectable(state)),
            progress=state.step.float() / self.rules.response_length,
            masked_total=state.masked.sum(-1),
            entropy=state.prediction.entropy,
            margin=state.prediction.margin,
            hidden=state.prediction.hidden,
        )

    def apply(self, state: State, unmask: Tensor) -> None:
        """Takes one step in place: writes the predicted tokens at the selectable positions of ``unmask`` (B, W).

        Positions that cannot be selected are ignored and counted in ``state.ignored``. A step that unmasks
        nothing leaves the prediction valid, so that the row's next step costs no denoiser call.
        """
        if unmask.shape != (len(state), self.rules.width) or unmask.dtype != torch.bool:
            expected = (len(state), self.rules.width)
            raise ValueError(f"unmask must be {expected} bool, got {tuple(unmask.shape)} {unmask.dtype}")
        selectable = self._window(state, self.selectable(state))
        chosen = unmask & selectable
        state.ignored += (unmask & ~selectable).sum(-1)
        row, column = chosen.nonzero(as_tuple=True)
        position = column if self.rules.context == "full" else column + self.block_start(state)[row]
        state.tokens[row, self.prompt_length + position] = state.prediction.token[row, column]
        state.masked[row, position] = False
        state.revealed_at[row, position] = state.step[row]
        state.stale |= chosen.any(-1)
        state.step += 1
        if self.rules.stop_at_eot:
            self._stop_at_eot(state)

    def _stop_at_eot(self, state: State) -> None:
        """Fills what follows a committed end-of-text, once nothing before it is masked."""
        response = state.tokens[:, self.prompt_length :]
        found = (response == self.denoiser.eot_id) & ~state.masked
        gap = state.masked.int().cumsum(-1) > 0
        over = (found & ~gap).any(-1, keepdim=True) & state.masked
        response[over] = self.denoiser.eot_id
        state.masked &= ~over

    def terminated(self, state: State) -> Tensor:
        """(B,) bool: nothing is masked."""
        return ~state.masked.any(-1)

    def truncated(self, state: State) -> Tensor:
        """(B,) bool: the steps are used up and something is still masked."""
        return (state.step >= self.rules.step_limit) & state.masked.any(-1)

    def responses(self, state: State) -> Tensor:
        """(B, L) int64, the response tokens, masks where nothing was written."""
        return state.tokens[:, self.prompt_length :]

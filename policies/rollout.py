"""Plays a policy over many prompts: the only generation loop there is.

Rows live in slots. Each round asks the denoiser about the rows whose prediction is out of date (one call for all
of them), lets the policy decide, and applies the decisions. A row that ends leaves at once and a waiting prompt
takes its place; when none waits, the batch shrinks. What a row generates depends on its prompt and seed alone: its
padding, too, follows from its own length, so prompts are played in groups of one padded length.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.dynamics import Dynamics, Observation, State, Wishes, given_by, padded_length
from dllm_env.errors import LogitsError, UsageError
from dllm_env.policies.ahead import Valued, step_ahead
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.scoring import Scoring
from dllm_env.random import RowRandom, derive_key
from dllm_env.rewards import Outcomes
from dllm_env.rules import Rules, View
from dllm_env.tasks.base import Problem, Task


@dataclass(frozen=True)
class Recording:
    """What is kept of an observation when steps are recorded: what the policy that learns reads, and no more.

    Attributes:
        top: how many of the largest probabilities.
        extras: which optional features.
    """

    top: int
    extras: Extras

    def keep(self, seen: Observation, hidden: torch.dtype) -> Observation:
        """A copy, because the state is written in place, without memory; hidden states in the denoiser's precision.

        They come from it in that precision, so that nothing is lost.
        """
        unread: dict[str, Any] = {name: None for name in _OPTIONAL if not getattr(self.extras, name)}
        if not self.extras.token:
            unread["ends"] = None
        part = replace(seen, confidence=seen.confidence[..., : self.top], memory={}, **unread)
        if part.hidden is not None:
            part.hidden = part.hidden.to(hidden)
        return part.map(torch.clone)


_OPTIONAL = [column.name for column in fields(Extras)]


@dataclass
class Trajectories:
    """Every step of every row, flat: M steps in all, row by row.

    Attributes:
        row: (M,) int64, the row that a step belongs to.
        observation: M rows.
        draw: (M, W), above 0 where the action unmasks; what ``log_prob`` is that of.
        log_prob, entropy: (M,) float32 under the policy that acted.
    """

    row: Tensor
    observation: Observation
    draw: Tensor
    log_prob: Tensor
    entropy: Tensor


@dataclass
class Rollout:
    """What N rows generated, in the order of their prompts.

    Attributes:
        responses: (N, L) int64, mask tokens where a row was cut off.
        finished: (N,) bool, nothing is left masked.
        nfe: (N,) int64, denoiser evaluations of each row.
        steps: (N,) int64, steps of each row.
        revealed_at: (N, L) int64, the step that revealed a position, −1 where none did.
        sureness: (N, L) float32, the confidence of a token when it was written, 0 where none was.
        remasks: (N,) int64, positions that were put back to mask.
        edits: (N,) int64, tokens that were replaced.
        denoiser_calls: batched calls made for all rows together.
        seconds, denoiser_seconds: wall time in all, and of that within the denoiser.
        trajectories: every step, where it was asked for.
    """

    responses: Tensor
    finished: Tensor
    nfe: Tensor
    steps: Tensor
    revealed_at: Tensor
    sureness: Tensor
    remasks: Tensor
    edits: Tensor
    denoiser_calls: int = 0
    seconds: float = 0.0
    denoiser_seconds: float = 0.0
    trajectories: Trajectories | None = None


def rollout(
    denoiser: Denoiser,
    policy: Policy,
    rules: Rules,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    batch_size: int = 128,
    prompt_length: int = 0,
    wishes: Wishes | None = None,
    memory: Mapping[str, Tensor] | None = None,
    record: bool | Recording = False,
    on_progress: Callable[[int], None] | None = None,
    on_ended: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Rollout:
    """Generates a response to each prompt.

    Args:
        denoiser: the frozen model.
        policy: chooses positions; its context, top and extras say what it sees.
        rules: response and block length, temperature, ends.
        prompts: N prompts as token ids.
        seeds: N seeds; a row's random numbers follow from its own.
        batch_size: rows generated at a time.
        prompt_length: pad prompts to at least this length.
        wishes: α and deadline of each of the N rows, and what is given of their responses.
        memory: tensors with N rows, what the policy remembers of each row before its first step.
        record: return the trajectories, for training, with what the policy reads or what a ``Recording`` says.
        on_progress: told the number of finished rows after each round that finished some.
        on_ended: told the numbers (n,) of these rows, their responses (n, L) and which are finished (n,).

    Raises:
        UsageError: no prompts, or a prompt and response that do not fit the denoiser's context.
        LogitsError: logits that are no numbers, with the numbers of their prompts and steps.

    Examples:
        >>> from dllm_env import Rules, load_denoiser
        >>> from dllm_env.policies.learned import load_policy
        >>> denoiser = load_denoiser("tiny")
        >>> prompts = [denoiser.encode("a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3")]
        >>> result = rollout(denoiser, load_policy("top_k:4"), Rules(response_length=40), prompts, seeds=[0])
        >>> result.nfe.tolist(), result.steps.tolist()
        ([10], [10])
    """
    _check(prompts, seeds, batch_size)
    began = time.perf_counter()
    recording = record if isinstance(record, Recording) else Recording(policy.top, policy.extras)
    extras = policy.extras | recording.extras if record else policy.extras
    rules = rules.resolve(attention_block=denoiser.attention_block)
    view = View(policy.context, policy.top, extras)
    if limit := getattr(policy, "deadline", 0):
        rules = replace(rules, deadline=min(limit, rules.deadline or limit))
    limited = rules.deadline or (wishes and wishes.deadline is not None)
    if getattr(policy, "ahead", None) and (record or limited or rules.allow_edit):
        what = "be recorded for training" if record else "keep a deadline" if limited else "replace tokens"
        raise UsageError(f"{policy.name} looks ahead, and cannot {what}; leave its candidates away")
    result = _empty_result(len(prompts), rules, denoiser)
    steps: list[_Step] = []

    def keep(rows: Tensor, observation: Observation, decision: Decision) -> None:
        if record:
            draw = decision.unmask if decision.draw is None else decision.draw
            seen = recording.keep(observation, denoiser.dtype)
            steps.append(_Step(rows, seen, draw, decision.log_prob, decision.entropy))

    done = 0

    def told(ended: Tensor) -> None:
        nonlocal done
        done += len(ended)
        if on_ended is not None:
            on_ended(ended, result.responses[ended], result.finished[ended])
        if on_progress is not None:
            on_progress(done)

    groups: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        width = padded_length(denoiser, len(prompt), rules.response_length, prompt_length)
        groups.setdefault(width, []).append(row)
    for width in sorted(groups, reverse=True):  # what does not fit fails first
        dynamics = Dynamics(denoiser, rules, width, view)
        rows = _Rows(prompts, seeds, wishes or Wishes(), memory or {}).of(groups[width], denoiser.device)
        _play(_Slots(dynamics, rows, batch_size), policy, result, keep, told)

    result.seconds = time.perf_counter() - began
    if record:
        result.trajectories = _join(steps)
    return result


class _Step(NamedTuple):
    """The rows of a step, what was seen, and what was decided, with which log-probability and entropy."""

    rows: Tensor
    seen: Observation
    draw: Tensor
    log_prob: Tensor | None
    entropy: Tensor | None


def _play(
    slots: _Slots,
    policy: Policy,
    result: Rollout,
    keep: Callable[[Tensor, Observation, Decision], None],
    told: Callable[[Tensor], None],
) -> None:
    """Plays all rows of a group, until no slot is left."""
    dynamics, ahead = slots.dynamics, getattr(policy, "ahead", None)

    def predict(state: State, rows: Tensor) -> None:
        _predict(dynamics, state, slots.rows[rows], result)

    while len(slots.rows):
        state = slots.state
        _predict(dynamics, state, slots.rows, result)
        observation = dynamics.observe(state)
        if ahead is None:
            observation.memory = slots.memory
            decision = policy.act(observation, slots.random)
            slots.memory = decision.memory
            keep(slots.rows, observation, decision)
            dynamics.apply(state, decision.unmask, decision.remask, decision.edit)
        else:
            step_ahead(cast(Valued, policy), ahead, dynamics, state, observation, slots.random, predict)

        ended = dynamics.ended(state).nonzero()[:, 0]
        if len(ended):
            places = slots.rows[ended]
            _collect(result, dynamics, state, places, ended)
            slots.replace(ended)
            told(places)


def _check(prompts: Sequence[Sequence[int]], seeds: Sequence[int], batch_size: int) -> None:
    if not prompts or len(seeds) != len(prompts):
        raise UsageError(f"a rollout needs prompts and as many seeds, got {len(prompts)} and {len(seeds)}")
    if batch_size < 1:
        raise UsageError(f"batch size must be at least 1, got {batch_size}")


def _predict(dynamics: Dynamics, state: State, numbers: Tensor, result: Rollout) -> None:
    """One call of the denoiser about rows of these prompts, counted and timed."""
    asked = time.perf_counter()
    try:
        result.denoiser_calls += dynamics.predict(state)
    except LogitsError as error:
        raise error.at(numbers[error.rows].tolist(), kind="prompt") from None
    result.denoiser_seconds += time.perf_counter() - asked


@dataclass
class _Rows:
    """What rows begin with.

    Attributes:
        prompts, seeds, wishes: of each row.
        memory: what the policy remembers of it.
        number: (N,) int64, its place among the prompts of the rollout.
    """

    prompts: Sequence[Sequence[int]]
    seeds: Sequence[int]
    wishes: Wishes
    memory: Mapping[str, Tensor]
    number: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def of(self, members: Sequence[int], device: torch.device) -> _Rows:
        """Some of them."""
        number = torch.tensor(members, device=device)
        memory = {name: value.to(device)[number] for name, value in self.memory.items()}
        prompts, seeds = [self.prompts[i] for i in members], [self.seeds[i] for i in members]
        return _Rows(prompts, seeds, self.wishes.to(device)[number], memory, number)


class _Slots:
    """The rows in the batch: which prompt each belongs to, its state, its policy's random stream and memory."""

    def __init__(self, dynamics: Dynamics, begin: _Rows, batch_size: int) -> None:
        self.dynamics, self.all = dynamics, begin
        self.waiting = min(batch_size, len(begin.prompts))  # the first row that has no slot yet
        self.rows = begin.number[: self.waiting]
        self.state, self.random = self._begin(0, self.waiting)
        self.memory: Mapping[str, Tensor] = {name: value[: self.waiting] for name, value in begin.memory.items()}

    def _begin(self, first: int, last: int) -> tuple[State, RowRandom]:
        seeds = self.all.seeds[first:last]
        state = self.dynamics.reset(self.all.prompts[first:last], seeds, self.all.wishes[first:last])
        return state, RowRandom.from_seeds(list(seeds), "policy", self.dynamics.denoiser.device)

    def replace(self, ended: Tensor) -> None:
        """Gives the slots (n,) of ended rows to waiting prompts; where none waits, the slot goes."""
        slots, count = ended, min(len(ended), len(self.all.prompts) - self.waiting)
        if count:
            last = self.waiting + count
            state, random = self._begin(self.waiting, last)
            self.state.write(slots[:count], state)
            self.random.write(slots[:count], random)
            self.memory = {name: self._renewed(name, value, slots[:count]) for name, value in self.memory.items()}
            self.rows = self.rows.index_copy(0, slots[:count], self.all.number[self.waiting : last])
            self.waiting = last
        if count < len(slots):
            there = torch.ones(len(self.rows), dtype=torch.bool, device=slots.device)
            keep = there.index_fill(0, slots[count:], False).nonzero()[:, 0]
            self.rows, self.state, self.random = self.rows[keep], self.state[keep], self.random[keep]
            self.memory = {name: value[keep] for name, value in self.memory.items()}

    def _renewed(self, name: str, value: Tensor, slots: Tensor) -> Tensor:
        """A memory in which the rows that come next have what they begin with, or zeros."""
        if (first := self.all.memory.get(name)) is None:
            return value.index_fill(0, slots, 0)
        return value.index_copy(0, slots, first[self.waiting : self.waiting + len(slots)])


def _empty_result(count: int, rules: Rules, denoiser: Denoiser) -> Rollout:
    shape = (count, rules.response_length)
    return Rollout(
        responses=torch.full(shape, denoiser.mask_id, device=denoiser.device),
        finished=torch.zeros(count, dtype=torch.bool, device=denoiser.device),
        nfe=torch.zeros(count, dtype=torch.int64, device=denoiser.device),
        steps=torch.zeros(count, dtype=torch.int64, device=denoiser.device),
        revealed_at=torch.full(shape, -1, device=denoiser.device),
        sureness=torch.zeros(shape, device=denoiser.device),
        remasks=torch.zeros(count, dtype=torch.int64, device=denoiser.device),
        edits=torch.zeros(count, dtype=torch.int64, device=denoiser.device),
    )


def _collect(result: Rollout, dynamics: Dynamics, state: State, place: Tensor, ended: Tensor) -> None:
    """Copies the slots (n,) of rows that have ended into the places (n,) of these rows."""
    result.responses[place] = dynamics.responses(state)[ended]
    result.finished[place] = dynamics.terminated(state)[ended]
    result.nfe[place] = state.nfe[ended]
    result.steps[place] = state.step[ended]
    result.revealed_at[place] = state.revealed_at[ended]
    result.sureness[place] = state.sureness[ended]
    result.remasks[place] = state.remasks[ended]
    result.edits[place] = state.edits[ended]


def _join(steps: list[_Step]) -> Trajectories:
    """All steps, sorted by row, in which they follow each other: not by which rows were in the batch together."""
    row = torch.cat([step.rows for step in steps])
    order = row.argsort(stable=True)

    def joined(values: Iterable[Tensor | None]) -> Tensor:
        known = zip(steps, values, strict=True)
        return torch.cat([step.rows.new_zeros(len(step.rows)).float() if x is None else x for step, x in known])

    return Trajectories(
        row=row[order],
        observation=Observation.concatenate([step.seen for step in steps])[order],
        draw=torch.cat([step.draw for step in steps])[order],
        log_prob=joined(step.log_prob for step in steps)[order],
        entropy=joined(step.entropy for step in steps)[order],
    )


@dataclass
class Attempt:
    """A rollout over problems of a task, with its scores.

    Attributes:
        rollout: what was generated.
        texts: N response texts up to end-of-text.
        correct: (N,) float32, the task's score; 0 for a row that was cut off.
    """

    rollout: Rollout
    texts: list[str]
    correct: Tensor

    def outcomes(self, problems: Sequence[Problem], alpha: Tensor | None = None) -> Outcomes:
        """What rewards may ask for of these rows, which are those of the problems, with α of each."""
        played = self.rollout
        length = played.responses.shape[1]
        alpha = None if alpha is None else alpha.to(self.correct.device)
        return Outcomes(problems, self.texts, self.correct, played.nfe, played.steps, length, alpha)


def attempt(
    denoiser: Denoiser,
    policy: Policy,
    rules: Rules,
    task: Task,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    *,
    batch_size: int = 128,
    wishes: Wishes | None = None,
    memory: Mapping[str, Tensor] | None = None,
    record: bool | Recording = False,
    on_progress: Callable[[int], None] | None = None,
) -> Attempt:
    """Generates a response to each problem and scores it, see ``Scoring``. Arguments as in ``rollout``."""
    length = rules.resolve(attention_block=denoiser.attention_block).response_length
    given = given_by(denoiser, [problem.template for problem in problems], length)
    with Scoring(task, problems, denoiser) as scoring:
        result = rollout(
            denoiser,
            policy,
            rules,
            [denoiser.encode(problem.prompt) for problem in problems],
            seeds,
            batch_size=batch_size,
            prompt_length=task.prompt_length,
            wishes=replace(wishes or Wishes(), given=given),
            memory=memory,
            record=record,
            on_progress=on_progress,
            on_ended=scoring.take if scoring.early else None,
        )
        texts, scores = scoring.finish(result.responses, result.finished)
    return Attempt(result, texts, torch.tensor(scores, device=denoiser.device))


def row_seeds(count: int, *key: object) -> list[int]:
    """One seed for each of ``count`` rows, from anything that tells this rollout from others."""
    return [derive_key(*key, row) for row in range(count)]

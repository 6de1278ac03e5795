"""A policy's decisions for the loop of another program: logits of the active block in, positions and tokens out.

``plugins.py`` and ``serving.py`` put this into the samplers and engines that people use.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dllm_env.denoisers.base import Prediction, Reading, read_positions
from dllm_env.dynamics import Observation, is_end
from dllm_env.errors import LogitsError, UsageError
from dllm_env.policies.base import Policy, undoes
from dllm_env.policies.heuristics import best_k
from dllm_env.policies.learned import load_policy
from dllm_env.random import RowRandom, derive_key, to_gumbel


@dataclass
class Choice:
    """Tokens and positions to write into B rows of W positions.

    Attributes:
        token: (B, W) int64, the predicted token of masked positions, 0 elsewhere. At temperature 0 it is the most
            probable one, of equals that of the lowest id.
        unmask: (B, W) bool, where to write it; masked positions only.
    """

    token: Tensor
    unmask: Tensor


@dataclass
class _Row:
    """The state of one response: its streams, steps taken, positions written, the policy's memory."""

    policy: RowRandom
    tokens: RowRandom
    step: int = 0
    committed: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class BlockDecoder:
    """Makes a policy's decisions from the logits of the active block.

    A row is one response. Its steps, random streams and memory are kept from call to call, and what it gets depends
    on nothing but itself. Rows have names: 0, 1, … for a batch that stays together until ``reset``, or the ids of
    requests that come and go. A row without masks is left alone.

    Args:
        policy: a policy, or a text for ``load_policy`` (loaded where the logits are).
        mask_id: the mask token.
        response_length: L, tokens of a whole response; ``progress`` is steps / L, at most 1.
        seed: rows with the same seed, name and generation (the number of ``reset``s before) get the same streams.
        force_progress: unmask the most confident position of a row for which the policy chooses none, of equals the
            leftmost. Without it such a row costs the engine an evaluation that changes nothing, and a policy may
            never finish.
        end_ids: tokens that end a text, which policies that read predicted tokens have to know.

    Attributes:
        remember: rows that are kept at most; beyond, those that were not asked about for longest are forgotten.

    Raises:
        UsageError: a policy that reads hidden states or support, or remasks, engines offer neither; or one that
            reads predicted tokens, and no ``end_ids``.
    """

    def __init__(
        self,
        policy: Policy | str,
        mask_id: int,
        response_length: int,
        seed: int = 0,
        force_progress: bool = True,
        end_ids: Sequence[int] = (),
    ) -> None:
        if not isinstance(response_length, int) or response_length < 1:
            raise UsageError(f"response length must be a whole number of at least 1, got {response_length!r}")
        if not isinstance(mask_id, int) or mask_id < 0:
            raise UsageError(f"the mask token is an id, a whole number, got {mask_id!r}")
        self.policy, self.end_ids = load_policy(policy), tuple(end_ids)
        if not all(isinstance(token, int) and token >= 0 for token in self.end_ids):
            raise UsageError(f"end_ids are the ids of tokens, whole numbers, got {end_ids!r}")
        _check_policy(self.policy)
        if self.policy.extras.token and not self.end_ids:
            raise UsageError(
                f"policy {self.policy.name!r} reads predicted tokens; give end_ids, the tokens that end a text"
            )
        self.mask_id, self.response_length = mask_id, response_length
        self.seed, self.force_progress = seed, force_progress
        self.remember = 1024
        self._text = policy if isinstance(policy, str) else None
        self._rows: dict[Hashable, _Row] = {}
        self._seeds: Sequence[int] = ()
        self._generation = 0
        self._warned = False

    def reset(self, rows: Iterable[Hashable] | None = None, seeds: Sequence[int] = ()) -> None:
        """Forgets rows, so that new responses begin under their names.

        Args:
            rows: names; all rows when omitted, which also begins a new generation with new random streams.
            seeds: for rows 0, 1, … of the new generation; equal to those of a ``rollout``, they draw the same.
        """
        if rows is not None:
            for name in rows:
                self._rows.pop(name, None)
            return
        self._rows.clear()
        self._seeds = tuple(seeds)
        self._generation += 1

    @property
    def started(self) -> bool:
        """Whether any row has written anything since the last ``reset``."""
        return any(row.committed for row in self._rows.values())

    def check_width(self, width: int) -> None:
        """Whether the policy fits a block of this many positions.

        Raises:
            UsageError: a policy trained to see the whole response, where a block is less.
        """
        if self.policy.context != "full":
            return
        if width != self.response_length:
            raise UsageError(
                f"policy {self.policy.name!r} was trained to see the whole response ({self.response_length}), and "
                f"sees a block of {width} here; train one with --context block"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"policy {self.policy.name!r} was trained with --context full; it fits here only because the block "
                "is the whole response",
                stacklevel=3,
            )

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, masked: Tensor, rows: Sequence[Hashable] | None = None, temperature: float = 0.0
    ) -> Choice:
        """Decides one step.

        Args:
            logits: (B, W, V) of the active blocks, any floating type; left as they are.
            masked: (B, W) bool, the positions still masked.
            rows: names of the B rows; 0, 1, … when omitted.
            temperature: of the tokens; 0 takes the most probable, above 0 draws by Gumbel-max in float64.

        Raises:
            UsageError: shapes that do not fit, a name twice, or a policy that does not fit the width.
        """
        _check_tensors(logits, masked, self.mask_id)
        names: list[Hashable] = list(range(len(masked)) if rows is None else rows)
        _check_names(len(masked), names, temperature)
        self.check_width(masked.shape[1])
        if self._text is not None and logits.device.type != "cpu":
            self.policy = load_policy(self._text, logits.device)
            self._text = None
        choice = Choice(torch.zeros(masked.shape, dtype=torch.int64, device=masked.device), masked.clone())
        active = masked.any(-1).nonzero()[:, 0]
        if len(active):
            found = [self._row(names[i], logits.device) for i in active.tolist()]
            own = [names[i] for i in active.tolist()]
            prediction = self._predict(own, found, logits, active, masked[active], temperature)
            choice.token[active] = prediction.token
            choice.unmask[active] = self._decide(found, prediction, masked[active])
        for name in list(self._rows)[: max(len(self._rows) - max(self.remember, len(names)), 0)]:
            del self._rows[name]
        return choice

    def in_sequences(self, logits: Tensor, masked: Tensor, block_length: int, temperature: float = 0.0) -> Choice:
        """The same for sequences that end with their response: (B, S, V) and (B, S) to a choice of (B, S).

        A row's active block is that of its first mask. Blocks are counted from the end of the sequence, so that it
        does not matter where a sequence is cut off on the left.

        Raises:
            UsageError: masks of a row in more than one block.
        """
        _check_tensors(logits, masked, self.mask_id)
        if masked.shape[1] < block_length:
            raise UsageError(f"a mask of shape {tuple(masked.shape)} is shorter than the block ({block_length})")
        length, device = masked.shape[1], masked.device
        left = length - masked.to(torch.uint8).argmax(-1)
        start = (length - -(-left // block_length) * block_length).clamp(min=0)
        place = start[:, None] + torch.arange(block_length, device=device)
        window = masked.gather(1, place)
        if window.sum() != masked.sum():
            raise UsageError(
                f"masks of a row lie outside its block of {block_length}; give the sampler's block length"
            )
        choice = self(logits[torch.arange(len(masked), device=device)[:, None], place], window, None, temperature)
        token = torch.zeros(masked.shape, dtype=torch.int64, device=device).scatter(1, place, choice.token)
        return Choice(token, torch.zeros_like(masked).scatter(1, place, choice.unmask))

    def _row(self, name: Hashable, device: torch.device) -> _Row:
        """The row of this name, now the one asked about last."""
        row = self._rows.pop(name, None)
        if row is None:
            own = derive_key(self.seed, self._generation, name)
            if isinstance(name, int) and 0 <= name < len(self._seeds):
                own = self._seeds[name]
            policy, tokens = (RowRandom.from_seeds([own], purpose, device) for purpose in ("policy", "tokens"))
            row = _Row(policy, tokens)
        self._rows[name] = row
        return row

    def _predict(
        self,
        names: list[Hashable],
        rows: list[_Row],
        logits: Tensor,
        active: Tensor,
        masked: Tensor,
        temperature: float,
    ) -> Prediction:
        """Predictions of the masked positions of the ``active`` rows from their logits (B', W, V)."""
        vocabulary, policy = logits.shape[-1], self.policy
        streams = _join([r.tokens for r in rows])
        written = torch.tensor([r.committed for r in rows], device=logits.device)
        offset = (written - (~masked).sum(-1)).clamp(min=0)  # where the block begins in the response

        def logits_at(row: Tensor, position: Tensor) -> Tensor:
            return logits[active[row], position]

        def noise_at(row: Tensor, position: Tensor) -> Tensor:
            first = (offset[row] + position) % self.response_length * vocabulary
            return to_gumbel(streams.peek(row, first, vocabulary)) * temperature

        draws = noise_at if temperature > 0 else None
        reading = Reading(vocabulary, self.mask_id, policy.top, policy.extras, temperature)
        try:
            found = read_positions(masked, logits_at, reading, draws, self)
        except LogitsError as error:
            raise error.at([names[i] for i in error.rows], [rows[i].step for i in error.rows]) from None
        if temperature > 0:
            streams.skip(self.response_length * vocabulary)
            _split(streams, [r.tokens for r in rows])
        return found

    def _decide(self, rows: list[_Row], prediction: Prediction, masked: Tensor) -> Tensor:
        """(B, W) bool, the policy's set, and the rows brought up to date."""
        streams = _join([row.policy for row in rows])
        decision = self.policy.act(self._observe(rows, prediction, masked), streams)
        if decision.remask is not None and bool(decision.remask.any()):
            raise UsageError(f"policy {self.policy.name!r} puts tokens back to mask, which engines do not allow")
        unmask = _positions(decision.unmask, masked, self.policy.name) & masked
        if self.force_progress:
            best = best_k(prediction.confidence[..., 0], masked, 1)
            unmask = torch.where(unmask.any(-1, keepdim=True), unmask, best)
        _split(streams, [row.policy for row in rows])
        for i, (row, count) in enumerate(zip(rows, unmask.sum(-1).tolist(), strict=True)):
            row.step += 1
            row.committed += count
            # A copy, as a row that stays would keep the others' memory alive.
            row.memory = {name: value[i : i + 1].clone() for name, value in decision.memory.items()}
        return unmask

    def _observe(self, rows: list[_Row], prediction: Prediction, masked: Tensor) -> Observation:
        def column(values: list[int]) -> Tensor:
            return torch.tensor(values, device=masked.device)

        step, left = column([row.step for row in rows]), [self.response_length - row.committed for row in rows]
        return Observation(
            confidence=prediction.confidence,
            masked=masked,
            selectable=masked,
            progress=(step.float() / self.response_length).clamp(max=1),
            masked_total=torch.maximum(column(left), masked.sum(-1)),
            step=step,
            entropy=prediction.entropy,
            margin=prediction.margin,
            log_probability=prediction.log_probability,
            token_log_prob=prediction.token_log_prob,
            log_mass=prediction.log_mass,
            token=prediction.token if self.policy.extras.token else None,
            ends=is_end(prediction.token, self.end_ids) & masked if self.policy.extras.token else None,
            memory=_join_memory(rows),
        )


def _check_policy(policy: Policy) -> None:
    unseen = {
        "hidden": "hidden states",
        "support": "the support of written tokens",
        "attention": "attention",
        "rewrite": "by what written tokens would be replaced",
        "settled": "where the model's own blocks begin",
    }
    for what in (said for name, said in unseen.items() if getattr(policy.extras, name)):
        raise UsageError(f"policy {policy.name!r} reads {what}, which engines do not give; take one that does not")
    if getattr(policy, "deadline", 0):
        raise UsageError(f"policy {policy.name!r} has a deadline, which engines cannot keep; take it without one")
    if getattr(policy, "ahead", None):
        raise UsageError(
            f"policy {policy.name!r} looks ahead: it plays in dllm-env only; leave its candidates away"
        )
    if what := undoes(policy):
        raise UsageError(f"policy {policy.name!r} {what}, which engines do not allow; take another")


def _positions(unmask: Any, masked: Tensor, name: str) -> Tensor:
    """What a policy decided, if that is a set of positions.

    Raises:
        UsageError: another shape or type.
    """
    if not isinstance(unmask, Tensor) or unmask.shape != masked.shape or unmask.dtype != torch.bool:
        got = f"{tuple(unmask.shape)} {unmask.dtype}" if isinstance(unmask, Tensor) else type(unmask).__name__
        raise UsageError(f"policy {name!r} must decide by {tuple(masked.shape)} torch.bool (unmask), got {got}")
    return unmask


def _check_tensors(logits: Tensor, masked: Tensor, mask_id: int) -> None:
    for name, value in (("logits", logits), ("mask", masked)):
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the {name} must be a tensor, got {'nothing' if value is None else type(value).__name__}"
            )
    if logits.ndim != 3 or masked.shape != logits.shape[:2] or masked.dtype != torch.bool:
        raise UsageError(
            f"logits {tuple(logits.shape)} must be (B, W, V) and the mask (B, W) bool, "
            f"got {tuple(masked.shape)} {masked.dtype}"
        )
    if not logits.is_floating_point():
        raise UsageError(f"logits must be of a floating type, got {logits.dtype}")
    if mask_id >= logits.shape[-1]:
        raise UsageError(f"the mask token {mask_id} is none of the {logits.shape[-1]} tokens that have logits")


def _check_names(count: int, names: list[Hashable], temperature: float) -> None:
    if len(names) != count or len(set(names)) != len(names):
        raise UsageError(f"{count} rows need as many different names, got {names}")
    if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
        raise UsageError(f"temperature must be a finite number of at least 0, got {temperature}")


def _join(streams: list[RowRandom]) -> RowRandom:
    return RowRandom(torch.cat([s.keys for s in streams]), torch.cat([s.counters for s in streams]))


def _split(joined: RowRandom, streams: list[RowRandom]) -> None:
    for stream, counter in zip(streams, joined.counters.split(1), strict=True):
        stream.counters = counter


def _join_memory(rows: list[_Row]) -> dict[str, Tensor]:
    """The memory of the rows' last decisions, zeros for rows in their first step."""
    known = {name: value for row in rows for name, value in row.memory.items()}
    return {
        name: torch.cat([row.memory.get(name, torch.zeros_like(like)) for row in rows])
        for name, like in known.items()
    }

"""The Markov decision process of unmasking, as pure batched tensor code.

Everything about masks, blocks and ends of rows is here and nowhere else. ``env.py``, ``vector_env.py`` and
``policies/rollout.py`` are thin adapters.

A row's response starts as all masks. An action is a set of positions; those that are masked and in the row's
active block (the block of its first mask) get the denoiser's token. The row ends when nothing is masked, or after
``max_steps`` steps. Rows never look at each other.

With ``allow_remask`` an action may also put committed positions of the active block back to mask, as long as the
row's budget lasts; that budget is why such a row ends, too.

A denoiser may attend in blocks (``Denoiser.attention_block``). Blocks are then counted from the first token of the
prompt, so that the response's first one may be shorter, and nothing behind the active block is predicted.

A response may begin with tokens that are given, between masks or before them: they stay, and only the masks are
written (infilling).

A row may have a deadline: with the last denoiser evaluation that it allows, everything that is left is written,
whatever the action says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from dllm_env.blocks import Block, Found, block_starts, everywhere
from dllm_env.denoisers.base import Denoiser, Prediction, PrefixCache
from dllm_env.errors import LogitsError, UsageError
from dllm_env.numerics import constant, counted
from dllm_env.random import RowRandom
from dllm_env.rules import FULL_VIEW, Rules, View
from dllm_env.world import ALONE, World


@dataclass
class Observation:
    """What a policy sees of B rows. W is L, or BL for ``context="block"``.

    Attributes:
        confidence: (B, W, p) float32, the largest probabilities of masked positions, 0 elsewhere.
        masked: (B, W) bool.
        selectable: (B, W) bool, masked and in the active block.
        progress: (B,) float32, steps taken / L.
        masked_total: (B,) int64, masks left in the whole response.
        step: (B,) int64, steps taken.
        entropy, margin: (B, W) float32 or None.
        hidden: (B, W, d) float32 or None.
        log_probability: (B, W, V) float32 or None.
        support: (B, W) float32 or None, see ``Prediction``.
        attention: (B, W, W) float32 or None, see ``Prediction``.
        token_log_prob, log_mass: (B, W) float32 or None, see ``Prediction``.
        settled: (B, W) bool, masks whose prediction nothing that is still written can change: the first of a block
            that the denoiser attends in, where what stands before it predicts it; or None.
        token: (B, W) int64, what would be written at masked positions, or None.
        ends: (B, W) bool, where that is an end-of-text, or None; there with ``token``.
        remaskable: (B, W) bool, what an action may put back to mask; None without ``allow_remask``.
        rewrite: (B, W) float32 or None, see ``Prediction``.
        editable: (B, W) bool, written positions of the active block where the denoiser would rather have another
            token, which an action may write; None without ``allow_edit`` or ``rewrite``.
        preference: (B,) float32, α of the row's reward, how much speed counts; None where nobody says it.
        remaining: (B,) int64, denoiser evaluations that the row may still take after the one that is seen here;
            None without a deadline.
        memory: what this row's last decision left in ``Decision.memory``: tensors with B rows, zeros in a row's
            first step, and nothing at all before the first decision.
    """

    confidence: Tensor
    masked: Tensor
    selectable: Tensor
    progress: Tensor
    masked_total: Tensor
    step: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    hidden: Tensor | None = None
    log_probability: Tensor | None = None
    support: Tensor | None = None
    attention: Tensor | None = None
    token_log_prob: Tensor | None = None
    log_mass: Tensor | None = None
    settled: Tensor | None = None
    token: Tensor | None = None
    ends: Tensor | None = None
    remaskable: Tensor | None = None
    preference: Tensor | None = None
    remaining: Tensor | None = None
    rewrite: Tensor | None = None
    editable: Tensor | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def actionable(self) -> Tensor:
        """(B, W) bool: what an action may write, masks and, where tokens may be replaced, these."""
        return self.selectable if self.editable is None else self.selectable | self.editable

    def __getitem__(self, rows: Tensor) -> Observation:
        """The chosen rows, as a copy."""
        return self.map(lambda value: value[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Observation:
        """An observation with ``function`` applied to every tensor that is there."""
        values = {name: getattr(self, name) for name in _SEEN}
        shown = {name: None if value is None else function(value) for name, value in values.items()}
        memory = {name: function(value) for name, value in self.memory.items()}
        return Observation(**shown, memory=memory)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.masked)

    def columns(self) -> tuple[list[str], list[Tensor]]:
        """Names and tensors of everything that is there but memory; ``of_columns`` is the way back."""
        shown = {name: value for name in _SEEN if (value := getattr(self, name)) is not None}
        return list(shown), list(shown.values())

    @classmethod
    def of_columns(cls, names: Sequence[str], columns: Sequence[Tensor]) -> Observation:
        """The observation that these are the columns of."""
        return cls(**dict(zip(names, columns, strict=True)))  # type: ignore[arg-type]

    def as_numbers(self) -> Tensor:
        """(B, K) float32, everything that is there but memory, one after the other."""
        return torch.cat([value.reshape(len(self), -1) for value in self.columns()[1]], 1).float()

    @classmethod
    def concatenate(cls, parts: Sequence[Observation]) -> Observation:
        """All rows of the parts, in order, without memory."""
        columns = ([getattr(part, name) for part in parts] for name in _SEEN)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]


_SEEN = [column.name for column in fields(Observation) if column.name != "memory"]


NOT_HELD = -(2**31)
"""Where no block is, not even one that begins in the prompt."""


@dataclass
class State:
    """B rows of the process.

    Attributes:
        tokens: (B, P+L) int64, prompt (left-padded) then response.
        masked: (B, L) bool.
        step: (B,) int64, steps taken.
        nfe: (B,) int64, denoiser evaluations used.
        revealed_at: (B, L) int64, the step (from 0) in which a position was unmasked, −1 before.
        sureness: (B, L) float32, the confidence with which it was, 0 before.
        remasks: (B,) int64, positions put back to mask.
        edits: (B,) int64, tokens replaced.
        held: (B,) int64, the first position of a block that is open for editing after its last mask, ``NOT_HELD``
            in rows without one.
        held_for: (B,) int64, steps that it has been.
        ignored: (B,) int64, positions asked for that could not be selected.
        block_step: (B,) int64, steps taken in the active block, with ``Rules.limit_block_steps``.
        open_from: (B,) int64, where blocks that were ended with masks in them are over: masks before it stay.
        stale: (B,) bool, the prediction does not belong to the tokens any more.
        prediction: of the masked positions that the context shows, (B, W) wide.
        random: (B,) streams of the tokens drawn at temperature > 0.
        deadline: (B,) int64, denoiser evaluations that the row may take, 0 for no limit.
        preference: (B,) float32, α of the row's reward, or None.
        last: (B, L) wide, what to write after a row's last evaluation, where there are deadlines.
        prefix: keys and values of B rows, with ``Rules.prefix_cache``, or of finished blocks.
        offset: (B,) int64, how many tokens of the prompt stand in the block in which the response begins; None
            where blocks are counted from the response's start.
    """

    tokens: Tensor
    masked: Tensor
    step: Tensor
    nfe: Tensor
    revealed_at: Tensor
    sureness: Tensor
    remasks: Tensor
    edits: Tensor
    held: Tensor
    held_for: Tensor
    ignored: Tensor
    block_step: Tensor
    open_from: Tensor
    stale: Tensor
    prediction: Prediction
    random: RowRandom
    deadline: Tensor
    preference: Tensor | None = None
    last: Prediction | None = None
    prefix: PrefixCache | None = None
    offset: Tensor | None = None

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, rows: Tensor) -> State:
        """The chosen rows, as a copy."""
        values = [getattr(self, column.name) for column in fields(self)]
        return State(*(None if value is None else value[rows] for value in values))  # type: ignore[arg-type]

    def write(self, rows: Tensor, other: State) -> None:
        """Puts the rows of ``other`` in the places ``rows``; both need the same prompt width."""
        for column in fields(self):
            mine, theirs = getattr(self, column.name), getattr(other, column.name)
            if isinstance(mine, Tensor):
                mine[rows] = theirs
            elif mine is not None:
                mine.write(rows, theirs)


@dataclass(frozen=True)
class Wishes:
    """What is asked of each of B rows.

    Attributes:
        preference: (B,) float32, α of the reward, which a policy may read; None for none.
        deadline: (B,) int64, denoiser evaluations that a row may take, 0 for no limit; None for the rules'.
        given: (B, L) int64, what the response begins with, the mask token where something is to be written; None
            for masks everywhere.
    """

    preference: Tensor | None = None
    deadline: Tensor | None = None
    given: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> Wishes:
        """Those of some rows."""
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Wishes:
        """The same on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, function: Callable[[Tensor], Tensor]) -> Wishes:
        values = (getattr(self, column.name) for column in fields(self))
        return Wishes(*(None if value is None else function(value) for value in values))


class Dynamics:
    """The process for one denoiser and one set of rules; it holds no rows itself.

    Args:
        denoiser: predicts tokens.
        rules: settings, with a response length.
        prompt_length: P, to which prompts are left-padded.
        view: what is observed and acted upon.

    Raises:
        UsageError: P + L does not fit the denoiser's context.

    Examples:
        >>> from dllm_env import Rules, load_denoiser
        >>> denoiser = load_denoiser("tiny")
        >>> dynamics = Dynamics(denoiser, Rules(response_length=8, block_length=4), 24)
        >>> state = dynamics.reset([denoiser.encode("a 6 b +2")], seeds=[0])
        >>> looked = dynamics.predict(state)
        >>> dynamics.apply(state, state.masked)  # everything that is asked for, within the first block
        >>> state.masked.sum().item(), state.nfe.item(), dynamics.terminated(state).item()
        (4, 1, False)
    """

    def __init__(self, denoiser: Denoiser, rules: Rules, prompt_length: int, view: View = FULL_VIEW) -> None:
        rules = rules.resolve(attention_block=denoiser.attention_block)
        check_blocks(denoiser, rules)
        total = prompt_length + rules.response_length
        if total > denoiser.max_length:
            raise UsageError(
                f"prompt of {prompt_length} and response of {rules.response_length} tokens exceed the context of "
                f"denoiser {denoiser.name!r} ({denoiser.max_length}); shorten the prompt or the response"
            )
        if rules.prefix_cache and not denoiser.caches_prefix:
            raise UsageError(f"denoiser {denoiser.name!r} has no prefix cache")
        if rules.prefix_cache and (view.extras.support or view.extras.attention):
            what = "judges written tokens" if view.extras.support else "reads attention"
            raise UsageError(f"a policy that {what} does not work with the prefix cache")
        self.denoiser = denoiser
        self.rules = rules
        self.view = view
        self.prompt_length = prompt_length
        self.among = ALONE
        self._found: Found | None = None

    @property
    def width(self) -> int:
        """W, the positions of an observation and an action."""
        return self.rules.response_length if self.view.context == "full" else self.rules.block_length

    def reset(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], wishes: Wishes | None = None) -> State:
        """Rows with these prompts, all masked. Row i's tokens depend on its prompt and ``seeds[i]`` alone.

        Args:
            prompts: B prompts as token ids.
            seeds: B seeds.
            wishes: what is asked of each row: α, a deadline instead of the rules', what is given of the response.

        Raises:
            UsageError: a prompt is longer than ``prompt_length``, or nothing is left to write.
        """
        wishes = wishes or Wishes()
        device, rules, count = self.denoiser.device, self.rules, len(prompts)
        longest = max(map(len, prompts))
        if longest > self.prompt_length:
            raise UsageError(f"a prompt has {longest} tokens, more than the prompt length {self.prompt_length}")
        padded = [[self.denoiser.pad_id] * (self.prompt_length - len(prompt)) + list(prompt) for prompt in prompts]
        tokens = torch.tensor(padded, dtype=torch.int64, device=device).view(count, self.prompt_length)
        shape = (count, rules.response_length)

        def zeros() -> Tensor:
            return torch.zeros(count, dtype=torch.int64, device=device)

        given = self._given(wishes, count)
        own = wishes.deadline
        deadline = torch.full((count,), rules.deadline, device=device) if own is None else own.to(device)
        return State(
            tokens=torch.cat((tokens, given), 1),
            masked=given == self.denoiser.mask_id,
            step=zeros(),
            nfe=zeros(),
            revealed_at=torch.full(shape, -1, device=device),
            sureness=torch.zeros(shape, device=device),
            remasks=zeros(),
            edits=zeros(),
            held=zeros().fill_(NOT_HELD),
            held_for=zeros(),
            ignored=zeros(),
            block_step=zeros(),
            open_from=zeros(),
            stale=torch.ones(count, dtype=torch.bool, device=device),
            prediction=self._empty_prediction(count),
            random=RowRandom.from_seeds(list(seeds), "tokens", device),
            deadline=deadline,
            preference=None if wishes.preference is None else wishes.preference.to(device),
            last=self._empty_last(count) if rules.deadline or own is not None else None,
            prefix=PrefixCache(count, device) if self._caches else None,
            offset=self._offset([len(prompt) for prompt in prompts]) if self.denoiser.attention_block else None,
        )

    def _given(self, wishes: Wishes, count: int) -> Tensor:
        """(B, L) int64, the responses as they begin."""
        shape, mask = (count, self.rules.response_length), self.denoiser.mask_id
        if wishes.given is None:
            return torch.full(shape, mask, device=self.denoiser.device)
        if wishes.given.shape != shape:
            raise ValueError(f"what is given must be {shape} tokens, got {tuple(wishes.given.shape)}")
        full = (wishes.given != mask).all(-1).nonzero()[:, 0].tolist()
        if full:
            raise UsageError(f"the response of row {full[0]} is given whole; leave a mask to write")
        return wishes.given.to(self.denoiser.device)

    @property
    def _caches(self) -> bool:
        """Whether keys and values are kept from one evaluation to the next."""
        extras = self.view.extras
        exact = self.denoiser.keeps_blocks and not (extras.support or extras.attention)
        return self.rules.prefix_cache or exact

    def _offset(self, lengths: Sequence[int]) -> Tensor:
        tokens = torch.tensor(lengths, dtype=torch.int64, device=self.denoiser.device)
        return torch.zeros_like(tokens) if self.denoiser.blocks_from_response else tokens % self.rules.block_length

    def _empty_prediction(self, count: int) -> Prediction:
        view, device = self.view, self.denoiser.device
        shape, extras = (count, self.width), view.extras

        def zeros(*more: int) -> Tensor:
            return torch.zeros(*shape, *more, device=device)

        return Prediction(
            token=torch.zeros(shape, dtype=torch.int64, device=device),
            confidence=zeros(view.top),
            entropy=zeros() if extras.entropy else None,
            margin=zeros() if extras.margin else None,
            hidden=zeros(self.denoiser.hidden_size) if extras.hidden else None,
            log_probability=zeros(self.denoiser.vocabulary) if extras.log_probability else None,
            support=zeros() if extras.support else None,
            attention=zeros(self.width) if extras.attention else None,
            token_log_prob=zeros() if extras.token_log_prob else None,
            log_mass=zeros() if extras.log_mass else None,
            rewrite=zeros() if extras.rewrite else None,
            rewrite_token=torch.zeros(shape, dtype=torch.int64, device=device) if extras.rewrite else None,
        )

    def _empty_last(self, count: int) -> Prediction:
        shape, device = (count, self.rules.response_length), self.denoiser.device
        token = torch.zeros(shape, dtype=torch.int64, device=device)
        return Prediction(token, torch.zeros(*shape, 1, device=device))

    def open(self, state: State) -> Tensor:
        """(B, L) bool: masked, and not in a block that was ended."""
        if not self.rules.limit_block_steps:
            return state.masked
        position = counted(self.rules.response_length, state.masked.device)
        return state.masked & (position >= state.open_from[:, None])

    def block_start(self, state: State) -> Tensor:
        """(B,) int64, the first position of each row's active block: of its first open mask, or one still edited.

        Below 0 where that is a position of the prompt.
        """
        return self._active(state).start

    def _block_start(self, state: State, opened: Tensor) -> Tensor:
        size = self.rules.block_length
        if size == self.rules.response_length and state.offset is None:
            return torch.zeros_like(state.step)
        first = opened.view(torch.uint8).argmax(-1)
        if state.offset is None:
            start = first // size * size
        else:
            start = (first + state.offset) // size * size - state.offset
        return torch.where(state.held > NOT_HELD, state.held, start) if self.rules.allow_edit else start

    def selectable(self, state: State) -> Tensor:
        """(B, L) bool: masked and inside the active block."""
        return self._active(state).selectable

    def remaskable(self, state: State) -> Tensor:
        """(B, L) bool: committed, inside the active block, and within the row's budget."""
        return self._remaskable(state, self._active(state))

    def _remaskable(self, state: State, block: Block) -> Tensor:
        left = state.remasks < self.rules.remasks_allowed
        return self._written(state, block) & left[:, None]

    def _written(self, state: State, block: Block) -> Tensor:
        """(B, L) bool: written by an action, in the active block."""
        return (state.revealed_at >= 0) & block.inside  # and not what was given

    def _settled(self, state: State, block: Block) -> Tensor:
        """(B, L) bool: see ``Observation``."""
        if not self.denoiser.settles_first:
            return torch.zeros_like(state.masked)
        prompt = (state.tokens[:, : self.prompt_length] != self.denoiser.pad_id).sum(-1, keepdim=True)
        place = counted(self.rules.response_length, prompt.device)
        at = place if self.denoiser.blocks_from_response else place + prompt
        return (place + prompt > 0) & (at % self.denoiser.attention_block == 0) & block.selectable

    def _editable(self, state: State, block: Block) -> Tensor:
        """(B, W) bool: see ``Observation``."""
        assert state.prediction.rewrite is not None
        return block.window(self._written(state, block)) & (state.prediction.rewrite > 0)

    def _active(self, state: State) -> Block:
        """Where the active blocks are; looked up where nothing that this follows from was written since."""
        follows_from = state.masked, state.open_from, state.held, state.offset
        if state.masked.is_inference() or torch.is_inference_mode_enabled():
            return self._find_active(state)  # of such tensors it is not known whether they were written
        if (found := self._found) is None or not found.is_of(follows_from):
            found = self._found = Found.of(self._find_active(state), follows_from)
        return found.block

    def _find_active(self, state: State) -> Block:
        length, size = self.rules.response_length, self.rules.block_length
        opened = self.open(state)
        start = self._block_start(state, opened)
        if size == length and state.offset is None:
            inside = everywhere(start.device)
            return Block(start, inside, opened & inside)  # a tensor of its own
        if state.offset is None:
            inside = block_starts(length, size, start.device) == start[:, None]
        else:
            place = counted(length, start.device) - start[:, None]
            inside = (place >= 0) & (place < size)
        if self.view.context == "full":
            return Block(start, inside, opened & inside)
        row = torch.arange(len(start), device=start.device)[:, None]
        first = start if state.offset is None else start.clamp(0, length - size)
        return Block(start, inside, opened & inside, (row, first[:, None] + counted(size, start.device)))

    def predict(self, state: State) -> bool:
        """Renews the prediction of all stale rows with one denoiser call, and counts it.

        Returns:
            Whether there was one, and so a call.

        Raises:
            LogitsError: logits that are no numbers, with the rows and the steps that they are in.
        """
        rows = state.stale.nonzero()[:, 0]
        if not len(rows):
            return False
        own = rows[self.among.rank :: self.among.size]
        failed = self._predict_rows(state, own) if len(own) else None
        if self.among.size > 1:
            failed = self._tell(state, own, failed)
        if failed is not None:
            raise failed
        return True

    def _predict_rows(self, state: State, rows: Tensor) -> LogitsError | None:
        """Renews the prediction of these rows (n,); returns what failed."""
        everything = len(rows) == len(state)
        part = state if everything else state[rows]
        try:
            self._predict(part)
        except LogitsError as error:
            broken = rows[error.rows]
            return error.at(broken.tolist(), state.step[broken].tolist())
        if not everything:
            state.write(rows, part)
        return None

    def _tell(self, state: State, own: Tensor, failed: LogitsError | None) -> LogitsError | None:
        """Tells all processes what this one has predicted of its rows, and takes over what the others have."""
        device, on_processor = own.device, (lambda value: value.cpu())
        last = None if state.last is None else state.last[own].map(on_processor)
        seen = state.prediction[own].map(on_processor)
        told = self.among.gather((own.cpu(), seen, last, state.random.counters[own].cpu(), failed))
        for rank, (rows, prediction, ending, counters, error) in enumerate(told):
            failed = failed or error
            if rank == self.among.rank or not len(rows):
                continue
            place = rows.to(device)
            state.prediction.write(place, prediction.map(lambda value: value.to(device)))
            if state.last is not None and ending is not None:
                state.last.write(place, ending.map(lambda value: value.to(device)))
            state.random.counters[place] = counters.to(device)
            state.nfe[place] += 1
            state.stale[place] = False
        return failed

    def share_predictions(self, among: World) -> None:
        """From now on each of these processes predicts a share of the rows, which all have, and tells the others.

        Raises:
            UsageError: keys and values are kept from one evaluation to the next, and not told.
        """
        if among.size > 1 and self._caches:
            raise UsageError(
                "several processes that predict rows together keep no cache: leave prefix_cache away, or give the "
                "denoiser cache=0"
            )
        self.among = among

    def _predict(self, state: State) -> None:
        rules, view, block = self.rules, self.view, self._active(state)
        active = view.context == "block" or state.offset is not None
        needed = block.selectable if active else state.masked
        if state.last is not None:
            ending = self.is_last(state, state.nfe + 1)
            needed = torch.where(ending[:, None], self.open(state), needed)
        judged = ~state.masked & block.inside if view.extras.support or view.extras.rewrite else None
        if state.prefix is not None:
            state.prefix.start = self.prompt_length + block.start
            if state.offset is not None:
                place = counted(rules.response_length + 1, needed.device)[1:]
                asked = needed if judged is None else needed | judged
                state.prefix.end = self.prompt_length + (asked * place).amax(-1).long()
        prediction = self.denoiser.predict(
            state.tokens,
            needed,
            view.top,
            rules.temperature,
            state.random,
            view.extras,
            rules.noise,
            judged=judged,
            prefix=state.prefix,
        )
        if state.last is not None:
            state.last = Prediction(prediction.token, prediction.confidence[..., :1])
        if block.shown is not None:
            prediction = prediction.map(block.window)
            if prediction.attention is not None:
                prediction.attention = block.window(prediction.attention.mT)
        state.prediction = prediction
        state.nfe += 1
        state.stale.zero_()

    def observe(self, state: State) -> Observation:
        """What a policy sees; call ``predict`` first."""
        block = self._active(state)
        masked = block.window(state.masked)
        return Observation(
            confidence=state.prediction.confidence,
            masked=masked,
            selectable=block.window(block.selectable),
            progress=state.step / self.rules.response_length,
            masked_total=state.masked.sum(-1),
            step=state.step.clone(),
            entropy=state.prediction.entropy,
            margin=state.prediction.margin,
            hidden=state.prediction.hidden,
            log_probability=state.prediction.log_probability,
            support=state.prediction.support,
            attention=state.prediction.attention,
            token_log_prob=state.prediction.token_log_prob,
            log_mass=state.prediction.log_mass,
            settled=block.window(self._settled(state, block)) if self.view.extras.settled else None,
            token=state.prediction.token if self.view.extras.token else None,
            ends=is_end(state.prediction.token, self.denoiser.end_ids) & masked if self.view.extras.token else None,
            remaskable=block.window(self._remaskable(state, block)) if self.rules.allow_remask else None,
            rewrite=state.prediction.rewrite,
            editable=self._editable(state, block) if self._edits else None,
            preference=state.preference,
            remaining=None if state.last is None else self.remaining(state),
        )

    @property
    def _edits(self) -> bool:
        """Whether actions may replace tokens: somebody asked by which."""
        return self.rules.allow_edit and self.view.extras.rewrite

    def is_last(self, state: State, nfe: Tensor) -> Tensor:
        """(B,) bool: whether the evaluation of this number is the last that the row's deadline allows."""
        return (state.deadline > 0) & (nfe >= state.deadline)

    def remaining(self, state: State) -> Tensor:
        """(B,) int64, denoiser evaluations that rows may still take; −1 in rows without a deadline."""
        return torch.where(state.deadline > 0, (state.deadline - state.nfe).clamp(min=0), -1)

    def apply(self, state: State, unmask: Tensor, remask: Tensor | None = None, edit: Tensor | None = None) -> None:
        """Takes one step in place: writes the predicted tokens at the selectable positions of ``unmask`` (B, W).

        Positions that cannot be selected are ignored and counted in ``state.ignored``. A step that changes
        nothing leaves the prediction valid, so that the row's next step costs no denoiser call.

        Args:
            state: B rows.
            unmask: (B, W) bool, positions to write.
            remask: (B, W) bool, committed positions to put back to mask, where the rules allow it; beyond the row's
                budget the leftmost ones are.
            edit: (B, W) bool, written positions whose token to replace, where the rules allow it.

        Raises:
            ValueError: another shape or type.
            UsageError: positions to remask or to edit, and rules that do not allow it.
        """
        self._check_action(state, unmask)
        block, length = self._active(state), self.rules.response_length
        possible = block.window(block.selectable)
        state.ignored += (unmask > possible).sum(-1)
        chosen, replaced = block.spread(unmask & possible, length), None
        if edit is not None:
            replaced = self._edit(state, edit, block)
        if remask is not None:
            self._remask(state, remask if edit is None else remask & ~edit, block)
        seen = state.prediction
        token = block.spread(seen.token, length)
        self._write(state, chosen, token, block.spread(seen.confidence[..., 0], length))
        state.stale |= chosen.any(-1)
        if state.last is not None:
            self._write_what_is_left(state)
        if self._edits:
            self._hold(state, block, chosen if replaced is None else chosen | replaced)
        state.step += 1
        if self.rules.limit_block_steps:
            self._end_block(state, block.start)
        if self.rules.stop_at_eot:
            self._stop_at_eot(state)

    def take(self, state: State, chosen: Tensor) -> None:
        """One step by a single set of positions (B, W) bool, as learned policies draw it.

        What is editable of it gets the token that the denoiser would rather have there, the rest is ``unmask`` of
        ``apply``, with the same errors.
        """
        if not self._edits:
            self.apply(state, chosen)
            return
        self._check_action(state, chosen)
        editable = self._editable(state, self._active(state))
        self.apply(state, chosen & ~editable, edit=chosen & editable)

    def _write(self, state: State, chosen: Tensor, token: Tensor, sureness: Tensor) -> None:
        """Writes what is chosen of (B, L) tokens; all of this is without a look at what is chosen, for GPUs."""
        response = state.tokens[:, self.prompt_length :]
        torch.where(chosen, token, response, out=response)
        state.masked = state.masked > chosen
        state.revealed_at = torch.where(chosen, state.step[:, None], state.revealed_at)
        state.sureness = torch.where(chosen, sureness, state.sureness)

    def _edit(self, state: State, edit: Tensor, block: Block) -> Tensor:
        """Replaces tokens by those that the denoiser would rather have; returns where, (B, L) bool."""
        self._check_action(state, edit)
        if not self.rules.allow_edit:
            raise UsageError("this policy replaces written tokens; set allow_edit")
        seen, length = state.prediction, self.rules.response_length
        if seen.rewrite is None or seen.rewrite_token is None:
            raise UsageError("who replaces written tokens has to read by which: extras rewrite")
        possible = self._editable(state, block)
        state.ignored += (edit > possible).sum(-1)
        chosen = block.spread(edit & possible, length)
        response = state.tokens[:, self.prompt_length :]
        torch.where(chosen, block.spread(seen.rewrite_token, length), response, out=response)
        state.sureness = torch.where(chosen, block.spread(seen.rewrite, length), state.sureness)
        state.edits += chosen.sum(-1)
        state.stale |= chosen.any(-1)
        return chosen

    def _hold(self, state: State, block: Block, changed: Tensor) -> None:
        """Keeps blocks open that are full, in rows that have changed something there (B, L) and may go on."""
        was = state.held > NOT_HELD
        full = ~(self.open(state) & block.inside).any(-1)
        state.held_for = torch.where(full & was, state.held_for + 1, 0)
        held = full & changed.any(-1) & (state.held_for < self.rules.steps_after)
        held &= ~self.is_last(state, state.nfe)
        state.held = torch.where(held, block.start, NOT_HELD)
        moves = self.view.context == "block" or self.rules.prefix_cache or state.offset is not None
        if moves:  # what the context shows, though no token may have changed
            state.stale |= was & ~held

    def _write_what_is_left(self, state: State) -> None:
        """In rows that have had their last evaluation."""
        assert state.last is not None
        chosen = self.open(state) & self.is_last(state, state.nfe)[:, None]
        self._write(state, chosen, state.last.token, state.last.confidence[..., 0])

    def _end_block(self, state: State, block: Tensor) -> None:
        """Leaves the blocks (B,) that these rows were in where their steps are used up."""
        length = self.rules.block_length
        state.block_step += 1
        over = state.block_step >= length
        state.open_from = torch.where(over, block + length, state.open_from)
        # What the context shows moves with the block, though no token has changed.
        moved = over & self.open(state).any(-1)
        moves = self.view.context == "block" or self.rules.prefix_cache or state.offset is not None
        state.stale |= moved & moves
        state.block_step[over | (self.block_start(state) != block)] = 0

    def _check_action(self, state: State, action: Tensor) -> None:
        expected = (len(state), self.width)
        if action.shape != expected or action.dtype != torch.bool:
            raise ValueError(f"an action must be {expected} bool, got {tuple(action.shape)} {action.dtype}")

    def _remask(self, state: State, remask: Tensor, block: Block) -> None:
        """Puts positions back to mask, from the left while the row's budget lasts."""
        self._check_action(state, remask)
        if not self.rules.allow_remask:
            raise UsageError("this policy puts tokens back to mask; set allow_remask")
        possible = remask & block.window(self._remaskable(state, block)) & ~self.is_last(state, state.nfe)[:, None]
        left = self.rules.remasks_allowed - state.remasks
        chosen = possible & (possible.cumsum(-1) <= left[:, None])
        state.ignored += (remask & ~chosen).sum(-1)
        state.remasks += chosen.sum(-1)
        state.stale |= chosen.any(-1)
        chosen = block.spread(chosen, self.rules.response_length)
        state.tokens[:, self.prompt_length :].masked_fill_(chosen, self.denoiser.mask_id)
        state.masked |= chosen
        state.revealed_at = state.revealed_at.masked_fill(chosen, -1)
        state.sureness = state.sureness.masked_fill(chosen, 0)

    def _stop_at_eot(self, state: State) -> None:
        """Fills what follows a committed end-of-text, once nothing before it is masked."""
        response = state.tokens[:, self.prompt_length :]
        found = is_end(response, self.denoiser.end_ids) & ~state.masked
        gap = self.open(state).int().cumsum(-1) > 0
        over = (found & ~gap).any(-1, keepdim=True) & self.open(state)
        response[over] = self.denoiser.eot_id
        state.masked &= ~over

    def terminated(self, state: State) -> Tensor:
        """(B,) bool: nothing is masked, or only in blocks that were ended, and nothing is edited any more."""
        over = ~self.open(state).any(-1)
        if self.rules.allow_edit:
            over &= (state.held == NOT_HELD) | (state.step >= self.rules.step_limit)
        return over

    def _goes_on(self, state: State) -> Tensor:
        """(B,) bool: something is open, for writing or editing."""
        masked = self.open(state).any(-1)
        return masked | (state.held > NOT_HELD) if self.rules.allow_edit else masked

    def truncated(self, state: State) -> Tensor:
        """(B,) bool: the steps are used up and something is still masked."""
        return (state.step >= self.rules.step_limit) & self.open(state).any(-1)

    def ended(self, state: State) -> Tensor:
        """(B,) bool: terminated or truncated."""
        return ~self._goes_on(state) | (state.step >= self.rules.step_limit)

    def responses(self, state: State) -> Tensor:
        """(B, L) int64, the response tokens, masks where nothing was written."""
        return state.tokens[:, self.prompt_length :]


def check_blocks(denoiser: Denoiser, rules: Rules) -> None:
    """Whether a denoiser that attends in blocks can write in blocks of this length.

    Raises:
        UsageError: it cannot.
    """
    size, asked = denoiser.attention_block, rules.block_length
    if size and size % asked:
        what = "full diffusion" if asked == rules.response_length else f"a block length of {asked}"
        raise UsageError(
            f"denoiser {denoiser.name!r} attends in blocks of {size} and sees nothing behind them, so {what} would "
            f"ask for what it has not learned; use block length {size}, or a divisor of it"
        )
    if size and rules.prefix_cache:
        raise UsageError(
            f"denoiser {denoiser.name!r} attends in blocks, and keeps what is finished anyway, exactly; leave "
            "prefix_cache away"
        )


PROMPT_STEP = 32
"""Prompts are padded to multiples of so many tokens."""


def padded_length(denoiser: Denoiser, prompt: int, response: int, least: int = 0) -> int:
    """P for a prompt of so many tokens, whatever other prompts there are; just these where nothing can be padded.

    Args:
        denoiser: says whether it pads, and how long its context is.
        prompt: tokens of the prompt.
        response: tokens of the response, which have to fit behind it.
        least: P at least.
    """
    if not denoiser.pads:
        return prompt
    wide = -(-prompt // PROMPT_STEP) * PROMPT_STEP
    return max(min(wide, denoiser.max_length - response), prompt, least)


def given_by(denoiser: Denoiser, templates: Sequence[str], length: int) -> Tensor | None:
    """(N, L) int64, what responses with these templates begin with, for ``Wishes``; None if there are none."""
    if not any(templates):
        return None
    return torch.tensor([denoiser.encode_template(template, length) for template in templates])


def is_end(tokens: Tensor, end_ids: Sequence[int]) -> Tensor:
    """Where an end-of-text of any kind stands."""
    known = _kept(tuple(end_ids), tokens.device)
    return tokens == known if len(end_ids) == 1 else torch.isin(tokens, known)


@constant
def _kept(ids: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=device)

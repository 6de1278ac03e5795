"""What each engine does around a policy, as far as a policy can tell: order of calls, shapes, writes in place.

Written after the published interfaces (docs/plugins.md names them). The model is a bundled denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_env.denoisers.base import Denoiser


class Model:
    """A model that takes whole sequences (B, S) and returns logits (B, S, V); counts its calls.

    Only the response has logits; the prompt's are zeros.
    """

    def __init__(self, denoiser: Denoiser, response_length: int) -> None:
        self.denoiser, self.length, self.calls = denoiser, response_length, 0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits = self.denoiser.head(self.denoiser.features(x, self.length))
        return F.pad(logits, (0, 0, x.shape[1] - self.length, 0))


def blank(prompts: Tensor, length: int, mask_id: int) -> Tensor:
    """(B, P) prompts to (B, P+L), the response all masks."""
    return F.pad(prompts, (0, length), value=mask_id)


# ------------------------------------------------------------------------------------------------ Fast-dLLM


def fast_dllm(
    model: Model, prompts: Tensor, get_transfer_index: Callable, block_length: int, mask_id: int, **options: Any
) -> tuple[Tensor, int]:
    """Fast-dLLM's ``generate`` with ``cache`` none, prefix or dual: what the later steps of a block look at.

    The caches themselves are exact here: the model always sees the whole sequence.
    """
    temperature, cache = options.get("temperature", 0.0), options.get("cache", "none")
    x, nfe = blank(prompts, model.length, mask_id), 0
    for start in range(prompts.shape[1], x.shape[1], block_length):
        end, first = start + block_length, True
        while (x[:, start:end] == mask_id).any():
            nfe += 1
            a = 0 if first or cache == "none" else start
            b = end if cache == "dual" and not first else x.shape[1]
            part = x[:, a:b]
            mask_index = part == mask_id
            mask_index[:, end - a :] = False
            x0, chosen = get_transfer_index(
                model(x)[:, a:b], temperature, "low_confidence", mask_index, part, None, 0.9
            )
            assert x0.shape == chosen.shape == part.shape
            part[chosen] = x0[chosen]
            first = False
    return x, nfe


# ---------------------------------------------------------------------------------------------------- Dream


class DreamModel:
    """``diffusion_generate`` with its hooks, its shift of the logits by one, and a rule of its own between the two.

    That rule writes as many tokens into every row as the batch needs on average. A row that has fewer masks than
    that loses tokens to masks, as in the published sampler.
    """

    def __init__(self, model: Model, mask_id: int, as_dictionary: bool = False) -> None:
        self.model, self.mask_id, self.as_dictionary = model, mask_id, as_dictionary
        self.seen: list[Tensor] = []

    def diffusion_generate(self, inputs: Tensor, generation_config: Any = None, **kwargs: Any) -> Any:
        tokens_hook = kwargs.pop("generation_tokens_hook_func", lambda step, x, logits: x)
        logits_hook = kwargs.pop("generation_logits_hook_func", lambda step, x, logits: logits)
        steps = kwargs["steps"]
        x = tokens_hook(None, blank(inputs, kwargs["max_new_tokens"], self.mask_id), None)
        for step in range(steps):
            mask = x == self.mask_id
            raw = self.model(x).roll(-1, 1)
            logits = logits_hook(step, x, torch.cat([raw[:, :1], raw[:, :-1]], 1))
            self._write(x, mask, logits, step, steps)
            x = tokens_hook(step, x, logits)
            self.seen.append(x.clone())
        return SimpleNamespace(sequences=x) if self.as_dictionary else x

    def _write(self, x: Tensor, mask: Tensor, logits: Tensor, step: int, steps: int) -> None:
        left = int(mask.sum()) / len(x)
        count = int(left) if step == steps - 1 else int(left / (steps - step))
        proposal = torch.full_like(x, self.mask_id)
        proposal[mask] = logits[mask].argmax(-1)
        sure = logits.softmax(-1).amax(-1).masked_fill(~mask, -torch.inf)
        best = sure.topk(count, dim=-1).indices
        x.scatter_(1, best, proposal.gather(1, best))


# --------------------------------------------------------------------------------------------------- dInfer


class TokenArray:
    """Tokens behind slices, not a tensor."""

    def __init__(self, tokens: Tensor) -> None:
        self.data = tokens

    def __getitem__(self, place: Any) -> Tensor:
        return self.data[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self.data[place] = value


def dinfer(
    model: Model, prompts: Tensor, decoder: Any, block_length: int, unroll: int = 1, plain: bool = False
) -> Tensor:
    """The blockwise runner; ``plain`` gives the decoder a tensor instead of a ``TokenArray``."""
    data = blank(prompts, model.length, decoder.mask_id)
    x: Any = data if plain else TokenArray(data)
    for block_id, start in enumerate(range(prompts.shape[1], data.shape[1], block_length)):
        end = start + block_length
        decoder.block_init(x[:, start:end], block_id)
        while (x[:, start:end] == decoder.mask_id).any():
            for _ in range(unroll):
                decoder.decode(model(data)[:, start:end], start, end, x)
    return data


# --------------------------------------------------------------------------------------------------- SGLang


class DllmAlgorithm:
    """The base class: it owns the loop, an algorithm owns the step."""

    def __init__(self, config: Any) -> None:
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.fdfo = config.first_done_first_out_mode
        self.base_was_here = True

    def run(self, runner: Any, batch: Any, carried: Sequence[Any] | None = None) -> tuple[list[bool], list[Any]]:
        return self._run_fdfo(runner, batch, carried) if self.fdfo else self._run_sync(runner, batch)

    def _run_sync(self, runner: Any, batch: Any) -> tuple[list[bool], list[Any]]:
        """All blocks of the batch, until each was finished in one step."""
        states = self.init_step_state(batch)  # type: ignore[attr-defined]
        self.prepare_inputs(runner, batch, states)  # type: ignore[attr-defined]
        out, done = runner.forward(batch), [False] * batch.batch_size
        for _ in range(self.max_steps(self.block_size)):  # type: ignore[attr-defined]
            done = self.step(batch, out, states)  # type: ignore[attr-defined]
            if all(done):
                break
            self.prepare_inputs(runner, batch, states)  # type: ignore[attr-defined]
            out = runner.forward(batch)
        return done, [None] * batch.batch_size

    def _run_fdfo(self, runner: Any, batch: Any, carried: Sequence[Any] | None) -> tuple[list[bool], list[Any]]:
        """One step; requests with a finished block leave."""
        fresh = self.init_step_state(batch)  # type: ignore[attr-defined]
        states = [fresh[i] if state is None else state for i, state in enumerate(carried or [])]
        self.prepare_inputs(runner, batch, states)  # type: ignore[attr-defined]
        done = self.step(batch, runner.forward(batch), states)  # type: ignore[attr-defined]
        return done, [None if end else state for end, state in zip(done, states, strict=True)]


class _Request:
    """A response in the making, block by block."""

    def __init__(self, name: str, tokens: Tensor, start: int) -> None:
        self.name, self.tokens, self.start = name, tokens, start
        self.state: Any = None
        self.forwards = 0


class _Runner:
    """Puts the requests' blocks where they belong and calls the model on all of them."""

    def __init__(self, model: Model, requests: list[_Request], block: int, wrapped: bool) -> None:
        self.model, self.requests, self.block, self.wrapped = model, requests, block, wrapped

    def batch(self) -> SimpleNamespace:
        blocks = [r.tokens[r.start : r.start + self.block] for r in self.requests]
        names = [r.name for r in self.requests]
        return SimpleNamespace(batch_size=len(names), input_ids=torch.cat(blocks), rids=names)

    def forward(self, batch: Any) -> Any:
        self.store(batch)
        for request in self.requests:
            request.forwards += 1
        logits = self.model(torch.stack([r.tokens for r in self.requests]))
        rows = [row[r.start : r.start + self.block] for row, r in zip(logits, self.requests, strict=True)]
        flat = torch.cat(rows)
        return SimpleNamespace(full_logits=flat) if self.wrapped else flat

    def store(self, batch: Any) -> None:
        for request, ids in zip(self.requests, batch.input_ids.view(-1, self.block), strict=True):
            request.tokens[request.start : request.start + self.block] = ids


def sglang(
    model: Model, prompts: Tensor, algorithm: Any, names: Sequence[str], apart: int = 0, wrapped: bool = True
) -> tuple[Tensor, list[int]]:
    """Serves requests; with ``fdfo`` request i arrives after ``apart`` · i rounds.

    Returns:
        (B, P+L) tokens, and the model calls of each request.
    """
    width = algorithm.block_size
    x = blank(prompts, model.length, algorithm.mask_id)
    everyone = [_Request(name, row, prompts.shape[1]) for name, row in zip(names, x, strict=True)]
    for turn in range(10_000):
        live = [
            r for i, r in enumerate(everyone) if r.start < x.shape[1] and (not algorithm.fdfo or turn >= i * apart)
        ]
        if not live and all(r.start >= x.shape[1] for r in everyone):
            return x, [r.forwards for r in everyone]
        if live:
            runner = _Runner(model, live, width, wrapped)
            batch = runner.batch()
            done, states = algorithm.run(runner, batch, [r.state for r in live])
            runner.store(batch)
            for request, end, state in zip(live, done, states, strict=True):
                request.state = state
                request.start += width if end or not algorithm.fdfo else 0
    raise AssertionError("a request never finished")


# ----------------------------------------------------------------------------------------------------- vLLM


class Helper:
    """The plugin's worker helper: one block of one request, its result checked."""

    def __init__(self, draft_size: int, vocabulary: int) -> None:
        self.draft_size, self.vocabulary = draft_size, vocabulary

    def run_one_block(
        self, *, request_id: str, input_draft: Sequence[int], logits: Any, policy: Any, remasking_config: Any = None
    ) -> Any:
        assert len(input_draft) == len(logits) == self.draft_size
        result = policy.apply(input_draft=input_draft, logits=logits, remasking_config=remasking_config)
        assert len(result.next_input_block) == self.draft_size
        assert len(result.committed_token_ids) in (0, self.draft_size)
        for token in (*result.committed_token_ids, *result.next_input_block):
            assert type(token) is int
            assert 0 <= token < self.vocabulary
        return result


def vllm(
    model: Model, prompts: Tensor, run: Callable, block: int, mask_id: int, apart: int = 0, rows: bool = True
) -> tuple[Tensor, list[int]]:
    """Serves requests, one after the other within a round; returns tokens and each request's model calls.

    Args:
        run: called as the plugin's worker calls ``run_block_contract_from_model_output``.
        apart: request i arrives after so many · i rounds.
        rows: give the logits as rows of Python numbers, as the plugin's worker does, instead of a tensor.
    """
    x = blank(prompts, model.length, mask_id)
    helper = Helper(block, model.denoiser.vocabulary)
    starts, calls = [prompts.shape[1]] * len(x), [0] * len(x)
    drafts = [[mask_id] * block for _ in x]
    for turn in range(10_000):
        live = [i for i, start in enumerate(starts) if start < x.shape[1] and turn >= i * apart]
        if not live and all(start >= x.shape[1] for start in starts):
            return x, calls
        for i in live:
            x[i, starts[i] : starts[i] + block] = torch.tensor(drafts[i])
        logits = model(x[live]) if live else None
        for k, i in enumerate(live):
            calls[i] += 1
            assert logits is not None
            scores = logits[k, starts[i] : starts[i] + block]
            given = scores.tolist() if rows else scores
            config = {"denoise_step_index": 0}
            step = run(
                helper=helper, request_id=f"r{i}", input_draft=drafts[i], logits=given, remasking_config=config
            )
            drafts[i] = list(step.next_input_block)
            if step.committed_token_ids:
                x[i, starts[i] : starts[i] + block] = torch.tensor(step.committed_token_ids)
                starts[i] += block
    raise AssertionError("a request never finished")


class DiffusionSampler:
    """The newer plugin's sampler: it keeps each request's block, and calls ``_remask_fn`` for those of a batch.

    A block takes one more call after its last mask, which renews the cache; a block that takes too many is cut off.
    """

    def __init__(self, mask_id: int, draft_size: int, threshold: float = 0.9, most_steps: int = 10_000) -> None:
        self._mask_id, self._draft_size, self._threshold = mask_id, draft_size, threshold
        self._most_steps = most_steps
        self._remask_fn: Callable = self.stock
        self.blocks: dict[str, Tensor] = {}
        self.state: dict[str, dict[str, int]] = {}

    @staticmethod
    def stock(**_: Any) -> None:
        raise AssertionError("the plugin's own rule was asked")

    def begin(self, name: str, tail: Sequence[int] = ()) -> None:
        """A new request, whose first block begins with the end of its prompt."""
        block = [*tail, *[self._mask_id] * (self._draft_size - len(tail))]
        self.blocks[name], self.state[name] = torch.tensor(block), {"given": len(tail), "stored": 0, "steps": 0}

    def __call__(self, logits: Tensor, input_batch: Any) -> dict[str, list[int]]:
        """Tokens of the requests whose block is finished; logits (N, V) of all requests one after the other."""
        ends = input_batch.cu_num_logits_np
        rows = [
            (name, slice(int(a), int(b)))
            for name, a, b in zip(input_batch.req_ids, ends, ends[1:], strict=False)
            if b - a == self._draft_size
        ]
        if not rows:
            return {}
        updated, done, count = self._remask_fn(
            logits=torch.stack([logits[place] for _, place in rows]),
            input_draft=torch.stack([self.blocks[name] for name, _ in rows]),
            mask_token_id=self._mask_id,
            threshold=self._threshold,
        )
        assert done.dtype == torch.bool
        assert not count.is_floating_point()
        committed = {}
        for (name, _), block, ready in zip(rows, updated, done.tolist(), strict=True):
            state = self.state[name]
            state["steps"] += 1
            if ready and state["stored"]:
                committed[name] = block[state["given"] :].tolist()
            elif not ready and state["steps"] >= self._most_steps:
                committed[name] = block[block != self._mask_id].tolist()
            state["stored"] = int(ready)
            self.blocks[name] = block
            if name in committed:
                self.begin(name)
        return committed


def batched_vllm(
    model: Model, prompts: Tensor, sampler: DiffusionSampler, apart: int = 0, shuffle: bool = False
) -> tuple[Tensor, list[int]]:
    """Serves requests through a ``DiffusionSampler``; returns tokens and each request's model calls.

    Args:
        apart: request i arrives after so many · i rounds, with a round for its prompt, which has one row of logits.
        shuffle: turn the batch around from round to round.
    """
    x, width = blank(prompts, model.length, sampler._mask_id), sampler._draft_size
    starts, calls = [prompts.shape[1]] * len(x), [0] * len(x)
    for turn in range(10_000):
        live = [i for i, start in enumerate(starts) if start < x.shape[1] and turn >= i * apart]
        if not live and all(start >= x.shape[1] for start in starts):
            return x, calls
        if shuffle and turn % 2:
            live.reverse()
        pieces, ends = [], [0]
        for i in live:
            if f"r{i}" in sampler.blocks:
                x[i, starts[i] : starts[i] + width] = sampler.blocks[f"r{i}"]
        for i, logits in zip(live, model(x[live]) if live else [], strict=True):
            known = f"r{i}" in sampler.blocks
            pieces.append(logits[starts[i] : starts[i] + width] if known else logits[-1:])
            calls[i] += known
            ends.append(ends[-1] + len(pieces[-1]))
        batch = SimpleNamespace(req_ids=[f"r{i}" for i in live], cu_num_logits_np=ends)
        written = sampler(torch.cat(pieces), batch) if live else {}
        for i in live:
            if f"r{i}" not in sampler.blocks:
                sampler.begin(f"r{i}")
            for tokens in [written[f"r{i}"]] if f"r{i}" in written else []:
                x[i, starts[i] : starts[i] + len(tokens)] = torch.tensor(tokens)
                starts[i] += len(tokens)
    raise AssertionError("a request never finished")

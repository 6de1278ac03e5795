"""What a step of policy and denoiser together is worth: the probability of its set times that of its tokens.

DCoLT (arXiv 2505.10446) lets the outcome teach both. A step's probability is that of the set of positions that the
policy drew, times the probabilities with which the denoiser drew their tokens. For the gradient the denoiser looks
at the step's tokens again; these follow from the responses and from when each position was revealed, so that no
activation has to be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, log_mass, token_log_prob
from dllm_env.dynamics import Observation, given_by
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.rollout import Rollout
from dllm_env.train.batches import Batch


@dataclass(frozen=True)
class States:
    """The tokens of every step of N rows, in little room.

    Attributes:
        prompts: N prompts as token ids.
        responses: (N, L) int64, as they ended.
        begin: (N, L) int64, as they began: masks, and what was given.
        revealed_at: (N, L) int64, the step that wrote each position, −1 where none did.
        pad_id: of the denoiser.
    """

    prompts: Sequence[Sequence[int]]
    responses: Tensor
    begin: Tensor
    revealed_at: Tensor
    pad_id: int

    @classmethod
    def of(
        cls,
        denoiser: Denoiser,
        prompts: Sequence[Sequence[int]],
        played: Rollout,
        templates: Sequence[str] = (),
    ) -> States:
        """Those of a rollout in which nothing was put back to mask, of responses with these templates."""
        ended = played.responses
        given = given_by(denoiser, templates, ended.shape[1])
        begin = torch.full_like(ended, denoiser.mask_id) if given is None else given.to(ended.device)
        return cls(prompts, ended, begin, played.revealed_at, denoiser.pad_id)

    def tokens(self, row: Tensor, step: Tensor) -> Tensor:
        """(m, P+L) int64, what the denoiser saw in these steps (m,) of these rows (m,), P of the longest prompt."""
        seen, written = self.revealed_at[row], self.responses[row]
        shown = (seen >= 0) & (seen < step[:, None])
        prompts = [self.prompts[i] for i in row.tolist()]
        width = max(map(len, prompts))
        padded = [[self.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        before = torch.tensor(padded, dtype=torch.int64, device=written.device).view(len(prompts), width)
        return torch.cat((before, torch.where(shown, written, self.begin[row])), 1)


class Joint(NamedTuple):
    """Log-probabilities of M steps, in nats: of their sets, and of the tokens that were written there."""

    of_set: Tensor
    of_tokens: Tensor

    @property
    def total(self) -> Tensor:
        """(M,) of both together."""
        return self.of_set + self.of_tokens


def as_drawn(batch: Batch) -> Tensor:
    """(M,) log-probability of each step's tokens as they were drawn, recorded by the rollout."""
    recorded = batch.observation.token_log_prob
    assert recorded is not None
    return torch.where(batch.draw > 0, recorded, 0.0).sum(-1)


def evaluate(denoiser: Denoiser, policy: LearnedPolicy, states: States, batch: Batch, temperature: float) -> Joint:
    """The steps of a batch under denoiser and policy as they are now, with gradients of both.

    Logits exist at the positions drawn, and where the policy reads probabilities at all masked ones.

    Args:
        denoiser: looks at the states again.
        policy: scores the draws.
        states: of the rows that the batch is from.
        batch: M steps of full width.
        temperature: at which the tokens were drawn.
    """
    observation, chosen = batch.observation, batch.draw > 0
    hidden = hidden_states(denoiser, states, batch.row, observation.step)
    row, place = chosen.nonzero(as_tuple=True)
    written = states.responses[batch.row[row], place]
    each = token_log_prob(_logits(denoiser, hidden[row, place]), written, temperature)
    of_tokens = torch.zeros(len(batch), device=each.device).index_add(0, row, each)
    of_set, _ = policy.evaluate(look(denoiser, policy, observation, hidden), batch.draw)
    return Joint(of_set, of_tokens)


def hidden_states(denoiser: Denoiser, states: States, row: Tensor, step: Tensor) -> Tensor:
    """(m, L, d) last hidden states of the response in these steps.

    Where prompts cannot be padded, those of one length at a time.
    """
    length = states.responses.shape[1]
    if denoiser.pads:
        return denoiser.features(states.tokens(row, step), length)
    widths = torch.tensor([len(states.prompts[i]) for i in row.tolist()], device=row.device)
    parts, places = [], []
    for width in widths.unique():
        some = (widths == width).nonzero()[:, 0]
        parts.append(denoiser.features(states.tokens(row[some], step[some]), length))
        places.append(some)
    return torch.cat(parts)[torch.cat(places).argsort()]


def nothing(denoiser: Denoiser, states: States) -> Tensor:
    """() zero, with gradients of zero of the whole denoiser, which looks at the first row's first state."""
    first = torch.zeros(1, dtype=torch.int64, device=states.responses.device)
    return 0.0 * denoiser.head(hidden_states(denoiser, states, first, first)[0, :1]).float().sum()


def look(denoiser: Denoiser, policy: LearnedPolicy, seen: Observation, hidden: Tensor) -> Observation:
    """The observation with what follows from the hidden states (m, L, d) as they are now."""
    network, masked = policy.network, seen.masked
    shown = replace(seen, hidden=hidden.masked_fill(~masked[..., None], 0.0) if policy.extras.hidden else None)
    if network.reads_confidence or policy.extras.log_mass:
        row, place = masked.nonzero(as_tuple=True)
        logits = _logits(denoiser, hidden[row, place])
        if network.reads_confidence:
            largest = logits.softmax(-1).topk(policy.top, dim=-1).values
            shown.confidence = torch.zeros_like(seen.confidence).index_put((row, place), largest)
        if policy.extras.log_mass and denoiser.tells_scores:
            mass = log_mass(logits.logsumexp(-1), logits.shape[-1])
            shown.log_mass = mass.new_zeros(masked.shape).index_put((row, place), mass)
    return shown


def _logits(denoiser: Denoiser, hidden: Tensor) -> Tensor:
    """(n, V) in float32, −inf at the mask token, which is never written."""
    logits = denoiser.head(hidden).float()
    never = torch.arange(logits.shape[-1], device=logits.device) == denoiser.mask_id
    return logits.masked_fill(never, -torch.inf)

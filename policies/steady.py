"""Published rules that look at more than one step or position: what stays as it is, what is whole from the left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic, Progressing, at_least, best_k, probabilities
from dllm_env.policies.schedules import new_block
from dllm_env.random import RowRandom


@dataclass(frozen=True)
class Less(Progressing):
    """Sure, persistent and steady positions, +top-1 (LESS, arXiv 2606.16908; the values here are ours).

    Sure: c ≥ threshold. Persistent: the most likely token has been the same in the last ``persistence`` steps of
    the block. Steady: the Jensen–Shannon divergence of its distribution from that of the step before, over the
    most likely ``tokens`` of now and the rest as one, is at most ``divergence``, in nats. In a block's first step
    nothing is steady.
    """

    rule = "less"
    reads = Extras(log_probability=True)
    threshold: float = 0.7
    persistence: int = 2
    divergence: float = 0.05
    tokens: int = 10
    """The most likely tokens that are compared."""

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold)
        at_least(self.rule, 0.0, divergence=self.divergence)
        at_least(self.rule, 1, persistence=self.persistence, tokens=self.tokens)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.log_probability is not None
        now, memory, selectable = observation.log_probability, observation.memory, observation.selectable
        new, outside = new_block(observation)
        token = now.max(-1).indices
        same = (memory.get("token", token) == token) & ~new[:, None]
        lasting = torch.where(same, memory.get("lasting", torch.zeros_like(token)) + 1, 1)
        moved = _divergence(now, memory.get("log_probability", now), self.tokens)
        steady = (moved <= self.divergence) & ~new[:, None]
        sure = observation.confidence[..., 0] >= self.threshold
        unmask = selectable & sure & steady & (lasting >= self.persistence)
        # A copy: the loop writes the next prediction in the place of this one.
        kept: Mapping[str, Tensor] = {
            "log_probability": now.clone(),
            "token": token,
            "lasting": lasting,
            "outside": outside,
        }
        return Decision(unmask | self.always(observation), memory=kept)


def _divergence(now: Tensor, before: Tensor, tokens: int) -> Tensor:
    """(B, W) Jensen–Shannon divergence in nats of (B, W, V) log-probabilities, all but some tokens as one."""
    top = now.topk(min(tokens, now.shape[-1]), -1).indices
    both = []
    for log_probability in (now, before):
        kept = log_probability.gather(-1, top).exp()
        both.append(torch.cat((kept, (1 - kept.sum(-1, keepdim=True)).clamp(min=0)), -1))
    middle = (both[0] + both[1]) / 2
    # x log (x / m), which is 0 for x = 0.
    return sum(torch.where(p > 0, p * (p / middle).log(), 0.0).sum(-1) / 2 for p in both)  # type: ignore[return-value]


@dataclass(frozen=True)
class LongestStablePrefix(Heuristic):
    """The selectable positions from the left as far as c ≥ threshold (LSP, arXiv 2603.05454; the value is ours).

    With ``delimiters`` the prefix ends with the last of these tokens in it, where there is one: sentences and lines
    are written as a whole. The leftmost position is always unmasked.
    """

    rule = "lsp"
    threshold: float = 0.8
    delimiters: str = ""
    """Ids of tokens that may end a prefix, such as 13+198."""

    def __post_init__(self) -> None:
        probabilities(self.rule, threshold=self.threshold)
        self._ids()

    @property
    def extras(self) -> Extras:  # type: ignore[override]
        """Predicted tokens where it looks for delimiters."""
        return Extras(token=bool(self.delimiters))

    def _ids(self) -> list[int]:
        parts = self.delimiters.split("+") if self.delimiters else []
        if not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise UsageError(f"lsp: delimiters are ids of tokens, such as 13+198, got {self.delimiters!r}")
        return [int(part) for part in parts]

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        stable = (observation.confidence[..., 0] >= self.threshold) | ~selectable
        prefix = selectable & stable.int().cumprod(-1).bool()
        if self.delimiters:
            assert observation.token is not None
            ends = prefix & torch.isin(observation.token, torch.tensor(self._ids(), device=prefix.device))
            to_an_end = ends.int().flip(-1).cumsum(-1).flip(-1) > 0
            prefix = torch.where(ends.any(-1, keepdim=True), prefix & to_an_end, prefix)
        return Decision(prefix | selectable & (selectable.cumsum(-1) == 1))


@dataclass(frozen=True)
class MultiBlock(Heuristic):
    """Entropy below a bound in all blocks that are open, of blocks within the block (d3LLM; 0.4, 32, 0.1).

    The first block of ``block`` positions is open; the next one opens when ``opens`` of the one before is written.
    In the first block that is not finished the position of lowest entropy is unmasked where none is below the
    bound; in the published rule that is a block whose predecessor is written to 95%, of which it is the first.
    """

    rule = "multi_block"
    extras = Extras(entropy=True)
    entropy: float = 0.4
    block: int = 32
    opens: float = 0.1

    def __post_init__(self) -> None:
        at_least(self.rule, 0.0, entropy=self.entropy)
        at_least(self.rule, 1, block=self.block)
        probabilities(self.rule, opens=self.opens)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.entropy is not None
        selectable, entropy, width = observation.selectable, observation.entropy, observation.selectable.shape[1]
        block = torch.arange(width, device=selectable.device) // self.block
        count = int(block[-1]) + 1
        none = torch.zeros(len(selectable), count, device=selectable.device)
        masked = none.index_add(1, block, selectable.float())
        written = 1 - masked / block.bincount()
        opened = torch.cat((torch.ones_like(written[:, :1]), (written[:, :-1] >= self.opens).float()), 1)
        is_open = opened.cumprod(-1).bool()[:, block]
        unmask = selectable & is_open & (entropy < self.entropy)
        first = (masked > 0).int().argmax(-1, keepdim=True)
        here = selectable & (block == first)
        forced = best_k(-entropy, here, 1) & ~(unmask & here).any(-1, keepdim=True)
        return Decision(unmask | forced)

"""A head of your own: the selectable positions from the left, up to the first that says stop.

dllm-env train grpo --head examples/own_head.py:Prefix --out runs/prefix
"""

from dataclasses import dataclass

from torch import Tensor, inf
from torch.nn.functional import logsigmoid

from dllm_env.random import RowRandom


@dataclass(frozen=True)
class Prefix:
    """Position i is taken with probability sigmoid(score / temperature) if all to its left are."""

    temperature: float = 1.0

    def sample(self, scores: Tensor, selectable: Tensor, random: RowRandom) -> Tensor:
        yes = random.rand(scores[0].numel()).view(scores.shape) < (scores.double() / self.temperature).sigmoid()
        return self.mode(yes.float() - 0.5, selectable)

    def mode(self, scores: Tensor, selectable: Tensor) -> Tensor:
        return (((scores <= 0) & selectable).cumsum(-1) == 0) & selectable

    def log_prob(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        taken, left = draw > 0, selectable & (draw == 0)
        terms = logsigmoid(scores.where(taken, -scores) / self.temperature)
        possible = (taken == self.mode(taken.float() - 0.5, selectable)).all(-1)
        return terms.where(taken | (left & (left.cumsum(-1) == 1)), 0.0).sum(-1).where(possible, -inf)

    def entropy(self, scores: Tensor, selectable: Tensor, draw: Tensor) -> Tensor:
        yes, no = (logsigmoid(s / self.temperature).where(selectable, 0.0) for s in (scores, -scores))
        reached = (yes.cumsum(-1) - yes).exp()  # all to the left are taken
        return -(reached * (yes.exp() * yes + no.exp() * no)).sum(-1)

    def as_draw(self, unmask: Tensor, priority: Tensor) -> Tensor:
        return unmask

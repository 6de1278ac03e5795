"""The networks that give each position a score.

Two are one transformer block in DiT style. ``ConfidenceTransformer`` (arXiv 2512.09106) reads nothing but
confidence, mask and step, so one policy fits any denoiser and any response length. ``HiddenTransformer``
(arXiv 2505.10446) reads the denoiser's last hidden states, and so belongs to that denoiser. ``ReverseProcess`` has
what a score model says itself.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NewType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_env.denoisers.base import NO_EXTRAS, Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.numerics import constant, counted, distinct_rows, in_tiles, rotate, rotation_angles, rows_at_once
from dllm_env.reading import meant
from dllm_env.specs import check_types
from dllm_env.user_code import file_part, load_from_file, origin_of

WIDEST = 4096
"""The largest width; with it a policy has 270M parameters."""
ROTATION_BASE = 100.0
"""Base of RoPE, for waves of 6 to some 500 positions; with the usual 10,000 most are longer than a response."""


def _place(observation: Observation) -> Tensor:
    masked = observation.masked
    return _places(masked.shape[1], masked.device).expand(masked.shape)


@constant
def _places(width: int, device: torch.device) -> Tensor:
    return torch.arange(width, dtype=torch.int32, device=device) / width


def _left(observation: Observation) -> Tensor:
    return _nearness(observation.masked)


def _right(observation: Observation) -> Tensor:
    return _nearness(observation.masked.flip(-1)).flip(-1)


def _nearness(masked: Tensor) -> Tensor:
    """exp(−number of masks before a position)."""
    number = masked.float()
    return torch.exp(number - number.cumsum(-1))


def _doubt(observation: Observation) -> Tensor:
    """A fifth of Σ −log c over the masks before a position, at most 2: how likely one of them is wrong."""
    confidence = torch.where(observation.masked, observation.confidence[..., 0].float(), 1.0).clamp(min=1e-4)
    sure = confidence.log()
    return ((sure.cumsum(-1) - sure) / -5).clamp(0, 2)


def _ends(observation: Observation) -> Tensor:
    return _predicted(observation.ends) & observation.masked


def _repeats(observation: Observation) -> Tensor:
    """Whether a masked neighbour's predicted token is the same; of tokens written side by side it often is."""
    token, masked = _predicted(observation.token), observation.masked
    same = (token[:, 1:] == token[:, :-1]) & masked[:, 1:] & masked[:, :-1]
    return F.pad(same, (1, 0)) | F.pad(same, (0, 1))


def _predicted(value: Tensor | None) -> Tensor:
    if value is None:
        raise UsageError(
            "this policy reads predicted tokens; make the environment with extras=['token', 'ends'], or "
            "the policy without them (sight)"
        )
    return value


def _nines(observation: Observation) -> Tensor:
    """Half of −log₁₀(1 − c), which makes it of the size of other inputs: from 0 to 2."""
    wrong = (1 - observation.confidence[..., 0].float()).clamp(min=1e-4)
    return torch.where(observation.masked, wrong.log10() / -2, 0.0)


def _rewrite(observation: Observation) -> Tensor:
    if observation.rewrite is None:
        raise UsageError("this policy reads by what written tokens would be replaced, which is not shown here")
    return observation.rewrite


SIGHT: dict[str, Callable[[Observation], Tensor]] = {
    "place": _place,
    "left": _left,
    "right": _right,
    "nines": _nines,
    "doubt": _doubt,
    "ends": _ends,
    "repeats": _repeats,
    "rewrite": _rewrite,
}
"""What follows from mask, confidence and tokens, (B, W) float32 or bool, by name; see ``NetworkConfig``."""
USUAL_SIGHT = ("place", "left", "nines", "doubt", "ends", "repeats")
"""What policies are told unless their settings say otherwise."""
READ_TOKENS = frozenset({"ends", "repeats"})
"""Those that follow from predicted tokens."""
READ_CONFIDENCE = frozenset({"nines", "doubt"})
"""Those that follow from probabilities."""


def _preference(observation: Observation) -> Tensor:
    if observation.preference is None:
        raise UsageError("this policy reads what speed is worth; give it an alpha, for example runs/x:alpha=0.3")
    return observation.preference.clamp(min=1e-4).log10()[:, None]


def _remaining(observation: Observation) -> Tensor:
    left = observation.remaining
    if left is None:
        return torch.zeros(len(observation), 2, device=observation.masked.device)
    limited = left >= 0
    return torch.stack((limited.float(), torch.where(limited, (left.clamp(min=0) + 1).float().log2(), 0.0)), -1)


CONDITIONS: dict[str, tuple[int, Callable[[Observation], Tensor]]] = {
    "preference": (1, _preference),
    "remaining": (2, _remaining),
}
"""What a row's condition is made of, by name: how many numbers, and (B, numbers) float32 of an observation."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the policy network."""

    width: int = 128
    """Model width d; 128 gives about 0.3M parameters."""
    heads: int = 2
    """Attention heads; d / heads has to be even."""
    top: int = 1
    """p, how many of a position's largest probabilities are read."""
    bias: float = -2.0
    """Bias of the output, the score that all positions start with; sigmoid(−2) is about 12%."""
    sight: tuple[str, ...] = ()
    """What a position is told besides: place, where it stands, i / W; left, exp(−masks to its left); right,
    exp(−masks to its right); nines, −log₁₀(1 − c), which tells 99% from 99.9%; doubt, Σ −log c over the masks
    before it; ends, whether it would become end-of-text; repeats, whether a masked neighbour would become the
    same; rewrite, how probable another token is where one is written, which with allow_edit it may replace."""
    conditions: tuple[str, ...] = ()
    """What a row is told of what is asked of it: preference, α of its reward; remaining, its evaluations left."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.width > WIDEST or self.top > WIDEST or abs(self.bias) > WIDEST:
            raise UsageError(f"a policy's width, top and bias are at most {WIDEST:,} in size, got {self}")
        for name, known in (("sight", tuple(SIGHT)), ("conditions", tuple(CONDITIONS))):
            given = getattr(self, name)
            if len(set(given)) != len(given) or not set(given) <= set(known):
                raise UsageError(f"{name} is some of {', '.join(known)}, each once, got {', '.join(given)}")
        if self.width < 1 or self.heads < 1 or self.width % self.heads or self.width // self.heads % 2:
            raise UsageError(f"policy width {self.width} has to be an even multiple of its heads ({self.heads})")
        if self.top < 1:
            raise UsageError(f"top must be at least 1, got {self.top}")


@dataclass(frozen=True)
class HiddenConfig(NetworkConfig):
    """Shape of the network on hidden states."""

    hidden_size: int = 0
    """Width of the denoiser's hidden states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size < 1:
            raise UsageError(
                "network 'hidden' reads hidden states, which the observation lacks; "
                'make the environment with extras=["hidden"]'
            )


def sinusoidal(progress: Tensor, dimension: int) -> Tensor:
    """(B,) progress in [0, 1] to (B, dimension) sines and cosines with periods from about 0.006 to 63 responses.

    Progress is stretched to 0 … 1000 and the periods go from 2π to 20,000π, so that steps of a long response
    differ as clearly as those of a short one.
    """
    angle = 1000.0 * progress[:, None].float() * _frequencies(dimension // 2, progress.device)
    return torch.cat((angle.sin(), angle.cos()), -1)


@constant
def _frequencies(count: int, device: torch.device) -> Tensor:
    return 10_000 ** (-torch.arange(count, device=device) / count)


def seen_by(network: Scorer) -> Extras:
    """Optional features that a network and its ``sight`` read."""
    sight = set(network.config.sight)
    return network.extras | Extras(token=bool(READ_TOKENS & sight), rewrite="rewrite" in sight)


COMPARED = 2**13
"""Numbers of a row up to which rows are compared with each other."""


class SteadySiLU(nn.Module):
    """x · sigmoid(x), the same to the last bit wherever in a tensor a number stands.

    torch's own silu and sigmoid treat the numbers left over behind the last full vector in another way, and what is
    left over depends on the batch size and the number of threads. tanh does not have this.
    """

    def forward(self, x: Tensor) -> Tensor:
        half = 0.5 * x
        return half * (torch.tanh(half) + 1)


class Scorer(nn.Module, abc.ABC):
    """What gives each position a score, whatever it is made of: features of the positions, and scores of these.

    Args:
        config: shape.
    """

    source: str = ""
    """The text that names it, where it is from a file of the user's."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def extras(self) -> Extras:
        """Optional features of the observation that it reads, besides those of its ``sight``."""
        return NO_EXTRAS

    @property
    def reads_confidence(self) -> bool:
        """Whether probabilities are among what it reads."""
        return True

    @abc.abstractmethod
    def _features(self, observation: Observation) -> Tensor:
        """(B, W, d) of some rows."""

    @abc.abstractmethod
    def scores(self, features: Tensor) -> Tensor:
        """(B, W, d) features to (B, W) scores."""

    def features(self, observation: Observation) -> Tensor:
        """(B, W, d) features of the positions."""
        return self._by_rows(self._features, observation, "features")

    def forward(self, observation: Observation) -> Tensor:
        """(B, W) float32 scores."""
        return self._by_rows(lambda some: self.scores(self._features(some)), observation, "scores")

    def _by_rows(self, function: Callable[[Observation], Tensor], observation: Observation, what: str) -> Tensor:
        """A function of the observation; of rows that are equal one is looked at.

        Without gradient, on the processor, in tiles of rows.
        """
        several, masked = len(observation) > 1, observation.masked
        if several and (masked.device.type == "cpu" or torch.is_grad_enabled()):  # a rollout on a GPU does not wait
            known = observation.as_numbers()
            if known.shape[1] <= COMPARED:
                first, place = distinct_rows(known)
                if len(first) < len(known):
                    return self._in_tiles(function, observation[first], what)[place]
        return self._in_tiles(function, observation, what)

    def _in_tiles(self, function: Callable[[Observation], Tensor], observation: Observation, what: str) -> Tensor:
        masked = observation.masked
        if torch.is_grad_enabled() or masked.device.type != "cpu":
            return function(observation)
        count, width = masked.shape
        rows = rows_at_once(width, self.config.width)
        return in_tiles(lambda some: (function(observation[some]),), count, rows, self, (what, width))[0]


class PolicyNetwork(Scorer):
    """One AdaLN-modulated transformer block over positions; output one score per position.

    A position's condition is the sum of an embedding of its kind (masked or not, …) and an MLP of the row's
    progress. It gives scale, shift and gate of attention and feed-forward, zero-initialised, so that the block
    begins with plain normalisation and closed gates (the score then depends on the position's own input only).

    Subclasses say what goes in: ``embed`` and ``kind``, and which optional features that needs.

    Args:
        config: shape.
        generator: draws the weights.
    """

    kinds: int
    """How many kinds of positions there are."""

    def __init__(self, config: NetworkConfig, inputs: int, generator: torch.Generator) -> None:
        super().__init__(config)
        d = config.width
        self.input = nn.Linear(inputs + len(config.sight), d)
        self.kind_embedding = nn.Embedding(self.kinds, d)
        self.progress = nn.Sequential(nn.Linear(d, d), SteadySiLU(), nn.Linear(d, d))
        self.activation = SteadySiLU()
        self.modulation = nn.Linear(d, 6 * d)
        self.query_key_value = nn.Linear(d, 3 * d)
        self.attention_out = nn.Linear(d, d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.norm = nn.LayerNorm(d)
        self.score = nn.Linear(d, 1)
        asked = sum(CONDITIONS[name][0] for name in config.conditions)
        # After the others, whose weights a seed gives are then the same with and without.
        self.asked = nn.Sequential(nn.Linear(asked, d), SteadySiLU(), nn.Linear(d, d)) if asked else None
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                module.bias.zero_()
        # Without this bias the layer norm after it would cancel a single confidence altogether.
        self.input.bias.normal_(0.0, 1.0, generator=generator)
        self.kind_embedding.weight.normal_(0.0, 1.0, generator=generator)
        # Constant parts of query and key, which RoPE turns into attention by distance: near and far, left and right
        # differ from the first update on. Without them some seeds take long to find out that order matters.
        self.query_key_value.bias[: 2 * self.config.width].normal_(0.0, 0.5, generator=generator)
        self.modulation.weight.zero_()
        self.score.weight.mul_(0.1)
        self.score.bias.fill_(self.config.bias)

    @abc.abstractmethod
    def embed(self, observation: Observation) -> Tensor:
        """(B, W, inputs) what a position's input is made of."""

    @abc.abstractmethod
    def kind(self, observation: Observation) -> Tensor:
        """(B, W) int64, below ``kinds``."""

    def _features(self, observation: Observation) -> Tensor:
        config, (batch, width) = self.config, observation.masked.shape
        seen = [self.embed(observation), *(SIGHT[name](observation)[..., None] for name in config.sight)]
        x = self.input(torch.cat(seen, -1) if config.sight else seen[0])
        progress = self.progress(sinusoidal(observation.progress, config.width))
        if self.asked is not None:
            wanted = [CONDITIONS[name][1](observation) for name in config.conditions]
            progress = progress + self.asked(torch.cat(wanted, -1) if len(wanted) > 1 else wanted[0])
        # A row has few conditions, one for each kind of position.
        conditions = self.activation(self.kind_embedding.weight + progress[:, None]).flatten(0, 1)
        modulation = self.modulation(conditions).view(batch, self.kinds, -1)
        # Each position its kind's. The other kinds' zeros make the product exact, and its gradient is cheap.
        kind = (self.kind(observation)[..., None] == counted(self.kinds, x.device)).float()
        modulation = kind @ modulation
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = modulation.chunk(6, -1)

        h = F.layer_norm(x, (config.width,)) * (1 + scale_1) + shift_1
        qkv = self.query_key_value(h).view(batch, width, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
        rotation = rotation_angles(width, config.width // config.heads, x.device, ROTATION_BASE)
        query, key = rotate(qkv[:2], rotation)
        mixed = F.scaled_dot_product_attention(query, key, qkv[2])
        x = x + gate_1 * self.attention_out(mixed.transpose(1, 2).reshape(batch, width, config.width))
        h = F.layer_norm(x, (config.width,)) * (1 + scale_2) + shift_2
        x = x + gate_2 * self.feed_forward(h)
        return self.norm(x)

    def scores(self, features: Tensor) -> Tensor:
        """(B, W, d) features to (B, W) scores."""
        # A product with one column is the one whose rows always depend on their number; a sum's never do.
        return (features * self.score.weight[0]).sum(-1) + self.score.bias


class ConfidenceTransformer(PolicyNetwork):
    """Reads the largest probabilities of masked positions, and which positions are masked.

    Args:
        config: shape.
        generator: draws the weights.
    """

    kinds = 2

    def __init__(self, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__(config, config.top, generator)

    def embed(self, observation: Observation) -> Tensor:
        return observation.confidence

    def kind(self, observation: Observation) -> Tensor:
        return observation.masked.long()


class HiddenTransformer(PolicyNetwork):
    """Reads the denoiser's last hidden states of masked positions.

    A position is unmasked, masked in a later block, or masked in the active block: the mask and block embeddings of
    arXiv 2505.10446 as one.

    Args:
        config: shape, with the width of the hidden states.
        generator: draws the weights.
    """

    kinds = 3

    def __init__(self, config: HiddenConfig, generator: torch.Generator) -> None:
        super().__init__(config, config.hidden_size, generator)

    @property
    def extras(self) -> Extras:
        return Extras(hidden=True)

    @property
    def reads_confidence(self) -> bool:
        return bool(READ_CONFIDENCE & set(self.config.sight))

    def embed(self, observation: Observation) -> Tensor:
        if observation.hidden is None:
            raise UsageError("this policy reads hidden states; make the environment with extras=['hidden']")
        hidden = observation.hidden.float()  # recorded in the denoiser's own precision
        return F.layer_norm(hidden, hidden.shape[-1:])

    def kind(self, observation: Observation) -> Tensor:
        return observation.masked.long() + observation.selectable.long()


class ReverseProcess(Scorer):
    """The reverse process of diffusion, whose probabilities a score model tells by itself (rule ``ancestral``).

    Of n masked positions of the active block each is revealed with probability rate · M^sharpness · W/n, at most 1;
    M is e^``log_mass``. Two numbers learn, the rate, which begins with sigmoid(bias), and the sharpness, which
    begins with 1; where a score model learns with it, M does, and with M which positions come first. With a head
    ``bernoulli`` and tokens drawn at temperature 1 a step is then one of SEDD's reverse process, with the product
    of the transition probabilities of all positions as its probability (DCoLT, arXiv 2505.10446).

    Args:
        config: of which the bias counts.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        if config.sight or config.conditions:
            raise UsageError(f"network 'reverse' reads none of {' '.join((*config.sight, *config.conditions))}")
        self.log_rate = nn.Parameter(F.logsigmoid(torch.tensor(config.bias)))
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    @property
    def extras(self) -> Extras:
        return Extras(log_mass=True)

    @property
    def reads_confidence(self) -> bool:
        return False

    def _features(self, observation: Observation) -> Tensor:
        """(B, W, 1): the scores, log-odds of a position to be revealed."""
        mass, selectable = observation.log_mass, observation.selectable
        if mass is None:
            raise UsageError("network 'reverse' reads the denoiser's scores, which environments do not show")
        left = selectable.sum(-1, keepdim=True).clamp(min=1) / selectable.shape[1]
        log = (self.log_rate + self.sharpness * mass - left.log()).clamp(max=SURE)
        return (log - torch.log(-torch.expm1(log)))[..., None]

    def scores(self, features: Tensor) -> Tensor:
        return features[..., 0]


SURE = -1e-6
"""The largest log-probability of a position to be revealed: log-odds stay finite."""
NETWORKS: dict[str, type[Scorer]] = {
    "confidence": ConfidenceTransformer,
    "hidden": HiddenTransformer,
    "reverse": ReverseProcess,
}
"""Networks by name."""


if TYPE_CHECKING:
    NetworkLike = str | Scorer
else:
    NetworkLike = NewType("NetworkLike", str)  # what a command line can say; an object is for Python
"""A network, or the text that names one."""


def make_network(
    name: NetworkLike, config: NetworkConfig, generator: torch.Generator, hidden_size: int = 0
) -> Scorer:
    """A network of ``NETWORKS``, or a class in a file: it is made of config and generator, and its own settings.

    Args:
        name: which: ``confidence``, ``hidden``, ``reverse``, ``my.py:MyNetwork`` or
            ``'my.py:MyNetwork(layers=2)'``; or a network, which is copied with its weights, whatever the config
            says.
        config: shape.
        generator: draws the weights.
        hidden_size: width of the denoiser's hidden states, for a network that reads them.

    Raises:
        UsageError: no such network, or no hidden states for one that reads them.
    """
    if not isinstance(name, str):
        return copy.deepcopy(name)
    if name == "confidence":
        return ConfidenceTransformer(config, generator)
    if name == "reverse":
        return ReverseProcess(config)
    if name == "hidden":
        return HiddenTransformer(HiddenConfig(**{**asdict(config), "hidden_size": hidden_size}), generator)
    if (place := file_part(name)) is None:
        known = ", ".join(NETWORKS)
        near = meant(name, NETWORKS)
        raise UsageError(
            f"unknown network {name!r}{near}; choose one of {known}, or a class in a file: my.py:MyNetwork"
        )
    network = load_from_file(place, "network", ("forward", "features", "scores"), (config, generator)).value
    network.source = name
    return network


def network_name(network: Scorer) -> str:
    """The text that ``make_network`` makes such a network of."""
    known = {kind: name for name, kind in NETWORKS.items()}
    return known.get(type(network)) or network.source or origin_of(network)

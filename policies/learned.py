"""A learned policy: network and head together, saved as safetensors and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from safetensors.torch import save
from torch import nn

from dllm_env import consent, hub
from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.load import DENOISER, copy_denoiser, holds_denoiser
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.files import UNFINISHED, write_together
from dllm_env.numerics import digest
from dllm_env.policies.ahead import Ahead
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.graphs import Graphs, records
from dllm_env.policies.heads import HEADS, Head, describe_head, load_head, log_prob_and_entropy, restore_head
from dllm_env.policies.networks import NETWORKS, NetworkConfig, Scorer, make_network, network_name, seen_by
from dllm_env.policies.public import base_names
from dllm_env.policies.references import REFERENCES, reference_kind
from dllm_env.policies.registry import HEURISTICS, load_file_rule, load_heuristic
from dllm_env.random import RowRandom, torch_generator
from dllm_env.reading import as_table, check_fields, check_value, exists, is_file, meant, read_table, reason
from dllm_env.reading import shown as in_short
from dllm_env.rules import Context
from dllm_env.specs import Settings, read_settings, split, typed
from dllm_env.user_code import file_part, parameters
from dllm_env.weights import DIGESTS, check_weights, digest_of_bytes, fits, not_fitting, read_safetensors

WEIGHTS, CONFIG, CARD = "policy.safetensors", "policy.json", "README.md"
VALUE = "value.safetensors"
"""The critic of a policy that PPO trained."""
UPLOADED = (CARD, CONFIG, WEIGHTS)
LINE = 5
"""At how many α a policy for all of them is compared, where none is asked for."""


@dataclass(frozen=True)
class CurvePoint:
    """What a policy does at an alpha.

    Attributes:
        alpha: how much speed counts.
        accuracy: mean score.
        nfe: mean denoiser evaluations.
    """

    alpha: float
    accuracy: float
    nfe: float


def alpha_for(curve: Sequence[CurvePoint], nfe: float) -> float:
    """The alpha at which a policy takes so many evaluations: linear in log alpha between measured points.

    Args:
        curve: measured points with alphas above 0.
        nfe: mean denoiser evaluations wanted.

    Raises:
        UsageError: more or fewer than at any alpha that was measured.
    """
    points = sorted(curve, key=lambda point: point.alpha)
    if not points:
        raise UsageError("this policy has no measured curve to choose an alpha by; give alpha itself")
    # Measured, a larger alpha may be slower by chance: what a curve that only falls would have.
    falling = np.minimum.accumulate([point.nfe for point in points])
    slowest, fastest = falling[0], falling[-1]
    if not fastest <= nfe <= slowest:
        raise UsageError(f"this policy takes {fastest:.2f} to {slowest:.2f} evaluations, not {nfe:g}")
    logs = [math.log(point.alpha) for point in points]
    return float(np.exp(np.interp(-nfe, -falling, logs)))


class LearnedPolicy(ModelHubMixin):
    """Scores positions with a network and draws sets with a head; ``push_to_hub`` comes from huggingface_hub.

    Args:
        network: (B, W) scores from an observation.
        head: owns sample, mode, log-probability and entropy.
        context: what the network was trained to see.
        name: how results call it.
        greedy: take the head's mode instead of a sample.
        training: settings it was trained with, kept in its file.
        alpha: how much speed counts for it, where its network reads that; None leaves it to the observation, and
            where that says nothing it is the middle one of the curve.
        deadline: denoiser evaluations that a row may take; 0 for no limit.
        curve: what it did on the validation problems at some alphas; ``with_settings`` chooses by it.
        denoiser: folder of the denoiser that was trained with it, which is saved and uploaded beside it; None for
            none.
        critic: what a state is worth, (B, 1), by the mean (B, d) of the network's features; None for none.
        ahead: whether it tries steps before it takes one, which needs the critic; see ``ahead``.
    """

    def __init__(
        self,
        network: Scorer,
        head: Head,
        context: Context = "full",
        name: str = "learned",
        greedy: bool = False,
        training: Mapping[str, Any] | None = None,
        alpha: float | None = None,
        deadline: int = 0,
        curve: Sequence[CurvePoint] = (),
        denoiser: Path | None = None,
        critic: nn.Linear | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        if ahead is not None and critic is None:
            raise UsageError(f"{name} has no critic, so that it cannot look ahead; PPO trains one")
        if alpha is not None and not 0 <= alpha < math.inf:
            raise UsageError(f"alpha must be a finite number of at least 0, got {alpha}")
        if deadline < 0:
            raise UsageError(f"deadline must be at least 1 evaluation, or 0 for no limit, got {deadline}")
        self.alpha, self.deadline, self.curve, self.denoiser = alpha, deadline, tuple(curve), denoiser
        self.critic, self.ahead = critic, ahead
        self.network = network
        self.head = head
        self.context: Context = context
        self.name = name
        self.greedy = greedy
        self.training = dict(training or {})
        self._public, self._graphs = False, Graphs()

    @property
    def top(self) -> int:
        """p, how many of the largest probabilities the network reads."""
        return self.network.config.top

    @property
    def extras(self) -> Extras:
        """Optional features that the network reads."""
        return seen_by(self.network)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; the head says with which log-probability and entropy when they are asked for.

        Raises:
            UsageError: it looks ahead, for which it needs the denoiser and not just an observation.
        """
        if self.ahead is not None:
            raise UsageError(f"{self.name} looks ahead: it plays in dllm-env only; leave its candidates away")
        return self.propose(observation, random)

    def values(self, observation: Observation) -> torch.Tensor:
        """(B,) float32, the reward that the critic expects."""
        assert self.critic is not None
        with torch.no_grad():
            return self.critic(self.network.features(self._asked(observation)).mean(1))[:, 0]

    def _asked(self, observation: Observation) -> Observation:
        """With α in it."""
        alpha = self.alpha
        if alpha is None and observation.preference is None and self.is_open:
            alpha = self.curve[len(self.curve) // 2].alpha if self.curve else None
        if alpha is None:
            return observation
        return replace(observation, preference=torch.full_like(observation.progress, alpha))

    def propose(self, observation: Observation, random: RowRandom) -> Decision:
        """What it would do without looking ahead."""
        observation = self._asked(observation)
        with torch.no_grad():
            scores, draw = self._draw(observation, random)
        unmask, edit = _parted(observation, draw > 0)
        if self.greedy:
            return Decision(unmask, edit=edit)
        return Decision(unmask, draw, edit=edit, score=lambda: self._score_drawn(scores, observation, draw))

    def _draw(self, observation: Observation, random: RowRandom) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, W) scores and the draw; on a GPU by a graph, where nothing in it is the user's own."""
        names, seen = observation.columns()
        if not self._is_recorded(seen):
            return self._drawn(observation, random)

        def drawn(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            *columns, keys, counters = given
            streams = RowRandom(keys, counters)
            scores, draw = self._drawn(Observation.of_columns(names, columns), streams)
            return scores, draw, streams.counters

        key, weights = ("draw", self.head, self.greedy, tuple(names)), self.network.parameters()
        scores, draw, random.counters = self._graphs(key, weights, drawn, [*seen, random.keys, random.counters])
        return scores, draw

    def _drawn(self, observation: Observation, random: RowRandom) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.network(observation)
        if self.greedy:
            return scores, self.head.mode(scores, observation.actionable)
        return scores, self.head.sample(scores, observation.actionable, random)

    def _is_recorded(self, seen: Sequence[torch.Tensor]) -> bool:
        """Whether a GPU records what these are looked at by."""
        known = type(self.network) in NETWORKS.values() and type(self.head) in HEADS.values()
        return known and records(seen)

    def evaluate(self, observation: Observation, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability and entropy, (B,) each, of given draws (B, W) of the head, with gradient."""
        return self._score(self.network(observation), observation, draw)

    def _score_drawn(
        self, scores: torch.Tensor, observation: Observation, draw: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``_score`` of what was drawn, without gradient."""
        given = [scores, observation.actionable, draw]
        if not self._is_recorded(given):
            return self._score(scores, observation, draw)

        def score(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            return log_prob_and_entropy(self.head, *given)

        log_prob, entropy = self._graphs(("score", self.head), (), score, given)
        return log_prob, entropy

    def _score(
        self, scores: torch.Tensor, observation: Observation, draw: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        possible = observation.actionable
        return log_prob_and_entropy(self.head, scores, possible, draw)

    def fingerprint(self) -> str:
        """A digest of what its decisions follow from, so that results of different weights are told apart."""
        about = [network_name(self.network), self.network.config, self.head, self.context, self.greedy]
        asked = [(name, getattr(self, name)) for name in ("alpha", "deadline", "ahead") if getattr(self, name)]
        critic = self.critic.state_dict() if self.critic is not None and self.ahead else {}
        state = {**self.network.state_dict(), **{f"critic.{name}": value for name, value in critic.items()}}
        return digest(state, repr((*about, *asked)))

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        config: object = None,
        **pushing: Any,
    ) -> Path:
        """Writes ``policy.safetensors``, ``policy.json`` and the model card.

        Args:
            save_directory: where to.
            repo_id: name on the Hub; by default the folder's.
            push_to_hub: upload it, too.
            model_card_kwargs: arguments of ``policies.model_card.model_card``: ``name``, ``results``.
            config: not used; the Hub's way to call this has it.
            pushing: arguments of ``push_to_hub``.

        Returns:
            The folder.
        """
        for part in (self.head, self.network):
            consent.passed(part)  # which the caller has at hand, whatever file it stands in
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": 1,
            "network": {"kind": network_name(self.network), **asdict(self.network.config)},
            "head": describe_head(self.head),
            "context": self.context,
            "alpha": self.alpha,
            "deadline": self.deadline,
            "curve": [asdict(point) for point in self.curve],
            "training": self.training,
        }
        about = base_names(about) if self._public else about
        files = {WEIGHTS: save(_on_processor(self.network))}
        if self.critic is not None:
            files[VALUE] = save(_on_processor(self.critic))
        card = self.generate_model_card(**dict(model_card_kwargs or {}))
        about[DIGESTS] = {name: digest_of_bytes(data) for name, data in files.items()}
        text = json.dumps(about, indent=1) + "\n"
        # The weights go to their place first; see ``_read_config``.
        if self.denoiser is not None and self.denoiser != folder / DENOISER:
            copy_denoiser(self.denoiser, folder / DENOISER, base_names if self._public else None)
        write_together(folder, {**files, CONFIG: text.encode(), CARD: str(card).encode()})
        if self.critic is None:
            (folder / VALUE).unlink(missing_ok=True)  # of another policy that was here
        if push_to_hub:
            self.push_to_hub(repo_id or folder.name, model_card_kwargs=dict(model_card_kwargs or {}), **pushing)
        return folder

    def published(self) -> LearnedPolicy:
        """The same policy, whose files name no place on this machine: what ``push_to_hub`` uploads."""
        public = self._changed(name=base_names(self.name), training=base_names(self.training))
        public._public = True
        return public

    def push_to_hub(self, repo_id: str, **pushing: Any) -> str:
        """Uploads the policy, see ``published``; the arguments are those of ``ModelHubMixin.push_to_hub``."""
        return str(super(LearnedPolicy, self.published()).push_to_hub(repo_id, **pushing))

    def generate_model_card(self, *_: Any, **about: Any) -> ModelCard:
        """What ``README.md`` says; see ``policies.model_card.model_card``."""
        from dllm_env.policies.model_card import PolicyFacts, model_card

        weights = sum(value.numel() for value in self.network.state_dict().values())
        network, head = network_name(self.network), str(describe_head(self.head)["kind"])
        facts = PolicyFacts(self.name, network, head, self.context, self.top, weights, self.training)
        return model_card(facts, about.get("name", ""), about.get("results", ()))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        name: str | None = None,
        head: str | Head | None = None,
        network: str | None = None,
    ) -> LearnedPolicy:
        """Reads what ``save_pretrained`` wrote, from a folder, a run's folder (its best checkpoint), or the Hub.

        Args:
            folder: where.
            device: where to.
            name: how results call it; by default the folder.
            head: instead of the one that was saved, for one whose file is elsewhere now.
            network: the class of the network, for one whose file is elsewhere now.

        Raises:
            UsageError: nothing there, or files that are damaged or do not fit.
        """
        found = _find(str(folder))
        try:
            config = _read_config(found)
            consent.check_read(
                [None if network else config["network"], None if head else config["head"]], found / CONFIG
            )
            network_about = config["network"].items()
            shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in network_about}
            kind, hidden_size = shape.pop("kind"), shape.pop("hidden_size", 0)
            made = make_network(network or kind, NetworkConfig(**shape), torch_generator(0), hidden_size)
            state, _ = read_safetensors(found / WEIGHTS)
            check_weights(state, made.state_dict(), WEIGHTS)
            made.load_state_dict(state)
            chosen = restore_head(config["head"]) if head is None else load_head(head)
            shown = name or str(folder)
            return cls(
                made.to(device).eval(),
                chosen,
                config["context"],
                shown,
                training=config["training"],
                alpha=config.get("alpha"),
                deadline=config.get("deadline", 0),
                curve=[CurvePoint(**point) for point in config.get("curve", ())],
                denoiser=found / DENOISER if holds_denoiser(found / DENOISER) else None,
                critic=_read_critic(found, made.config.width, device) if VALUE in config.get(DIGESTS, {}) else None,
            )
        except (RuntimeError, UsageError) as error:
            raise UsageError(f"cannot load the policy in {found}: {reason(error)}") from None

    def at(self, alpha: float) -> LearnedPolicy:
        """The same policy at an α."""
        return self._changed(alpha=alpha)

    @property
    def is_open(self) -> bool:
        """Whether it reads how much speed counts, and has not been told."""
        return "preference" in self.network.config.conditions and self.alpha is None

    def line(self) -> list[LearnedPolicy]:
        """What stands for the policy in a comparison: itself, or if it is open, it at some α from all of its curve.

        Raises:
            UsageError: it is open and has no curve.
        """
        if not self.is_open:
            return [self]
        if not self.curve:
            raise UsageError(f"{self.name} was trained for a range of alpha; give one, as in {self.name}:alpha=0.3")
        mark = "," if split(self.name)[1] else ":"
        points = self.curve[:: max(1, (len(self.curve) - 1) // (LINE - 1))]
        asked = [f"{point.alpha:.3g}" for point in points]
        return [self.with_settings(f"{self.name}{mark}alpha={alpha}", {"alpha": alpha}) for alpha in asked]

    def _changed(self, **values: Any) -> LearnedPolicy:
        """The same network with other attributes."""
        given = {"name": self.name, "greedy": self.greedy, "training": self.training, "alpha": self.alpha}
        given |= {"deadline": self.deadline, "curve": self.curve, "head": self.head, "context": self.context}
        given |= {"denoiser": self.denoiser, "critic": self.critic, "ahead": self.ahead}
        return LearnedPolicy(self.network, **{**given, **values})

    def with_settings(self, name: str, settings: Settings) -> LearnedPolicy:
        """The same network, acting otherwise.

        Args:
            name: how results call it.
            settings: as ``specs.read_settings`` reads them: those of its head, like ``temperature``; ``greedy``;
                ``alpha``, how much speed counts, or ``nfe``, the mean evaluations that alpha is chosen for by what
                the policy did on the validation problems; ``deadline``, the most that a row may take;
                ``candidates`` and ``h`` of looking ahead. One without a name is the head's temperature.

        Raises:
            UsageError: another setting, a value of another kind, or an alpha for a policy that reads none.
        """
        kinds = {"temperature": float, **parameters(type(self.head)), "greedy": bool}
        kinds |= {"alpha": float, "nfe": float, "deadline": int, "candidates": int, "h": float}
        values = typed(settings, kinds, "a learned policy")
        looking = {part: values.pop(part) for part in ("candidates", "h") if part in values}
        ahead = Ahead(**looking) if looking else self.ahead
        greedy, deadline = values.pop("greedy", self.greedy), values.pop("deadline", self.deadline)
        alpha = self._alpha(name, values.pop("alpha", None), values.pop("nfe", None))
        try:
            head = replace(self.head, **values) if values else self.head  # type: ignore[type-var]
        except TypeError:
            raise UsageError(f"the head of {self.name} has no settings to change") from None
        changes = {"greedy": greedy, "alpha": alpha, "deadline": deadline, "ahead": ahead}
        return self._changed(head=head, name=name, **changes)

    def _alpha(self, name: str, alpha: float | None, nfe: float | None) -> float | None:
        if alpha is None and nfe is None:
            return self.alpha
        if "preference" not in self.network.config.conditions:
            raise UsageError(f"{name}: this policy was trained for one alpha; train one with --preferences")
        if alpha is not None and nfe is not None:
            raise UsageError(f"{name}: give alpha or nfe, not both")
        return alpha if nfe is None else alpha_for(self.curve, nfe)


def _parted(observation: Observation, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of what is chosen, (B, W) bool, what is to be revealed and what replaced, as there is a mask or not."""
    if observation.editable is None:
        return chosen, None
    return chosen & observation.selectable, chosen & observation.editable


def _on_processor(part: nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are saved."""
    return {name: value.detach().cpu().contiguous() for name, value in part.state_dict().items()}


def _read_critic(folder: Path, width: int, device: str | torch.device) -> nn.Linear:
    critic = nn.Linear(width, 1)
    state, _ = read_safetensors(folder / VALUE)
    check_weights(state, critic.state_dict(), VALUE)
    critic.load_state_dict(state)
    return critic.to(device)


def _read_config(folder: Path) -> dict[str, Any]:
    """What ``policy.json`` says, checked.

    ``save_pretrained`` puts the weights into their place before it. A kill between the two leaves the one that
    belongs to the weights under its unfinished name.

    Raises:
        UsageError: it is damaged, lacks something, or the weights are not those that it was written with.
    """
    config = _checked(read_table(folder / CONFIG))
    if fits(folder, config):
        return config
    unfinished = folder / (CONFIG + UNFINISHED)
    if is_file(unfinished):
        newer = _checked(read_table(unfinished))
        if newer.get(DIGESTS) and fits(folder, newer):
            return newer
    raise not_fitting(folder, CONFIG, WEIGHTS)


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    """The same, if it has everything, each of its type."""
    for name, kind in (("network", dict), ("head", dict), ("training", dict), ("context", str)):
        if name not in config:
            raise UsageError(f"{CONFIG}: the field {name!r} is missing")
        if not isinstance(config[name], kind):
            wanted = "a text" if kind is str else "a table of names and values"
            raise UsageError(f"{CONFIG}: {name} has to be {wanted}, got {in_short(config[name])}")
    if config.get("format", 1) != 1:
        raise UsageError(f"{CONFIG}: its format is {in_short(config['format'])}, of a newer version; this reads 1")
    if config["context"] not in ("full", "block"):
        raise UsageError(f"{CONFIG}: its context is {in_short(config['context'])}, not full or block")
    for part in ("network", "head"):
        if not isinstance(config[part].get("kind"), str):
            raise UsageError(f"{CONFIG}: {part} names no kind")
    check_value(config.get("alpha"), float | None, f"{CONFIG}: alpha")
    check_value(config.get("deadline", 0), int, f"{CONFIG}: deadline")
    check_value(config.get("curve", []), list, f"{CONFIG}: curve")
    for point in config.get("curve", []):
        check_fields(CurvePoint, as_table(point, f"{CONFIG}: curve"), f"{CONFIG}: curve")
    shape = {name: value for name, value in config["network"].items() if name not in ("kind", "hidden_size")}
    check_fields(NetworkConfig, shape, f"{CONFIG}: network")
    check_value(config["network"].get("hidden_size", 0), int, f"{CONFIG}: network: hidden_size")
    return config


def _find(name: str) -> Path:
    """The folder that holds the policy's files, downloaded where it is a Hub name."""
    for folder in (Path(name), Path(name) / "best", Path(name) / "last"):
        if exists(folder / CONFIG) and is_file(folder / CONFIG) and is_file(folder / WEIGHTS):
            return folder
    if name.count("/") != 1 or exists(Path(name).parent):  # a Hub name is owner/name; this is a place on the disk
        near = meant(name.partition(":")[0], (*HEURISTICS, *REFERENCES))
        raise UsageError(
            f"no policy {name!r}{near}: neither a heuristic ({', '.join(HEURISTICS)}), nor a class in a file "
            f"(my_rules.py:MyRule), nor a folder with {CONFIG} and {WEIGHTS}"
        )
    return _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    why = hub.silence()
    try:
        with hub.looked_up():
            return Path(snapshot_download(name, allow_patterns=[WEIGHTS, VALUE, CONFIG, f"{DENOISER}/*"]))
    except Exception as error:
        reason = why or f"the Hub answers: {(str(error) or repr(error)).splitlines()[0]}"
        raise UsageError(f"no folder {name!r}, and {reason}") from None


def load_policy(text: str | Policy, device: str | torch.device = "cpu") -> Policy:
    """A policy by text: ``threshold:0.9``, ``my_rules.py:MyRule(k=2)``, or folder or Hub name of a learned one.

    A learned policy takes settings behind a colon, ``runs/x:temperature=0.5,force_progress=true``: those of its
    head, ``greedy``, and ``head`` and ``network``, which name classes in files that are elsewhere now.

    Raises:
        UsageError: no such policy, or wrong settings.

    Examples:
        >>> load_policy("threshold:0.7,fallback=leftmost").name
        'threshold:threshold=0.7,fallback=leftmost'
    """
    if not isinstance(text, str):
        return text
    if (place := file_part(text)) is not None:
        return load_file_rule(place)
    if kind := reference_kind(text):
        what = "knows what to write" if kind == "oracle" else "asks whether responses are right"
        raise UsageError(f"{text} is a reference that {what}; it plays in dllm-env eval only")
    name, written = split(text, HEURISTICS)
    if name in HEURISTICS:
        return load_heuristic(text)
    settings = read_settings(written)
    parts = {part: settings.pop(part) for part in ("head", "network") if part in settings}
    policy = LearnedPolicy.from_pretrained(name, device, name=text, **parts)
    return policy.with_settings(text, settings) if settings else policy

"""DCoLT (arXiv 2505.10446): the outcome teaches the unmasking policy and the denoiser together.

An update draws trajectories as GRPO does, with tokens that are sampled. A step's probability is that of its set and
of its tokens (``joint``), and its clipped ratio moves both: the policy network, and the denoiser's weights or an
adapter of them. With a frozen denoiser this is GRPO.

Reads from top to bottom: settings, one update, the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from dllm_env.denoisers.adapters import save_adapter
from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.load import DENOISER
from dllm_env.errors import UsageError
from dllm_env.policies.heads import PlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import READ_TOKENS
from dllm_env.policies.rollout import Recording
from dllm_env.train import grpo
from dllm_env.train.batches import Batch
from dllm_env.train.callbacks import Callbacks, Learner
from dllm_env.train.config import ImitationConfig, PolicyConfig, RewardConfig, learning_rate
from dllm_env.train.grpo import GRPO, Algorithm, Collected
from dllm_env.train.joint import States, as_drawn, evaluate, nothing
from dllm_env.train.joint_learner import JointConfig, JointLearner, checkpointed
from dllm_env.train.losses import ClippedLoss, approximate_kl, clipped_loss, finite_step
from dllm_env.train.setup import Setup
from dllm_env.train.validation import Validator
from dllm_env.world import ALONE, World


@dataclass(frozen=True)
class DCoLT(GRPO):
    """Settings of ``dllm-env train dcolt``; the defaults suit the bundled denoiser."""

    temperature: float = 1.0
    """Of the tokens while trajectories are drawn; validation takes the most probable ones."""
    num_generations: int = 16
    """G, trajectories per prompt."""
    deviation_floor: float = 1e-4
    """Added to the standard deviation that divides advantages, as a share of the group's largest reward."""
    unbiased_deviation: bool = True
    """The standard deviation is that of a sample of G, divided by G − 1 instead of G."""
    target_kl: float = 0.0
    """For a frozen denoiser only: largest KL divergence of an update, in nats a step; 0 for no limit."""
    ema_decay: float = 0.0
    """For a frozen denoiser only: decay of the running average of the policy's weights; 0 takes the weights."""
    microbatch_size: int = 32
    """Steps whose activations exist at a time."""
    rewards: RewardConfig = field(default_factory=lambda: RewardConfig(alpha=0.0))
    policy: PolicyConfig = field(
        default_factory=lambda: PolicyConfig(head="plackett_luce:k=4", network="hidden", width=128, sight=())
    )
    imitation: ImitationConfig = field(default_factory=lambda: ImitationConfig(start="none"))
    joint: JointConfig = field(default_factory=JointConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.joint.train_denoiser == "none":
            return
        frozen = "with a denoiser that learns, too; set it to 0, or train the policy alone: --train-denoiser none"
        for name in ("target_kl", "ema_decay", "experts"):
            if getattr(self, name):
                raise UsageError(f"{name} does not work {frozen}")
        if self.temperature == 0:
            raise UsageError(
                "tokens have to be drawn for their probabilities to be learned: set temperature above 0"
            )
        if self.rewards.deadlines:
            raise UsageError("deadlines write tokens that the policy did not choose; train without them")
        if self.allow_edit:
            raise UsageError("the probability of a replaced token is not learned; train without allow_edit")
        if self.rewards.preferences:
            raise UsageError("a denoiser learns for one alpha; train without preferences")
        if self.context != "full" or self.prefix_cache:
            raise UsageError("a denoiser is trained on whole responses: context full, without prefix_cache")


def check(setup: Setup, settings: DCoLT) -> None:
    """Before any work.

    Raises:
        UsageError: a head or network that does not fit, or a denoiser that cannot be saved.
    """
    head, length = setup.policy.head, setup.rules.response_length
    if isinstance(head, PlackettLuce) and setup.rules.block_length % head.k:
        raise UsageError(
            f"plackett_luce:k={head.k} does not divide blocks of {setup.rules.block_length} of {length} tokens"
        )
    if settings.joint.train_denoiser == "none":
        return
    if settings.joint.train_denoiser == "full":
        setup.denoiser.check_saves()
    network = setup.policy.network
    if read := READ_TOKENS & set(network.config.sight):
        raise UsageError(
            f"sight {' '.join(sorted(read))} reads the tokens drawn, which are part of what learns; leave it away"
        )
    known = Extras(hidden=True, log_mass=True)
    if (network.extras | known) != known:
        raise UsageError(
            "a network that reads more than probabilities and hidden states trains with a frozen denoiser"
        )


def make_learner(setup: Setup, settings: DCoLT) -> Learner:
    """Fresh weights of the policy, and of an adapter of the denoiser if that is what learns."""
    check(setup, settings)
    plain = grpo.make_learner(setup, settings)
    if settings.joint.train_denoiser == "none":
        return plain
    return JointLearner(plain, setup, settings.joint, settings.optimizer.betas, settings.seed)


# ------------------------------------------------------------------------------------------ one update


@dataclass
class JointBatch(Batch):
    """Steps, with (M,) log-probability of their tokens under the denoiser at the start (0 where nobody asks)."""

    reference: Tensor


def collect(setup: Setup, settings: DCoLT, update: int, log: Logger) -> Collected:
    """As GRPO; what is kept of a step is the probability of its tokens, and no hidden state."""
    policy = setup.policy
    extras = Extras(token_log_prob=True)
    return grpo.collect(setup, settings, update, log, Recording(policy.top, extras))


def make_batch(setup: Setup, learner: JointLearner, settings: DCoLT, drawn: Collected) -> tuple[States, JointBatch]:
    """The steps to learn from, and the states that they were taken in."""
    prompts = [setup.denoiser.encode(problem.prompt) for problem in drawn.problems]
    templates = [problem.template for problem in drawn.problems]
    states = States.of(setup.denoiser, prompts, drawn.attempt.rollout, templates)
    plain = grpo.make_batch(setup, settings, drawn, own=True)
    plain.old_log_prob = plain.old_log_prob + as_drawn(plain)
    values = {column.name: getattr(plain, column.name) for column in fields(Batch)}
    reference = torch.zeros_like(plain.weight)
    if learner.reference is not None:
        with torch.no_grad(), learner.referring():
            pieces = plain.pieces(settings.microbatch_size)
            found = [
                evaluate(learner.reference, setup.policy, states, piece, settings.temperature).of_tokens
                for piece in pieces
            ]
        reference = torch.cat([reference[:0], *found])
    return states, JointBatch(**values, reference=reference)


def loss_of(learner: JointLearner, states: States, batch: JointBatch, settings: DCoLT) -> ClippedLoss:
    """The clipped loss of these steps under policy and denoiser as they are now, and the divergence's share."""
    now = learner(lambda: evaluate(learner.denoiser, learner.policy, states, batch, settings.temperature))
    found = clipped_loss(now.total, batch.old_log_prob, batch.advantage, batch.weight, settings.clip_range)
    if settings.joint.kl_weight:
        away = batch.reference - now.of_tokens
        found.loss = found.loss + settings.joint.kl_weight * (batch.weight * (away.exp() - 1 - away)).sum()
    return found


def learn(
    learner: JointLearner,
    states: States,
    batch: JointBatch,
    settings: DCoLT,
    log: Logger,
    among: World = ALONE,
) -> None:
    """Takes the update's gradient steps, each over the whole batch.

    With processes ``among`` whom the batch is divided, it is this one's share, and gradients are those of all.

    ``train/ratio_*`` are those before the last one. Gradients that are infinite or undefined change nothing;
    ``train/skipped`` counts such steps.
    """
    if not sum(among.gather(len(batch))):
        return
    learner.network.train()
    skipped, limit = 0, settings.optimizer.max_grad_norm
    for _ in range(settings.gradient_steps):
        learner.optimizer.zero_grad(set_to_none=True)
        learner.denoiser_optimizer.zero_grad(set_to_none=True)
        parts = _gradients(learner, states, batch, settings, among)
        norm = finite_step(learner.network, learner.optimizer, limit)
        own = finite_step(learner.trained, learner.denoiser_optimizer, limit)
        skipped += not (math.isfinite(norm) and math.isfinite(own))
    ratio = among.joined([part.ratio for part in parts])
    log.record("train/loss", sum(among.gather(sum(part.loss.item() for part in parts))))
    log.record("train/gradient_norm", norm)
    log.record("train/denoiser_gradient_norm", own)
    log.record("train/ratio_mean", ratio.mean().item())
    log.record("train/ratio_max", ratio.max().item())
    log.record("train/clip_share", among.joined([part.clipped for part in parts]).float().mean().item())
    log.record("train/approximate_kl", approximate_kl(ratio))
    log.record("train/skipped", skipped)


def _gradients(
    learner: JointLearner, states: States, batch: JointBatch, settings: DCoLT, among: World
) -> list[ClippedLoss]:
    """Computes those of the whole batch; returns the losses of this process's pieces."""
    denoiser, size, parts = learner.denoiser, settings.microbatch_size, []
    idle = learner.idle(math.ceil(len(batch) / size), among)
    with denoiser.learning(), checkpointed(denoiser.module, settings.joint.activation_checkpointing):
        for piece in batch.pieces(size):
            part = loss_of(learner, states, piece, settings)
            part.loss.backward()
            parts.append(part)
        for _ in range(idle):
            learner(lambda: nothing(denoiser, states)).backward()
    learner.sum_gradients(among)
    return parts


# -------------------------------------------------------------------------------------------- the loop


class JointValidator(Validator):
    """Judges by the most probable tokens, and keeps the denoiser, too: ``best/denoiser`` and ``last/denoiser``."""

    settings: DCoLT

    def __init__(self, setup: Setup, settings: DCoLT, folder: Path) -> None:
        super().__init__(replace(setup, rules=replace(setup.rules, temperature=0.0)), settings, folder)

    def keep(self, policy: LearnedPolicy, name: str) -> None:
        joint, denoiser, folder = self.settings.joint, self.setup.denoiser, self.folder / name / DENOISER
        if not self.setup.world.first:
            return
        if joint.train_denoiser == "full":
            denoiser.save(folder)
        elif joint.train_denoiser == "lora":
            save_adapter(denoiser, str(self.settings.denoiser), joint.lora_rank, joint.lora_alpha, folder)
        super().keep(policy, name)


def train_once(setup: Setup, learner: Learner, settings: DCoLT, callbacks: Callbacks) -> str:
    """One update: rollouts, then gradient steps. Returns the figures for the progress bar."""
    if not isinstance(learner, JointLearner):
        return grpo.train_once(setup, learner, settings, callbacks)
    share = learning_rate(settings, learner.update) / settings.optimizer.learning_rate
    for group in learner.denoiser_optimizer.param_groups:
        group["lr"] = settings.joint.denoiser_learning_rate * share
    return grpo.update_once(setup, learner, settings, callbacks, collect, improve)


def improve(setup: Setup, learner: JointLearner, settings: DCoLT, drawn: Collected) -> None:
    """The gradient steps of an update."""
    with learner.learning():
        states, batch = make_batch(setup, learner, settings, drawn)
        learn(learner, states, batch, settings, learner.logger, setup.world)


DCOLT = Algorithm("dcolt", make_learner, train_once, JointValidator)


def train_dcolt(
    settings: DCoLT,
    folder: Path,
    resume: bool = False,
    stop_after: int | None = None,
    callback: MaybeCallback = None,
) -> Path:
    """Trains policy and denoiser; arguments, files and errors are those of ``train_grpo``.

    ``load_policy`` takes the folder, and so does ``load_denoiser``. A denoiser that is given as an object learns
    itself: give a copy to keep it.
    """
    return grpo.train(DCOLT, settings, folder, resume, stop_after, callback)

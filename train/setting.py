"""What all policy trainers share: the objects that their settings name, and validation."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, replace
from typing import Literal

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Context, Dynamics, Rules
from dllm_env.env import prompt_width
from dllm_env.errors import UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, PolicyNetwork, make_network
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.random import torch_generator
from dllm_env.rewards import Reward, load_reward
from dllm_env.tasks.base import Task, count_problems
from dllm_env.tasks.load import load_task


@dataclass(frozen=True)
class PolicyTraining(Rules):
    """Settings that do not depend on the algorithm, the rules first; the defaults suit the bundled denoiser."""

    task: str = "trace"
    """Where prompts come from, with settings after a colon: trace, trace:chains=4, sudoku, gsm8k, math, gsm8k+math,
    reasoning-gym:countdown, …"""
    denoiser: str = "tiny"
    """Bundled name or folder of the frozen denoiser."""
    device: str = ""
    """Where denoiser and policy run, for example cuda; by default a GPU for checkpoints in Hugging Face's format,
    if there is one, and the processor for the bundled ones."""
    seed: int = 1
    """Everything random follows from it."""
    data: str = ""
    """File or folder with a benchmark's problems; without it, they come from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let tasks that are judged by running programs run what the denoiser writes, in a sandbox."""
    context: Context = "full"
    """What the policy sees: the whole response, or its active block only (what serving engines show)."""
    reward: Literal["multiplicative", "additive"] = "multiplicative"
    """How correctness and cost combine."""
    alpha: float = 0.1
    """Weight of speed in the reward; 0 rewards correctness alone."""
    head: str = "dynamic_plackett_luce"
    """How sets are drawn: dynamic_plackett_luce, bernoulli, plackett_luce:k=2.

    dynamic_plackett_luce always draws a position, so that "this one alone" is as easily said as "all of these"; on
    the bundled denoiser it learns faster and more surely than bernoulli. bernoulli may draw nothing; such empty
    steps, which cost no evaluation, are a clock that policies learn to read, so do not force progress later
    (bernoulli:force_progress=1) where it was not forced in training.
    """
    network: Literal["confidence", "hidden"] = "confidence"
    """What the policy reads: the largest probabilities, or the denoiser's last hidden states."""
    width: int = 64
    """Width of the policy network; 128 is the paper's, about 0.3M parameters."""
    attention_heads: int = 2
    """Attention heads of the policy network."""
    top: int = 1
    """p, how many of a position's largest probabilities the policy reads."""
    bias: float = -1.5
    """Start of the output bias; sigmoid(bias) of the masked positions are unmasked per step at first."""
    test_temperatures: tuple[float, ...] = (1.0, 0.6)
    """Temperatures of the head that each validation tries; the policy is saved with the better one."""
    batch_size: int = 128
    """Rows that the denoiser sees at a time."""
    updates: int = 120
    """Number of policy updates."""
    rate: float = 1e-3
    """Peak learning rate; linear warm-up, then cosine to 0."""
    warmup: int = 10
    """Warm-up updates."""
    expert: str = ""
    """A rule to learn from; none means threshold:0.7, or top_k:K for a head that always draws K positions."""
    expert_block_length: int = 8
    """The expert's block length."""
    imitation: int = 200
    """Gradient steps of imitating the expert before the training itself, at most."""
    imitation_target: float = 0.95
    """Imitate no longer once the policy itself is right so often, as a share of the expert's accuracy."""
    imitation_problems: int = 1024
    """Problems that the expert plays for that."""
    imitation_batch: int = 1024
    """Its decisions per gradient step."""
    imitation_rate: float = 3e-3
    """Learning rate of the imitation."""
    validation_problems: int = 200
    """Problems of each evaluation, or as many as there are."""
    validation_rules: tuple[str, ...] = ("threshold:0.5", "threshold:0.9", "leftmost:4")
    """Heuristics that are shown beside the policy in TensorBoard; they play the same problems once."""
    evaluate_every: int = 20
    """Updates between evaluations; 0 evaluates at the end only."""
    save_every: int = 10
    """Updates between checkpoints to resume from."""
    nfe_budget: float = 1.0
    """Share of L: evaluations whose mean NFE is over it become ``best`` only while none is within it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.allow_remask or self.remask_budget:
            raise UsageError(
                "learned policies do not put tokens back to mask; leave allow_remask and its budget away"
            )
        for name in (
            "updates",
            "batch_size",
            "imitation_problems",
            "imitation_batch",
            "validation_problems",
            "save_every",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("rate", "imitation_rate"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.test_temperatures or min(self.test_temperatures) <= 0:
            raise UsageError(f"test_temperatures have to be above 0, at least one, got {self.test_temperatures}")
        if not 0 < self.nfe_budget <= 1:
            raise UsageError(f"nfe_budget is a share of the response length, in (0, 1], got {self.nfe_budget}")


class Setting:
    """The objects that the settings name; making it checks all of them before any work.

    Raises:
        UsageError: an unknown name, or values that do not fit together.
    """

    def __init__(self, settings: PolicyTraining) -> None:
        self.task: Task = load_task(settings.task, settings.data, settings.allow_code_execution)
        count = min(settings.validation_problems, count_problems(self.task, "validation") or sys.maxsize)
        self.validation = [self.task.problem(i, "validation") for i in range(count)]
        count_problems(self.task, "train")  # there have to be some
        self.reward: Reward = load_reward(settings.reward, settings.alpha)
        self.rules = Rules.of(settings).resolve(self.task.response_length)
        head = load_head(settings.head)
        config = NetworkConfig(settings.width, settings.attention_heads, settings.top, settings.bias)
        self.denoiser: Denoiser = load_denoiser(settings.denoiser, settings.device or None)
        Dynamics(self.denoiser, self.rules, prompt_width(self.denoiser, self.task))
        generator = torch_generator("policy network", settings.seed)
        self.policy = LearnedPolicy(
            make_network(settings.network, config, generator, self.denoiser.hidden_size).to(self.denoiser.device),
            head,
            settings.context,
            training=asdict(settings),
        )
        for rule in settings.validation_rules:
            if load_heuristic(rule).remasks:
                raise UsageError(
                    f"the validation rule {rule} puts tokens back to mask, which training does not allow"
                )

    def test_policies(self, network: PolicyNetwork, settings: PolicyTraining) -> list[LearnedPolicy]:
        """The policy as it may be used: these weights with the head at each of the temperatures to try."""
        heads = [replace(self.policy.head, temperature=t) for t in settings.test_temperatures]  # type: ignore[type-var]
        return [LearnedPolicy(network.eval(), head, self.policy.context) for head in heads]

    def rank(self, score: Score, settings: PolicyTraining) -> tuple[bool, float]:
        """What ``best`` has most of: within the NFE budget first, then reward."""
        return score.nfe <= settings.nfe_budget * self.rules.response_length, score.reward


@dataclass(frozen=True)
class Score:
    """What a policy does on the validation problems."""

    reward: float
    accuracy: float
    nfe: float


def validate(setting: Setting, policy: Policy, settings: PolicyTraining) -> tuple[Score, Attempt]:
    """Plays the fixed validation problems with fixed random streams; a rule sees what rules do."""
    tried = attempt(
        setting.denoiser,
        policy,
        setting.rules,
        setting.task,
        setting.validation,
        row_seeds(len(setting.validation), "validation", settings.seed),
        batch_size=settings.batch_size,
    )
    nfe = tried.rollout.nfe
    reward = setting.reward(tried.correct, nfe, setting.rules.response_length)
    score = Score(reward.mean().item(), tried.correct.mean().item(), nfe.float().mean().item())
    return score, tried


def learning_rate(settings: PolicyTraining, update: int) -> float:
    """Linear warm-up, then cosine to 0 at the last update."""
    warm = min(1.0, (update + 1) / max(settings.warmup, 1))
    return settings.rate * warm * 0.5 * (1 + math.cos(math.pi * update / settings.updates))

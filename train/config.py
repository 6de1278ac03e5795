"""Settings that all policy trainers share, in groups. What they name is made by ``setup``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from dllm_env.denoisers.load import DenoiserLike
from dllm_env.errors import UsageError
from dllm_env.policies.heads import HeadLike
from dllm_env.policies.networks import USUAL_SIGHT, NetworkLike
from dllm_env.reading import check_value
from dllm_env.rewards import Cost, RewardLike, check_range
from dllm_env.rules import Context, Rules
from dllm_env.specs import check_types
from dllm_env.tasks.load import TaskLike
from dllm_env.train.settings_file import changed

Training = TypeVar("Training", bound="PolicyTraining")


COUNT = 10**9
"""The most of anything that is counted: more would not end in a life."""
ROWS = 10**6
"""The most that are in memory at the same time."""
RATE = 100.0
"""The largest learning rate, and the largest weight of a loss."""
HOTTEST, COLDEST = 1e4, 1e-4
"""Temperatures between which scores neither overflow nor all become equal."""


def at_least(lowest: float, settings: Any, *names: str, most: float = COUNT) -> None:
    """Checks settings.

    Raises:
        UsageError: one of them is below ``lowest`` or above ``most``, or no number.
    """
    for name in names:
        value = getattr(settings, name)
        if not value >= lowest:
            raise UsageError(f"{name} must be at least {lowest}, got {value}")
        if not value <= most:
            raise UsageError(f"{name} must be at most {most:,}, got {value:,}")


def above_zero(settings: Any, *names: str, most: float = math.inf) -> None:
    """Checks settings.

    Raises:
        UsageError: one of them is 0 or less, above ``most``, or no finite number.
    """
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            check_value(value, float, name)
        if not 0 < value < math.inf:
            raise UsageError(f"{name} must be above 0, got {value}")
        if value > most:
            raise UsageError(f"{name} must be at most {most:,}, got {value:,}")


def each_once(settings: Any, *names: str) -> None:
    """Checks lists of settings.

    Raises:
        UsageError: something stands in one of them twice.
    """
    for name in names:
        values = list(getattr(settings, name))
        if twice := [value for value in values if values.count(value) > 1]:
            raise UsageError(f"{name} has {twice[0]!r} twice; name each once")


@dataclass(frozen=True)
class RewardConfig:
    """What a response earns; see ``dllm_env.rewards``."""

    reward: tuple[RewardLike, ...] = ("multiplicative",)
    """How correctness and cost combine: multiplicative, additive, or a function of your own; several are added."""
    reward_weights: tuple[float, ...] = ()
    """A weight for each reward; without any, all count 1."""
    alpha: float = 0.1
    """Weight of speed in multiplicative and additive; 0 rewards correctness alone."""
    cost: Cost = "nfe"
    """What they count: denoiser evaluations (nfe), or steps, those that unmask nothing included."""
    preferences: tuple[float, ...] = ()
    """Smallest and largest α of one policy for all of them: each prompt draws its own in between, and the policy
    reads it; alpha is then not used."""
    deadlines: tuple[int, ...] = ()
    """Fewest and most denoiser evaluations of a deadline, which half of the prompts have and the policy reads."""

    def __post_init__(self) -> None:
        check_types(self, "reward")  # which may also be a single one
        check_range(self.preferences)
        given = self.deadlines
        if given and not (len(given) == 2 and 0 < given[0] <= given[1]):
            raise UsageError(f"deadlines takes a smallest and a largest value above 0, got {given}")


@dataclass(frozen=True)
class PolicyConfig:
    """The policy that is trained."""

    head: HeadLike = "dynamic_plackett_luce"
    """How sets are drawn: dynamic_plackett_luce, bernoulli, plackett_luce:k=2.

    dynamic_plackett_luce always draws a position, so that "this one alone" is as easily said as "all of these";
    after a start by correction (dagger) bernoulli is as good. bernoulli may draw nothing; such empty steps, which
    cost no evaluation, are a clock that policies learn to read, so do not force progress later
    (bernoulli:force_progress=1) where it was not forced in training.
    """
    network: NetworkLike = "confidence"
    """What the policy reads: confidence, the largest probabilities; hidden, the last hidden states; or reverse, a
    score model's scores, for the steps of its own reverse process (with head bernoulli)."""
    width: int = 64
    """Width of the policy network; 128 is the paper's, about 0.3M parameters."""
    attention_heads: int = 2
    """Attention heads of the policy network."""
    sight: tuple[str, ...] = USUAL_SIGHT
    """What a position is told besides its confidence: place, where it stands; left or right, how many masks are
    there; nines, −log₁₀(1 − c), which tells 99% from 99.9%; doubt, how likely one of the masks before it is wrong;
    ends, whether it would become end-of-text; repeats, whether a neighbour would become the same."""
    bias: float = -1.5
    """Start of the output bias; sigmoid(bias) of the masked positions are unmasked per step at first."""

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become steps."""

    learning_rate: float = 1e-3
    """Peak learning rate; linear warm-up, then cosine to 0."""
    warmup: int = 10
    """Warm-up updates."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        above_zero(self, "learning_rate", most=RATE)
        above_zero(self, "max_grad_norm")
        at_least(0, self, "warmup")
        check_types(self)


@dataclass(frozen=True)
class ImitationConfig:
    """What the policy imitates before the training itself, and the expert, a rule that may go on to steer it."""

    start: str = "portfolio"
    """What to imitate: portfolio, which tries rules and the oracle and takes the best, problem by problem; dagger,
    where the oracle corrects rules and then the policy itself; oracle; mcts:budget=100 or another search; expert; a
    rule, such as threshold:0.8,fallback=leftmost; or none."""
    imitation_rounds: int = 1
    """Of a start that is a search: how often it searches and is imitated, each time on new problems; from the
    second time on the policy proposes to it (expert iteration)."""
    expert: str = ""
    """A rule to learn from; none means threshold:0.7, or top_k:K for a head that always draws K positions."""
    expert_block_length: int = 8
    """The expert's block length."""
    imitation_steps: int = 200
    """Gradient steps of imitation, at most."""
    imitation_target: float = 0.95
    """Imitate no longer once the policy itself is right so often, as a share of what it imitates; dagger takes all
    steps."""
    imitation_problems: int = 512
    """Problems that are played for that."""
    imitation_batch_size: int = 1024
    """Decisions per gradient step."""
    imitation_learning_rate: float = 3e-3
    """Learning rate of the imitation."""

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "imitation_problems", "imitation_batch_size", "expert_block_length", most=ROWS)
        at_least(1, self, "imitation_rounds", most=1000)
        at_least(0, self, "imitation_steps")
        at_least(0, self, "imitation_target", most=RATE)
        above_zero(self, "imitation_learning_rate", most=RATE)


@dataclass(frozen=True)
class ValidationConfig:
    """How the policy is judged while it is trained, and which one is kept."""

    validation_problems: int = 200
    """Problems of each evaluation, or as many as there are."""
    validation_rules: tuple[str, ...] = ("threshold:0.5", "threshold:0.9", "leftmost:4")
    """Heuristics that are shown beside the policy in TensorBoard; they play the same problems once."""
    test_temperatures: tuple[float, ...] = (1.0, 0.6)
    """Each validation tries the head's own temperature times each of these; the policy is saved with the best."""
    test_force_progress: bool = False
    """Validate and save a Bernoulli policy with forced progress (bernoulli-argmax), which it is trained without."""
    evaluate_every: int = 20
    """Updates between evaluations; 0 evaluates at the end only."""
    nfe_budget: float = 1.0
    """Share of L: evaluations whose mean NFE is over it become ``best`` only while none is within it."""

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "validation_problems", most=ROWS)
        at_least(0, self, "evaluate_every")
        if not self.test_temperatures or not all(0 < t < math.inf for t in self.test_temperatures):
            raise UsageError(f"test_temperatures have to be above 0, at least one, got {self.test_temperatures}")
        if not all(COLDEST <= t <= HOTTEST for t in self.test_temperatures):
            given = self.test_temperatures
            raise UsageError(f"test_temperatures have to be from {COLDEST:g} to {HOTTEST:g}, got {given}")
        each_once(self, "test_temperatures", "validation_rules")
        if not 0 < self.nfe_budget <= 1:
            raise UsageError(f"nfe_budget is a share of the response length, in (0, 1], got {self.nfe_budget}")


@dataclass(frozen=True)
class PolicyTraining(Rules):
    """Settings that do not depend on the algorithm, the rules first; the defaults suit the bundled denoiser."""

    task: TaskLike = "trace"
    """Where prompts come from, with settings after a colon: trace, trace:chains=4, sudoku, gsm8k, math, gsm8k+math,
    reasoning-gym:countdown, …"""
    denoiser: DenoiserLike = "tiny"
    """Bundled name or folder of the frozen denoiser."""
    device: str = ""
    """Where denoiser and policy run, for example cuda; by default a GPU for checkpoints in Hugging Face's format,
    if there is one, and the processor for the bundled ones."""
    seed: int = 1
    """Everything random follows from it."""
    data: str = ""
    """File or folder with a benchmark's problems; without it, they come from the Hugging Face Hub."""
    max_prompt_length: int = 0
    """Leave out training problems whose prompts have more tokens; 0 takes all."""
    allow_code_execution: bool = False
    """Let tasks that are judged by running programs run what the denoiser writes, in a sandbox."""
    context: Context = "full"
    """What the policy sees: the whole response, or its active block only (what serving engines show)."""
    top: int = 1
    """p, how many of a position's largest probabilities the policy reads."""
    batch_size: int = 128
    """Rows that the denoiser sees at a time."""
    updates: int = 120
    """Number of policy updates."""
    save_every: int = 10
    """Updates between checkpoints to resume from."""
    rewards: RewardConfig = RewardConfig()
    policy: PolicyConfig = PolicyConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    imitation: ImitationConfig = ImitationConfig()
    validation: ValidationConfig = ValidationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()  # which checks all types
        if self.allow_remask or self.remask_budget:
            raise UsageError(
                "learned policies do not put tokens back to mask; leave allow_remask and its budget away"
            )
        if self.allow_edit and "rewrite" not in self.policy.sight:
            raise UsageError(
                "allow_edit is of no use to a policy that is not told what would be replaced: add rewrite to sight"
            )
        at_least(1, self, "updates", "save_every")
        at_least(1, self, "batch_size", "top", most=ROWS)
        at_least(0, self, "max_prompt_length")

    def changed(self: Training, **values: Any) -> Training:
        """With other settings, whatever group they are in: ``GRPO().changed(learning_rate=3e-4, width=128)``.

        Raises:
            UsageError: a name that there is not, or a value that cannot be.
        """
        return changed(self, **values)


def learning_rate(settings: PolicyTraining, update: int) -> float:
    """Linear warm-up, then cosine to 0 at the last update."""
    optimizer = settings.optimizer
    warm = min(1.0, (update + 1) / max(optimizer.warmup, 1))
    return optimizer.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * update / settings.updates))

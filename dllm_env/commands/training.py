"""The commands that train: ``train grpo``, ``ppo``, ``dcolt`` and ``denoiser``, ``demo``, ``ablate heads``."""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_env.commands.arguments import parse, peek, renamed, resumable, run_folder, started_with
from dllm_env.consent import ALLOW_FILE
from dllm_env.errors import UsageError
from dllm_env.user_code import file_part

if TYPE_CHECKING:
    from dllm_env.train.config import PolicyTraining


def train_denoiser(arguments: list[str]) -> None:
    """``dllm-env train denoiser``."""
    import tyro

    from dllm_env.commands.rehearsal import say_denoiser_training
    from dllm_env.train.denoiser import DenoiserTraining, train_denoiser
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[DenoiserTraining] = field(default_factory=DenoiserTraining)
        config: Path | None = None
        """YAML or JSON file with settings, under the names of the flags; flags override it."""
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out."""
        dry_run: bool = False
        """Say how long that takes about and how much disk, and leave nothing there."""

    name = "train denoiser"
    arguments = renamed(arguments, DenoiserTraining)
    default = Arguments(started_with(DenoiserTraining(), arguments))
    given = parse(Arguments, arguments, name, default=default)
    if given.dry_run:
        say_denoiser_training(given.settings)
        return
    folder = run_folder(given.out, given.resume, default_folder("denoiser"))
    made = resumable(name, arguments, folder, lambda place: train_denoiser(given.settings, place, given.resume))
    print(f"denoiser: {made}\nlogs:     tensorboard --logdir {shlex.quote(str(made.parent))}")


def train_grpo(arguments: list[str]) -> None:
    """``dllm-env train grpo``."""
    import tyro

    from dllm_env.train.grpo import GRPO, train_grpo
    from dllm_env.train.presets import PRESETS
    from dllm_env.train.trackers import Place

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[GRPO]
        preset: str = "bundled"
        """Where the defaults come from: bundled suits the bundled denoiser, demo is the demo's training, domains is
        that of one policy for all domains of the denoiser many; paper, paper-32 and paper-steered have arXiv
        2512.09106's values for full diffusion, for blocks of 32, and for full diffusion with expert steering."""
        config: Path | None = None
        """YAML or JSON file with settings, under the names of the flags; a run's settings.json is one. It overrides
        the preset, and flags override it."""
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out, with the settings that it was started with."""
        log: tuple[Place, ...] = ("tensorboard",)
        """Where to log besides the files for TensorBoard and progress.csv: wandb, mlflow (extras of that name)."""
        dry_run: bool = False
        """Say what would be trained, how long that takes about and how much disk, and leave nothing there."""

    name, preset = "train grpo", peek(arguments, "--preset", "bundled")
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    arguments = renamed(arguments, GRPO)
    default = Arguments(started_with(PRESETS[preset], arguments), preset)
    given = parse(Arguments, arguments, name, default=default)
    _train(name, arguments, given, train_grpo)


def train_dcolt(arguments: list[str]) -> None:
    """``dllm-env train dcolt``."""
    from dllm_env.train.dcolt import DCoLT, train_dcolt

    _train_plainly("train dcolt", arguments, DCoLT, train_dcolt)


def train_ppo(arguments: list[str]) -> None:
    """``dllm-env train ppo``."""
    from dllm_env.train.ppo import PPO, train_ppo

    _train_plainly("train ppo", arguments, PPO, train_ppo)


def _train_plainly(
    name: str, arguments: list[str], kind: "type[PolicyTraining]", train: Callable[..., Path]
) -> None:
    """A command without presets."""
    import tyro

    from dllm_env.train.trackers import Place

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[kind] = field(default_factory=kind)  # type: ignore[valid-type]
        """What is trained, and how."""
        config: Path | None = None
        """YAML or JSON file with settings, under the names of the flags; a run's settings.json is one. Flags
        override it."""
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out, with the settings that it was started with."""
        log: tuple[Place, ...] = ("tensorboard",)
        """Where to log besides the files for TensorBoard and progress.csv: wandb, mlflow (extras of that name)."""
        dry_run: bool = False
        """Say what would be trained, how long that takes about and how much disk, and leave nothing there."""

    arguments = renamed(arguments, kind)
    given = parse(Arguments, arguments, name, default=Arguments(started_with(kind(), arguments)))
    _train(name, arguments, given, train)


def _train(name: str, arguments: list[str], given: Any, train: Callable[..., Path]) -> None:
    """Trains, or says what that would take, and then what to do with it.

    Args:
        name: of the command.
        arguments: as they were given.
        given: the same, read: ``settings``, ``out``, ``resume``, ``log``, ``dry_run``.
        train: of settings, folder, whether to go on, and callback.
    """
    from dllm_env.commands.rehearsal import say_training
    from dllm_env.train.run import default_folder
    from dllm_env.train.trackers import trackers

    settings: PolicyTraining = given.settings
    _check_alpha(arguments, settings)
    if given.dry_run:
        say_training(settings, train)
        return
    folder = run_folder(given.out, given.resume, default_folder(name.split()[-1]))
    trackers(given.log, settings, folder)  # what is not installed is said before anything begins

    def work(place: Path) -> Path:
        return train(settings, place, given.resume, callback=trackers(given.log, settings, place))

    made = resumable(name, arguments, folder, work)
    learned = getattr(getattr(settings, "joint", None), "train_denoiser", "none") != "none"
    _what_next(made, settings, denoiser=learned)


def _check_alpha(arguments: list[str], settings: "PolicyTraining") -> None:
    """An α on the command line that would not be used is a mistake."""
    given = peek(arguments, "--alpha", "")
    if given and settings.rewards.preferences:
        low, high = settings.rewards.preferences
        raise UsageError(
            f"--alpha {given} would not be used: with --preferences {low:g} {high:g} each prompt has its own; give "
            "one of the two (--preferences without values takes a preset's away)"
        )


def _what_next(made: Path, settings: "PolicyTraining", denoiser: bool = False) -> None:
    """Where a trained policy is, and the denoiser if it was trained, too; and how to compare them."""
    more = f" --block-length {settings.block_length}" if settings.block_length else ""
    more += f" --response-length {settings.response_length}" if settings.response_length else ""
    more += f" --device {settings.device}" if settings.device else ""
    more += " --limit-block-steps" if settings.limit_block_steps else ""
    more += f" --data {shlex.quote(settings.data)}" if settings.data else ""
    more += " --allow-code-execution" if settings.allow_code_execution else ""
    own = (file_part(str(part)) for part in (settings.policy.head, settings.policy.network))
    more += "".join(f" {ALLOW_FILE} {shlex.quote(str(part.file))}" for part in own if part)
    folder = shlex.quote(str(made))
    writes = folder if denoiser else shlex.quote(str(settings.denoiser))
    print(f"policy:   {folder}\nlogs:     tensorboard --logdir {folder}")
    print(
        f"compare:  dllm-env eval --policies threshold:0.9 top_k:1 {folder} "
        f"--task {shlex.quote(str(settings.task))} --denoiser {writes}{more}"
    )


def demo(arguments: list[str]) -> None:
    """``dllm-env demo``."""
    from dllm_env.commands.demo import DemoConfig, default_demo_folder, run_demo
    from dllm_env.train.presets import PRESETS

    @dataclass(frozen=True)
    class Arguments:
        seed: int = 1
        """Training seed."""
        out: Path | None = None
        """Folder for everything; by default one named by date under runs/."""
        resume: bool = False
        """Continue the demo in --out."""

    given = parse(Arguments, arguments, "demo")
    folder = run_folder(given.out, given.resume, default_demo_folder())
    config = DemoConfig(replace(PRESETS["demo"], seed=given.seed))
    resumable("demo", arguments, folder, lambda place: run_demo(config, place, given.resume))


def ablate_heads(arguments: list[str]) -> None:
    """``dllm-env ablate heads``."""
    import tyro

    from dllm_env.commands.ablate import Ablation, run_ablation
    from dllm_env.commands.rehearsal import say_ablation
    from dllm_env.train.grpo import train_grpo
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[Ablation] = field(default_factory=Ablation)
        out: Path | None = None
        """Folder for everything; by default one named by date under runs/."""
        resume: bool = False
        """Continue the ablation in --out."""
        dry_run: bool = False
        """Say what would be trained, how long that takes about and how much disk, and leave nothing there."""

    name, arguments = "ablate heads", renamed(arguments, Ablation)
    _refuse_unused(arguments)
    given = parse(Arguments, arguments, name)
    _check_alpha(arguments, given.settings.training)
    if given.dry_run:
        say_ablation(given.settings, train_grpo)
        return
    folder = run_folder(given.out, given.resume, default_folder("ablation"))
    resumable(name, arguments, folder, lambda place: run_ablation(given.settings, place, given.resume))


UNUSED = {"--head": "--heads", "--network": "--networks", "--seed": "--seeds"}
"""Flags of a single training → those of an ablation, which says these of each of its trainings."""


def _refuse_unused(arguments: list[str]) -> None:
    for word in arguments:
        flag = word.partition("=")[0]
        if flag in UNUSED:
            raise UsageError(f"{flag} would not be used: ablate heads has several; give {UNUSED[flag]}")

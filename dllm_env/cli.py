"""The command line, ``dllm-env``.

Every command parses its arguments with tyro into the settings of the code that does the work. What a command needs
is imported when it is chosen, so that ``dllm-env --help`` answers at once.

Exit status: 0; 1 for a bug; 2 for bad input, with one line that says what to do; 130 when interrupted.
"""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union

from dllm_env.errors import UsageError

if TYPE_CHECKING:
    from dllm_env.eval.evaluate import Evaluation, Result
    from dllm_env.train.setting import PolicyTraining


Settings = TypeVar("Settings")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        name, rest = choose(arguments)
        COMMANDS[name].run(rest)
        return 0
    except UsageError as error:
        print(f"dllm-env: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"\ndllm-env: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\ndllm-env: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro's way to end after --help (0) or wrong arguments (2)
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2


class Interrupted(Exception):
    """The user stopped a command; the message says how to go on."""


def choose(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, and what is left of them; else shows help and exits."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    group = arguments[0] if arguments and any(name.startswith(arguments[0] + " ") for name in COMMANDS) else ""
    known = [(name, name.removeprefix(group).strip()) for name in COMMANDS if name.startswith(group)]
    # Empty classes stand for the commands' settings, whose real ones would import everything.
    shown = [
        Annotated[make_dataclass(f"_{i}", []), _subcommand(word, COMMANDS[name].summary)]
        for i, (name, word) in enumerate(known)
    ]
    prog = f"dllm-env {group}".strip()
    description = "Train and compare unmasking policies for diffusion language models."
    rest = arguments[1:] if group else arguments
    _parse(Union[tuple(shown)], rest or ["--help"], prog, description)  # noqa: UP007
    raise UsageError(f"unknown command; see {prog} --help")


def _subcommand(name: str, description: str) -> Any:
    import tyro

    return tyro.conf.subcommand(name, description=description)


def _parse(kind: Any, arguments: list[str], prog: str, description: str, **more: Any) -> Any:
    import tyro

    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(kind, args=arguments, prog=prog, description=description, **more)
    except SystemExit as stop:
        # Settings check themselves when tyro makes them; it frames their one line as its own error.
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, UsageError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        print(shown.getvalue(), end="", file=sys.stderr)
        raise


@dataclass(frozen=True)
class Command:
    """A command: one line about it, and what runs it on the arguments after its name."""

    summary: str
    run: Callable[[list[str]], None]


# ------------------------------------------------------------------------------------------- training


def train_denoiser(arguments: list[str]) -> None:
    """``dllm-env train denoiser``."""
    import tyro

    from dllm_env.train.denoiser import DenoiserTraining, train_denoiser
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[DenoiserTraining] = field(default_factory=DenoiserTraining)
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out."""

    name = "train denoiser"
    default = Arguments(_started_with(DenoiserTraining, arguments) or DenoiserTraining())
    given = _parse(Arguments, arguments, f"dllm-env {name}", COMMANDS[name].summary, default=default)
    folder = _run_folder(given.out, given.resume, default_folder("denoiser"))
    made = _resumable(name, arguments, folder, lambda: train_denoiser(given.settings, folder, given.resume))
    print(f"denoiser: {made}\nlogs:     tensorboard --logdir {shlex.quote(str(folder))}")


def train_grpo(arguments: list[str]) -> None:
    """``dllm-env train grpo``."""
    import tyro

    from dllm_env.train.grpo import GRPO, PRESETS, train_grpo
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[GRPO]
        preset: str = "bundled"
        """Where the defaults come from: bundled suits the bundled denoiser, demo is the demo's training, paper
        has arXiv 2512.09106's values."""
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out, with the settings that it was started with."""

    name, preset = "train grpo", _peek(arguments, "--preset", "bundled")
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    default = Arguments(_started_with(GRPO, arguments) or PRESETS[preset], preset)
    given = _parse(Arguments, arguments, f"dllm-env {name}", COMMANDS[name].summary, default=default)
    folder = _run_folder(given.out, given.resume, default_folder("grpo"))
    made = _resumable(name, arguments, folder, lambda: train_grpo(given.settings, folder, given.resume))
    _what_next(made, given.settings)


def train_ppo(arguments: list[str]) -> None:
    """``dllm-env train ppo``."""
    import tyro

    from dllm_env.train.ppo import PPO, train_ppo
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[PPO] = field(default_factory=PPO)
        out: Path | None = None
        """Folder of the run; by default one named by date under runs/."""
        resume: bool = False
        """Continue the run in --out, with the settings that it was started with."""

    name = "train ppo"
    default = Arguments(_started_with(PPO, arguments) or PPO())
    given = _parse(Arguments, arguments, f"dllm-env {name}", COMMANDS[name].summary, default=default)
    folder = _run_folder(given.out, given.resume, default_folder("ppo"))
    made = _resumable(name, arguments, folder, lambda: train_ppo(given.settings, folder, given.resume))
    _what_next(made, given.settings)


def _what_next(made: Path, settings: "PolicyTraining") -> None:
    """Where a trained policy is, and how to compare it."""
    block = f" --block-length {settings.block_length}" if settings.block_length else ""
    folder = shlex.quote(str(made))
    print(f"policy:   {folder}\nlogs:     tensorboard --logdir {folder}")
    print(
        f"compare:  dllm-env eval --policies threshold:0.9 top_k:1 {folder} "
        f"--task {settings.task} --denoiser {settings.denoiser}{block}"
    )


def _started_with(kind: type[Settings], arguments: Sequence[str]) -> Settings | None:
    """With ``--resume``, the settings of the run in ``--out``, so that they need not be given again."""
    out = _peek(arguments, "--out", "")
    if "--resume" not in arguments or not out:
        return None
    from dllm_env.train.run import read_settings

    return read_settings(kind, Path(out))


def _peek(arguments: Sequence[str], flag: str, default: str) -> str:
    """A flag's value before parsing: presets have to be known when the defaults are set."""
    value = default
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == flag:
            value = following
        elif argument.startswith(flag + "="):
            value = argument.partition("=")[2]
    return value


def _run_folder(out: Path | None, resume: bool, default: Path) -> Path:
    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run to continue")
    return check_folder(out or default)


def check_folder(folder: Path) -> Path:
    """The folder, if it can be written to.

    Raises:
        UsageError: it is a file, or what it would be made in cannot be written to.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is a file; give another folder with --out")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"cannot write to {existing}; give another folder with --out")
    return folder


def _resumable(name: str, arguments: list[str], folder: Path, work: Callable[[], Path]) -> Path:
    """Runs a training command; an interrupted one says how to go on."""
    try:
        return work()
    except KeyboardInterrupt:
        from dllm_env.train.run import CHECKPOINT

        if not (folder / CHECKPOINT).is_file():
            raise Interrupted(f"interrupted before the first checkpoint; remove {folder} to start again") from None
        rest = [argument for argument in arguments if argument != "--resume"]
        if not any(argument.split("=")[0] == "--out" for argument in rest):
            rest += ["--out", str(folder)]
        command = shlex.join(["dllm-env", *name.split(), *rest, "--resume"])
        raise Interrupted(f"interrupted; continue with: {command}") from None


# ------------------------------------------------------------------------------------------ evaluation


def evaluate(arguments: list[str]) -> None:
    """``dllm-env eval``."""
    import tyro

    from dllm_env.eval.evaluate import Evaluation, EvaluationConfig

    @dataclass(frozen=True)
    class Arguments:
        policies: tuple[str, ...]
        """Heuristics with their parameter (threshold:0.9, top_k:1, random:1, leftmost:2) and folders of learned
        policies, which take settings too: runs/x:temperature=0.5."""
        config: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
        out: Path | None = None
        """Folder for the results; by default one named by date under runs/."""

    given = _parse(Arguments, arguments, "dllm-env eval", COMMANDS["eval"].summary)
    folder = results_folder(given.out)
    evaluation = Evaluation(given.config, given.policies)
    results: list[Result] = []
    try:
        play([evaluation], folder, results)
    except KeyboardInterrupt:
        finish(results, folder)
        raise Interrupted(f"interrupted; {folder} has the {len(results)} results that were finished") from None
    finish(results, folder)


def results_folder(out: Path | None) -> Path:
    """Where results go: ``out``, or a folder named by date.

    Raises:
        UsageError: it cannot be written to, or has results already.
    """
    import datetime

    from dllm_env.eval.evaluate import PROBLEMS

    folder = check_folder(out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-eval")
    if (folder / PROBLEMS).exists():
        raise UsageError(f"{folder} holds results already; give another --out, or remove {folder / PROBLEMS}")
    return folder


def play(evaluations: "Sequence[Evaluation]", folder: Path, results: "list[Result]") -> None:
    """Plays evaluations with a progress bar, adding to ``results`` and to the folder as each result is there."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from dllm_env.eval.evaluate import append_problems

    folder.mkdir(parents=True, exist_ok=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=sum(evaluation.total for evaluation in evaluations))
        before = 0
        for evaluation in evaluations:

            def report(label: str, done: int, before: int = before) -> None:
                bar.update(shown, description=label, completed=before + done)

            for result in evaluation.run(report):
                append_problems(folder, result)
                results.append(result)
            before += evaluation.total


def finish(results: "Sequence[Result]", folder: Path) -> None:
    """Writes all files of the results and prints the table."""
    from rich.console import Console

    from dllm_env.eval.compare import FRONT, draw_front, pool, table
    from dllm_env.eval.evaluate import write_results

    if not results:
        return
    rows = pool(results)
    write_results(folder, results)
    draw_front(rows, folder / FRONT, title(results))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(rows))
    print(f"results: {folder} (results.json, results.csv, problems.jsonl, {FRONT})")


def title(results: "Sequence[Result]") -> str:
    """What the results are about, for the picture."""
    first, counts = results[0], sorted({result.problems for result in results})
    seeds = len({result.seed for result in results})
    problems = " or ".join(f"{count:,}" for count in counts)
    return (
        f"task {first.task}, denoiser {Path(first.denoiser).name}, {first.response_length} tokens, "
        f"{problems} {first.split} problems{f' for each of {seeds} seeds' if seeds > 1 else ''}"
    )


def generate(arguments: list[str]) -> None:
    """``dllm-env generate``."""
    import tyro
    from rich.console import Console

    from dllm_env.eval.generate import GenerationConfig, generate, show

    @dataclass(frozen=True)
    class Arguments:
        config: tyro.conf.OmitArgPrefixes[GenerationConfig] = field(default_factory=GenerationConfig)
        animate: bool = True
        """Show one picture that changes instead of a line for each step; never where the output is no terminal."""

    given = _parse(Arguments, arguments, "dllm-env generate", COMMANDS["generate"].summary)
    show(generate(given.config), Console(highlight=False), given.animate)


def demo(arguments: list[str]) -> None:
    """``dllm-env demo``."""
    from dllm_env.demo import DemoConfig, default_demo_folder, run_demo
    from dllm_env.train.grpo import PRESETS

    @dataclass(frozen=True)
    class Arguments:
        seed: int = 1
        """Training seed."""
        out: Path | None = None
        """Folder for everything; by default one named by date under runs/."""
        resume: bool = False
        """Continue the demo in --out."""

    given = _parse(Arguments, arguments, "dllm-env demo", COMMANDS["demo"].summary)
    folder = _run_folder(given.out, given.resume, default_demo_folder())
    config = DemoConfig(replace(PRESETS["demo"], seed=given.seed))
    _resumable("demo", arguments, folder, lambda: run_demo(config, folder, given.resume))


def ablate_heads(arguments: list[str]) -> None:
    """``dllm-env ablate heads``."""
    import tyro

    from dllm_env.ablate import Ablation, run_ablation
    from dllm_env.train.run import default_folder

    @dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[Ablation] = field(default_factory=Ablation)
        out: Path | None = None
        """Folder for everything; by default one named by date under runs/."""
        resume: bool = False
        """Continue the ablation in --out."""

    name = "ablate heads"
    given = _parse(Arguments, arguments, f"dllm-env {name}", COMMANDS[name].summary)
    folder = _run_folder(given.out, given.resume, default_folder("ablation"))
    _resumable(name, arguments, folder, lambda: run_ablation(given.settings, folder, given.resume))


COMMANDS = {
    "demo": Command("Train a policy and compare it with the heuristics, in about ten minutes.", demo),
    "train grpo": Command("Train an unmasking policy with GRPO.", train_grpo),
    "train ppo": Command("Train an unmasking policy with PPO, by Stable-Baselines3.", train_ppo),
    "train denoiser": Command("Train the bundled denoiser.", train_denoiser),
    "ablate heads": Command("Train every head on every network, and compare them.", ablate_heads),
    "eval": Command("Compare policies: a table, files, and accuracy against speed as a picture.", evaluate),
    "generate": Command("Show in the terminal how a response is unmasked, step by step.", generate),
}


if __name__ == "__main__":
    sys.exit(main())

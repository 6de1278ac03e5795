"""The command line, ``dllm-env``.

Every command parses its arguments with tyro into the settings of the code that does the work. What a command needs
is imported when it is chosen, so that ``dllm-env --help`` answers at once.

Exit status: 0; 1 for a bug; 2 for bad input, with one line that says what to do; 130 when interrupted.
"""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import codecs
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
    from dllm_env.train.setting import PolicyTraining


Settings = TypeVar("Settings")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    tolerate_any_character(sys.stdout, sys.stderr)
    try:
        name, rest = choose(arguments)
        COMMANDS[name].run(rest)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


PLAIN = {
    **{"–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "│": "|", "·": ".", "…": "...", "×": "x", "±": "+-"},
    **{"≥": ">=", "≤": "<=", "←": "<-", "→": "->", "↑": "^", "↓": "v", "█": "#"},
    **{"’": "'", "‘": "'", "“": '"', "”": '"'},
}
"""How characters that a terminal may lack are written there."""


_STRICT = ("strict", "backslashreplace", "surrogateescape")  # what streams have unless the user chose otherwise


def tolerate_any_character(*streams: Any) -> None:
    """Lets streams write what their encoding lacks in other signs, or as its number, not raise an error."""

    def replace_characters(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        shown = "".join(PLAIN.get(sign, ascii(sign)[1:-1]) for sign in error.object[error.start : error.end])
        return shown, error.end

    codecs.register_error("dllm_env.plain", replace_characters)
    for stream in streams:
        if getattr(stream, "errors", None) in _STRICT and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="dllm_env.plain")


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
    more = f" --block-length {settings.block_length}" if settings.block_length else ""
    more += f" --response-length {settings.response_length}" if settings.response_length else ""
    more += f" --data {shlex.quote(settings.data)}" if settings.data else ""
    more += " --allow-code-execution" if settings.allow_code_execution else ""
    folder = shlex.quote(str(made))
    print(f"policy:   {folder}\nlogs:     tensorboard --logdir {folder}")
    print(
        f"compare:  dllm-env eval --policies threshold:0.9 top_k:1 {folder} "
        f"--task {shlex.quote(settings.task)} --denoiser {shlex.quote(settings.denoiser)}{more}"
    )


def _started_with(kind: type[Settings], arguments: Sequence[str]) -> Settings | None:
    """With ``--resume``, the settings of the run in ``--out``, so that they need not be given again."""
    out = _peek(arguments, "--out", "")
    if "--resume" not in arguments or not out:
        return None
    from dllm_env.train.run import read_settings

    settings = read_settings(kind, Path(out))
    # Consent to run programs is the user's, never that of a folder.
    return replace(settings, allow_code_execution=False) if hasattr(settings, "allow_code_execution") else settings  # type: ignore[type-var]


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
        command = shlex.join(["dllm-env", *name.split(), *_with_out(arguments, folder), "--resume"])
        raise Interrupted(f"interrupted; continue with: {command}") from None


def _with_out(arguments: list[str], folder: Path) -> list[str]:
    """The arguments to continue with, but for ``--resume``."""
    rest = [argument for argument in arguments if argument != "--resume"]
    given = any(argument.split("=")[0] == "--out" for argument in rest)
    return rest if given else [*rest, "--out", str(folder)]


# ------------------------------------------------------------------------------------------ evaluation


def evaluate(arguments: list[str]) -> None:
    """``dllm-env eval``."""
    import tyro

    from dllm_env.eval.evaluate import EvaluationConfig, prepare
    from dllm_env.eval.parallel import default_workers
    from dllm_env.eval.runner import finish, play
    from dllm_env.eval.suite import load_suite

    @dataclass(frozen=True)
    class Arguments:
        policies: tuple[str, ...] = ()
        """Heuristics with their parameters (threshold:0.9, klass:tau=0.6; see dllm-env policies), classes in files
        (my_rules.py:MyRule(k=2)), and folders of learned policies, with settings too: runs/x:temperature=0.5."""
        suite: Path | None = None
        """A YAML file that says what to evaluate, instead of --policies; flags below are for what it leaves out."""
        config: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
        out: Path | None = None
        """Folder for the results; by default one named by date under runs/."""
        resume: bool = False
        """Go on in --out: only what is missing is evaluated. Another policy, task, … is added to what is there."""
        baseline: str = ""
        """Compare all policies with this one, problem by problem, instead of each learned one with its rivals."""
        workers: int = 0
        """Processes, of two threads each where there are several; 0 takes half as many as there are cores for the
        bundled denoisers, and one for others, of which every process would have its own."""

    given = _parse(Arguments, arguments, "dllm-env eval", COMMANDS["eval"].summary)
    if given.suite and given.policies:
        raise UsageError("give --suite or --policies, not both")
    folder = results_folder(given.out, given.resume)
    plans = load_suite(given.suite, given.config) if given.suite else [(given.config, given.policies)]
    evaluations = prepare(plans)
    try:
        play(evaluations, folder, given.workers or default_workers(evaluations))
    except KeyboardInterrupt:
        rest = shlex.join(["dllm-env", "eval", *_with_out(arguments, folder), "--resume"])
        raise Interrupted(f"interrupted; continue with: {rest}") from None
    finish(folder, given.baseline)


def results_folder(out: Path | None, resume: bool = False) -> Path:
    """Where results go: ``out``, or a folder named by date.

    Raises:
        UsageError: it cannot be written to, has results already, or has none to go on with.
    """
    import datetime

    from dllm_env.eval.results import PROBLEMS

    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the results to go on with")
    folder = check_folder(out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-eval")
    if (folder / PROBLEMS).exists() and not resume:
        raise UsageError(f"{folder} holds results already; give --resume to add what is missing, or another --out")
    return folder


def report(arguments: list[str]) -> None:
    """``dllm-env report``."""
    import tyro

    from dllm_env.eval.compare import comparisons, pool
    from dllm_env.eval.report import REPORT, write_report
    from dllm_env.eval.results import read
    from dllm_env.eval.runner import title

    @dataclass(frozen=True)
    class Arguments:
        folders: tyro.conf.Positional[tuple[Path, ...]]
        """Folders of results; those of several are merged."""
        out: Path | None = None
        """The page to write; by default report.html in the first folder."""
        baseline: str = ""
        """Compare all policies with this one, instead of each learned one with its rivals."""
        skip_broken: bool = False
        """Go on without lines that cannot be read."""
        mix_versions: bool = False
        """Show results of different versions of policies, denoisers or code side by side."""

    given = _parse(Arguments, arguments, "dllm-env report", COMMANDS["report"].summary)
    if not given.folders:
        raise UsageError("give one or more folders of results")
    rows = pool(read(given.folders, given.skip_broken, given.mix_versions))
    page = given.out or given.folders[0] / REPORT
    check_folder(page.parent)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_report(rows, comparisons(rows, given.baseline), page, title(rows))
    print(f"report: {page}")


def lm_eval(arguments: list[str]) -> None:
    """``dllm-env lm-eval``; the harness itself reads the arguments."""
    from dllm_env.eval.harness import main as run

    raise SystemExit(run(arguments))


def list_tasks(arguments: list[str]) -> None:
    """``dllm-env tasks``."""
    _without_arguments("tasks", arguments)
    from dllm_env.commands.list_names import show_tasks

    show_tasks()


def list_policies(arguments: list[str]) -> None:
    """``dllm-env policies``."""
    _without_arguments("policies", arguments)
    from dllm_env.commands.list_names import show_policies

    show_policies()


def _without_arguments(name: str, arguments: list[str]) -> None:
    _parse(make_dataclass("_Nothing", []), arguments, f"dllm-env {name}", COMMANDS[name].summary)


def generate(arguments: list[str]) -> None:
    """``dllm-env generate``."""
    import tyro
    from rich.console import Console

    from dllm_env.eval.show import GenerationConfig, make_generation, show

    @dataclass(frozen=True)
    class Arguments:
        config: tyro.conf.OmitArgPrefixes[GenerationConfig] = field(default_factory=GenerationConfig)
        animate: bool = True
        """Show one picture that changes instead of a line for each step; never where the output is no terminal."""

    given = _parse(Arguments, arguments, "dllm-env generate", COMMANDS["generate"].summary)
    show(make_generation(given.config), Console(highlight=False), given.animate)


def push(arguments: list[str]) -> None:
    """``dllm-env push``."""
    import json

    import tyro

    from dllm_env.eval.results import RESULTS_JSON
    from dllm_env.policies.learned import CARD, LearnedPolicy

    @dataclass(frozen=True)
    class Arguments:
        policy: tyro.conf.Positional[Path]
        """Run or folder of a learned policy."""
        to: tyro.conf.Positional[str]
        """Name on the Hugging Face Hub, owner/name; you have to be logged in (hf auth login)."""
        results: tuple[Path, ...] = ()
        """Folders of results that the model card shows."""
        private: bool = False
        """Make a private repository."""
        dry_run: Path | None = None
        """Write the files into this folder, and upload nothing."""

    given = _parse(Arguments, arguments, "dllm-env push", COMMANDS["push"].summary)
    if given.to.count("/") != 1:
        raise UsageError(f"a name on the Hub is owner/name, got {given.to!r}")
    policy = LearnedPolicy.from_pretrained(given.policy)
    shown: list[Any] = []
    for folder in given.results:
        try:
            shown += json.loads((folder / RESULTS_JSON).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UsageError(f"no results in {folder}: its {RESULTS_JSON} is missing or damaged") from None
    card = {"name": given.to, "results": shown}
    if given.dry_run:
        policy.save_pretrained(check_folder(given.dry_run), model_card_kwargs=card)
        print(f"written, not uploaded: {given.dry_run} (read {CARD})")
        return
    try:
        url = policy.push_to_hub(given.to, private=given.private or None, model_card_kwargs=card)
    except Exception as error:
        raise UsageError(f"the Hub did not take it: {(str(error) or repr(error)).splitlines()[0]}") from None
    print(f"uploaded: {url}")


def demo(arguments: list[str]) -> None:
    """``dllm-env demo``."""
    from dllm_env.commands.demo import DemoConfig, default_demo_folder, run_demo
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

    from dllm_env.commands.ablate import Ablation, run_ablation
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
    "eval": Command("Compare policies: tables, files, and accuracy against speed as a picture.", evaluate),
    "report": Command(
        "Make one HTML page of results: fronts, tables, and a viewer of how responses came about.", report
    ),
    "lm-eval": Command("Run the lm-evaluation-harness on any of its tasks, with any policy.", lm_eval),
    "tasks": Command("List the tasks and benchmarks with their settings.", list_tasks),
    "policies": Command("List the unmasking rules with their parameters.", list_policies),
    "generate": Command("Show in the terminal how a response is unmasked, step by step.", generate),
    "push": Command("Upload a learned policy to the Hugging Face Hub, with a model card.", push),
}


if __name__ == "__main__":
    sys.exit(main())

"""The commands that compare and show: ``eval``, ``report``, ``lm-eval``, ``generate``, ``push`` and the lists."""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_env import consent
from dllm_env.commands import helping
from dllm_env.commands.arguments import (
    check_folder,
    going_on,
    loading,
    parse,
    refuse_results,
    results_folder,
    written_into,
)
from dllm_env.drawing import Draws, Painter, draw
from dllm_env.errors import UsageError
from dllm_env.locks import locked
from dllm_env.reading import exists
from dllm_env.world import rank_of_process, this_world

if TYPE_CHECKING:
    from dllm_env.eval.evaluate import EvaluationConfig

MOST_WORKERS = 1024
PAGES = (".html", ".htm")
"""What the name of a report ends in; files beside it have its name and ends of their own."""


def evaluate(arguments: list[str]) -> None:
    """``dllm-env eval``."""
    import tyro

    draws = _painter(arguments)
    with loading():
        from dllm_env.commands.rehearsal import say_evaluation
        from dllm_env.eval.evaluate import Evaluation, EvaluationConfig, prepare
        from dllm_env.eval.latency import check_latency
        from dllm_env.eval.parallel import default_workers
        from dllm_env.eval.runner import PictureFormat, check_baseline, finish, play, time_policies
        from dllm_env.eval.suite import load_suite

    @dataclass(frozen=True)
    class Arguments:
        policies: tuple[str, ...] = ()
        """What to compare, with or without the flag: heuristics with their parameters (threshold:0.9,
        klass:tau=0.6; see dllm-env policies), classes in files (my_rules.py:MyRule(k=2)), and folders of learned
        policies, with settings too: runs/x:temperature=0.5."""
        suite: Path | None = None
        """A YAML file that says what to evaluate; flags below are for what it leaves out, and --policies are played
        in each of its evaluations besides its own."""
        config: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(default_factory=EvaluationConfig)
        out: Path | None = None
        """Folder for the results; by default one named by date under runs/."""
        dry_run: bool = False
        """Say what would be played, how long that takes about and how much disk, and write nothing."""
        resume: bool = False
        """Go on in --out: only what is missing is evaluated. Another policy, task, … is added to what is there."""
        baseline: str = ""
        """Compare all policies with this one, problem by problem, instead of each learned one with its rivals."""
        label: tuple[str, ...] = ()
        """What learned policies are called in the picture, FOLDER=NAME: --label runs/x=Ours; by default by the
        algorithm that trained them."""
        pictures: tuple[PictureFormat, ...] = ("png",)
        """Formats of the picture: png, pdf, svg."""
        latency: int = 0
        """Afterwards, measure on so many problems how long a response takes at batch size 1, beside the denoiser's
        default decoding; of this machine, and part of no comparison."""
        workers: int = 0
        """Processes, of two threads each where there are several; 0 takes half as many as there are cores for the
        bundled denoisers, and one for others, of which every process would have its own."""

    words = helping.plain_words(arguments, list(helping.flags_of(Arguments)), "--policies")
    given = parse(Arguments, words, "eval")
    _refuse_unused(words, given.config, given.suite is not None)
    check_latency(given.latency)
    folder = results_folder(given.out, given.resume)
    place = folder if given.resume else None
    if not 0 <= given.workers <= MOST_WORKERS:
        raise UsageError(f"--workers must be from 1 to {MOST_WORKERS}, or 0 for the default, got {given.workers}")

    def made() -> list[Evaluation]:
        suite = given.suite and load_suite(given.suite, given.config, given.policies)
        return prepare(suite or [(given.config, given.policies)])

    if given.dry_run:
        evaluations = made()
        say_evaluation(evaluations, place, given.workers or default_workers(evaluations))
        return
    with written_into(folder, fresh=given.out is None) as folder, going_on("eval", arguments, folder):
        if this_world().first:  # which may already put together what was left of a kill
            refuse_results(folder, given.resume)
        evaluations = made()
        if given.baseline:
            check_baseline(evaluations, folder, given.baseline)
        play(evaluations, folder, given.workers or default_workers(evaluations))
        if this_world().first:
            finish(folder, given.baseline, given.label, given.pictures, draws)
            if given.latency:
                time_policies(evaluations, given.latency, folder)


def _painter(arguments: list[str]) -> Draws:
    """A process that gets ready to draw while this one loads torch, if that is still to be loaded."""
    alone = not helping.wanted(arguments) and "--dry-run" not in arguments and rank_of_process() == 0
    return Painter() if alone and "torch" not in sys.modules else draw


def _refuse_unused(words: list[str], config: "EvaluationConfig", suite: bool) -> None:
    """Flags of a reward, or of randomness, where there is none."""
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    if not suite and not config.reward and not config.reward_weights:
        for flag in sorted(given & {"--alpha", "--cost"}):
            raise UsageError(f"{flag} would not be used: it belongs to a reward; give --reward multiplicative, too")
    if not suite and "--noise" in given and not config.temperature:
        raise UsageError("--noise would not be used: without --temperature nothing is drawn")
    if not suite and "--remask-budget" in given and not config.allow_remask:
        raise UsageError("--remask-budget would not be used without --allow-remask")
    if not suite and "--edit-steps" in given and not config.allow_edit:
        raise UsageError("--edit-steps would not be used without --allow-edit")


def report(arguments: list[str]) -> None:
    """``dllm-env report``."""
    import tyro

    from dllm_env.eval.report_files import REPORT, ReportFiles, write_all
    from dllm_env.eval.results import read

    @dataclass(frozen=True)
    class Arguments:
        folders: tyro.conf.Positional[tuple[Path, ...]]
        """Folders of results; those of several are merged."""
        out: Path | None = None
        """The page to write; by default report.html in the first folder."""
        baseline: str = ""
        """Compare all policies with this one, instead of each learned one with its rivals."""
        label: tuple[str, ...] = ()
        """What learned policies are called, FOLDER=NAME: --label runs/x=Ours; by default the algorithm that trained
        them."""
        files: tyro.conf.OmitArgPrefixes[ReportFiles] = field(default_factory=ReportFiles)
        skip_broken: bool = False
        """Go on without lines that cannot be read."""
        mix_versions: bool = False
        """Show results of different versions of policies, denoisers or code side by side."""

    given = parse(Arguments, arguments, "report")
    if not given.folders:
        raise UsageError("give one or more folders of results")
    page = given.out or given.folders[0] / REPORT
    check_folder(page.parent)
    if exists(page) and page.is_dir():
        raise UsageError(f"{page} is a folder; give the page's file with --out")
    if page.suffix.lower() not in PAGES:
        raise UsageError(f"--out is a page and ends in {' or '.join(PAGES)}, got {page}")
    results = read(given.folders, given.skip_broken, given.mix_versions)
    made = write_all(results, given.folders, page, given.files, given.baseline, given.label)
    print("\n".join(f"report: {file}" for file in made))


def plot(arguments: list[str]) -> None:
    """``dllm-env plot``."""
    import tyro

    from dllm_env.files import write_atomically, write_figure
    from dllm_env.train.curves import FORMATS, as_table, grouped, plot_curves, read_run, shown_names

    @dataclass(frozen=True)
    class Arguments:
        runs: tyro.conf.Positional[tuple[Path, ...]]
        """Folders of trainings; those that differ in the seed alone are one curve."""
        out: Path = Path("curves.png")
        """The picture, PNG, PDF or SVG by its name; beside it the figures as CSV."""
        figures: tuple[str, ...] = ()
        """What to draw, by its name in the log (rollout/accuracy); by default all that matters."""
        smooth: int = 5
        """Each point is the mean of the last so many updates, but for validation."""

    given = parse(Arguments, arguments, "plot")
    if not given.runs:
        raise UsageError("give one or more folders of trainings")
    if given.smooth < 1:
        raise UsageError(f"--smooth must be at least 1, got {given.smooth}")
    if given.out.suffix.lower().lstrip(".") not in FORMATS:
        raise UsageError(f"--out ends in one of {', '.join('.' + kind for kind in FORMATS)}, got {given.out}")
    check_folder(given.out.parent)
    runs = [read_run(folder) for folder in given.runs]
    groups, names = grouped(runs), shown_names(runs, given.figures)
    table = given.out.with_suffix(".csv")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_figure(given.out, plot_curves(groups, names, given.smooth))
    write_atomically(table, as_table(groups, names).encode())
    print(f"picture: {given.out}\nfigures: {table}")


def lm_eval(arguments: list[str]) -> None:
    """``dllm-env lm-eval``; the harness itself reads the arguments."""
    from dllm_env.eval.harness import main as run

    raise SystemExit(run(consent.without_flags(arguments)))


def list_tasks(arguments: list[str]) -> None:
    """``dllm-env tasks``."""
    name = _named("tasks", arguments)
    from dllm_env.commands.list_names import explain_task, show_tasks

    explain_task(name) if name else show_tasks()


def list_policies(arguments: list[str]) -> None:
    """``dllm-env policies``."""
    name = _named("policies", arguments)
    from dllm_env.commands.list_names import explain_policy, show_policies

    explain_policy(name) if name else show_policies()


def _named(command: str, arguments: list[str]) -> str:
    """What a list is asked to explain; nothing lists all."""
    import tyro

    @dataclass(frozen=True)
    class Arguments:
        name: tyro.conf.Positional[str] = ""
        """Explain this one: what it does, its settings with their defaults, its source, an example."""

    return str(parse(Arguments, arguments, command).name)


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

    given = parse(Arguments, arguments, "generate")
    show(make_generation(given.config), Console(highlight=False, markup=False), given.animate)


def push(arguments: list[str]) -> None:
    """``dllm-env push``."""
    import re

    import tyro

    from dllm_env.denoisers.load import DENOISER
    from dllm_env.eval.exports import POOLED_JSON
    from dllm_env.eval.results import RESULTS_JSON, read_records
    from dllm_env.policies.learned import UPLOADED, VALUE, LearnedPolicy

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

    given = parse(Arguments, arguments, "push")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given.to, re.ASCII):
        raise UsageError(f"a name on the Hub is owner/name, of letters, digits, '-', '_' and '.', got {given.to!r}")
    policy = LearnedPolicy.from_pretrained(given.policy)
    shown: list[Any] = []
    for folder in given.results:
        file = POOLED_JSON if exists(folder / POOLED_JSON) else RESULTS_JSON  # which older folders have alone
        try:
            shown += read_records(folder, file)
            policy.generate_model_card(name=given.to, results=shown)
        except (UsageError, KeyError, TypeError) as error:
            raise UsageError(f"no results in {folder}: its {file} is missing or damaged: {error}") from None
    card = {"name": given.to, "results": shown}
    if given.dry_run:
        _refuse_own(given.dry_run, given.policy)
        with locked(check_folder(given.dry_run, "--dry-run")) as folder:
            policy.published().save_pretrained(folder, model_card_kwargs=card)
            more = [f"{DENOISER}/{file.name}" for file in sorted((folder / DENOISER).glob("*"))]
            more += [VALUE] * (folder / VALUE).exists()
            files = ", ".join(f"{name} ({(folder / name).stat().st_size:,} bytes)" for name in (*UPLOADED, *more))
        print(f"written, not uploaded: {given.dry_run}; {given.to} would get {files}, exactly as they are there")
        return
    try:
        url = policy.push_to_hub(given.to, private=given.private or None, model_card_kwargs=card)
    except Exception as error:
        raise UsageError(f"the Hub did not take it: {(str(error) or repr(error)).splitlines()[0]}") from None
    print(f"uploaded: {url}")


def _refuse_own(folder: Path, policy: Path) -> None:
    """Refuses to write what would be uploaded over the policy that it is made of, or over a run."""
    own = [place.resolve() for place in (policy, policy / "best", policy / "last")]
    if folder.resolve() in own or exists(folder / "settings.json"):
        raise UsageError(f"{folder} is no place for a copy: a policy or run of yours is there; give another folder")

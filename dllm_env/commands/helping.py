"""What ``--help`` and ``--help-all`` print: the flags of a command in sections, from the settings that it reads.

Names, defaults and sentences are those of the settings' own dataclasses, with the docstring under each field, so
that nothing is said twice. ``--help`` shows those that matter first, ``--help-all`` all of them.
"""

# No "from __future__ import annotations": the types of classes that are local to a function are looked at.

import ast
import functools
import inspect
import itertools
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
INDENT, NAMES = 2, 26
"""Columns before a flag, and from there to what it does."""
NARROWEST, WIDEST = 60, 110
"""Columns of a page."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "what is compared": ("policies", "suite", "baseline", "figures", "smooth", "runs", "folders", "results"),
    "task": (
        *("task", "problems", "index", "prompt", "template", "split", "seeds", "samples", "data"),
        *("max_prompt_length", "allow_code_execution", "recipe", "examples"),
    ),
    "model": (
        "denoiser",
        "device",
        "batch_size",
        "workers",
        "threads",
        "family",
        "timed",
        "width",
        "layers",
        "heads",
    ),
    "generation": (
        *("block_length", "response_length", "temperature", "noise", "max_steps", "stop_at_eot", "allow_remask"),
        *("remask_budget", "limit_block_steps", "deadline", "prefix_cache"),
    ),
    "policy": ("policy", "context", "top"),
    "reward": ("reward", "reward_weights", "alpha", "cost", "alpha_warmup"),
    "optimisation": (),
    "start": (),
    "validation": (),
    "run": (
        *("preset", "config", "seed", "save_every", "out", "resume", "dry_run", "skip_broken", "mix_versions"),
        *("animate", "private", "to"),
    ),
}
"""Sections in the order of the page, with settings of no group; of a training, what is in none is optimisation."""
GROUPS = {
    **{"rewards": "reward", "policy": "policy", "optimizer": "optimisation", "imitation": "start"},
    **{"validation": "validation", "joint": "policy and denoiser together"},
}
"""The section of each group of settings."""

_TRAIN = (
    *("task", "denoiser", "device", "block_length", "response_length", "head", "network", "alpha", "preferences"),
    *("updates", "learning_rate", "start", "preset", "config", "seed", "out", "resume", "dry_run"),
)
FIRST: dict[str, tuple[str, ...]] = {
    "train grpo": (*_TRAIN, "prompts", "num_generations"),
    "train ppo": (*_TRAIN, "num_envs", "n_steps"),
    "train dcolt": (*_TRAIN, "prompts", "num_generations", "train_denoiser"),
    "train denoiser": (
        *("recipe", "examples", "family", "width", "layers", "heads", "start", "first_updates", "second_updates"),
        *("third_updates", "threads", "config", "seed", "out", "resume", "dry_run"),
    ),
    "ablate heads": (
        "task",
        "denoiser",
        "device",
        "heads",
        "networks",
        "seeds",
        "problems",
        "updates",
        "out",
        "resume",
        "dry_run",
    ),
    "eval": (
        *("policies", "suite", "baseline", "task", "problems", "seeds", "split", "data", "denoiser", "device"),
        *("batch_size", "block_length", "response_length", "allow_remask", "out", "resume", "dry_run"),
    ),
    "generate": ("task", "index", "prompt", "denoiser", "device", "policy", "block_length", "seed", "animate"),
}
"""What ``--help`` shows of commands with many flags; of others it shows all."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "dllm-env demo",
        "dllm-env eval threshold:0.9 top_k:1 --problems 100 --block-length full 8",
        "dllm-env train grpo --help",
    ),
    "demo": ("dllm-env demo --out runs/demo", "dllm-env demo --seed 2", "dllm-env demo --out runs/demo --resume"),
    "train grpo": (
        "dllm-env train grpo --task trace --block-length full --seed 1 --out runs/x",
        "dllm-env train grpo --preset demo --dry-run",
        "dllm-env train grpo --resume --out runs/x",
    ),
    "train ppo": (
        "dllm-env train ppo --task trace --seed 1 --out runs/y",
        "dllm-env train ppo --start none --updates 200",
        "dllm-env train ppo --resume --out runs/y",
    ),
    "train dcolt": (
        "dllm-env train dcolt --task choice --denoiser many --out runs/d",
        "dllm-env train dcolt --dry-run",
        "dllm-env train dcolt --resume --out runs/d",
    ),
    "train denoiser": (
        "dllm-env train denoiser --recipe sudoku --out runs/model",
        "dllm-env train denoiser --width 96 --layers 4 --dry-run",
        "dllm-env train denoiser --resume --out runs/model",
    ),
    "ablate heads": (
        "dllm-env ablate heads --out runs/heads",
        "dllm-env ablate heads --heads bernoulli plackett_luce:k=2 --dry-run",
        "dllm-env ablate heads --out runs/heads --resume",
    ),
    "eval": (
        "dllm-env eval threshold:0.9 top_k:1 --problems 200 --block-length full 8",
        "dllm-env eval runs/x threshold:0.7 --seeds 3 --out runs/comparison",
        "dllm-env eval --suite configs/suites/heuristics.yaml --dry-run",
    ),
    "report": ("dllm-env report runs/comparison", "dllm-env report runs/a runs/b --out both.html"),
    "plot": ("dllm-env plot runs/x", "dllm-env plot runs/x runs/x-2 --out curves.pdf"),
    "tasks": ("dllm-env tasks", "dllm-env tasks trace"),
    "policies": ("dllm-env policies", "dllm-env policies threshold"),
    "generate": (
        "dllm-env generate --policy threshold:0.9 --index 3",
        "dllm-env generate --policy runs/x --task trace --block-length 8",
        'dllm-env generate --prompt "a 6 b +2 g 3 h -2"',
    ),
    "push": (
        "dllm-env push runs/x owner/name --results runs/comparison",
        "dllm-env push runs/x owner/name --dry-run d",
    ),
    "doctor": ("dllm-env doctor",),
    "train": ("dllm-env train grpo --help",),
    "ablate": ("dllm-env ablate heads --help",),
}
"""Commands to begin with."""


@dataclass(frozen=True)
class Flag:
    """A setting as the command line has it.

    Attributes:
        name: of the field.
        kind: its type, without what tyro is told by it.
        default: its value where the flag is not given; ``MISSING`` where it has to be.
        of: the dataclass that has it.
        group: the field that holds its settings; empty for those of the command itself.
        positional: whether it is given without a name.
    """

    name: str
    kind: Any
    default: Any
    of: type
    group: str = ""
    positional: bool = False

    @property
    def about(self) -> str:
        """What it is for, from the docstring under the field; empty without one."""
        return docs_of(self.of).get(self.name, "")

    @property
    def takes(self) -> Literal["none", "one", "many"]:
        """How many words follow it."""
        if self.kind is bool:
            return "none"
        return "many" if typing.get_origin(self.kind) is tuple else "one"


# ----------------------------------------------------------------------------------------------- what there is


def flags_of(kind: type, default: Any = None, group: str = "") -> Iterator[Flag]:
    """All settings of a dataclass and of those within it, in their order.

    Args:
        kind: the dataclass.
        default: an object with the defaults, where they are not the class's.
        group: the field that it is, within another.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, positional = hints[field.name], False
        if typing.get_origin(hint) is typing.Annotated:
            positional = "Positional" in repr(hint.__metadata__)
            hint = typing.get_args(hint)[0]
        hint = getattr(hint, "__supertype__", hint)
        value = getattr(default, field.name) if default is not None else _default(field)
        if is_dataclass(hint) and isinstance(hint, type):
            inner = None if value is MISSING else value
            yield from flags_of(hint, inner, group if field.name in _OUTER else field.name)
        else:
            yield Flag(field.name, hint, value, kind, group, positional)


_OUTER = ("settings", "config", "training")
"""Fields that hold all settings of a command."""


def _default(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@functools.cache
def docs_of(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of those that it derives from."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if "__dataclass_fields__" not in vars(part):
            continue
        try:
            (made,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        except OSError:  # one that was made of no source
            continue
        body = typing.cast(ast.ClassDef, made).body
        for line, after in itertools.pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                said = after.value if isinstance(after, ast.Expr) else None
                if isinstance(said, ast.Constant) and isinstance(said.value, str):
                    found[line.target.id] = inspect.cleandoc(said.value)
    return found


def plain_words(arguments: Sequence[str], flags: Sequence[Flag], gets: str) -> list[str]:
    """The arguments with words that belong to no flag behind one that takes many: ``eval top_k:1 --seeds 3``.

    Args:
        arguments: after the command's name.
        flags: of the command.
        gets: the flag whose values they are.
    """
    takes = {flag.name: flag.takes for flag in flags}
    numbers = {flag.name for flag in flags if {int, float} & {*typing.get_args(flag.kind)}}
    rest: list[str] = []
    values: list[str] = []
    left, mine, name = 0.0, False, ""
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            mine = f"--{name.replace('_', '-')}" == gets
            left = (
                0 if equals else {"none": 0, "one": 1, "many": float("inf")}[takes.get(name, _unknown(name, takes))]
            )
            if not mine:
                rest.append(word)
            elif equals:
                values.append(value)
        elif left > 0 and not mine and (name not in numbers or _is_number(word)):
            rest.append(word)
            left -= 1
        else:
            values.append(word)
    return [*rest, gets, *values] if values else rest


def _is_number(word: str) -> bool:
    return word == "full" or word.lstrip("+-.")[:1].isdigit()


def _unknown(name: str, takes: Mapping[str, str]) -> Literal["none", "many"]:
    """``--no-resume`` takes nothing; of a flag that there is not, all that follows is."""
    return "none" if takes.get(name.removeprefix("no_")) == "none" else "many"


# -------------------------------------------------------------------------------------------------- the page


def wanted(arguments: Sequence[str]) -> Literal["", "first", "all"]:
    """Which help the arguments ask for."""
    if HELP_ALL in arguments:
        return "all"
    return "first" if set(HELP) & set(arguments) else ""


def page(name: str, summary: str, flags: Sequence[Flag], more: str = "", everything: bool = False) -> str:
    """The help of a command.

    Args:
        name: of the command.
        summary: what it does, in a line.
        flags: all of its settings.
        more: a paragraph about flags that are no settings.
        everything: show all, not only those that matter first.
    """
    width = _width()
    places = [flag for flag in flags if flag.positional]
    usage = " ".join(["dllm-env", *name.split(), *(_metavar(flag) for flag in places), "[options]" * bool(flags)])
    first = FIRST.get(name, ())
    shown = [flag for flag in flags if everything or not first or flag.name in first]
    hidden = len(flags) - len(shown)
    lines = [f"usage: {usage}", "", *textwrap.wrap(summary, width)]
    for title, group in _sections(name, shown):
        lines += ["", title, *(line for flag in group for line in _lines(flag, width, everything))]
    if more:
        lines += ["", *textwrap.wrap(more, width)]
    if hidden:
        lines += ["", f"{hidden} more options: dllm-env {name} {HELP_ALL}"]
    return "\n".join([*lines, *_examples(name), ""])


def overview(group: str, commands: Sequence[tuple[str, str]], summary: str) -> str:
    """The help above commands; each as its name beneath the group, and what it does."""
    width = _width()
    lines = [f"usage: {' '.join(['dllm-env', *group.split()])} COMMAND [options]", "", summary, "", "commands"]
    longest = INDENT + max(len(word) for word, _ in commands) + 2
    for word, about in commands:
        said = textwrap.wrap(about, width - longest)
        lines += [f"{' ' * INDENT}{word}".ljust(longest) + said[0], *(" " * longest + line for line in said[1:])]
    of_one = f"dllm-env {group} COMMAND --help".replace("  ", " ")
    lines += ["", f"{of_one} shows the options of one."]
    return "\n".join([*lines, *_examples(group), ""])


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)


def _examples(name: str) -> list[str]:
    given = EXAMPLES.get(name, ())
    return ["", "examples", *(f"{' ' * INDENT}{line}" for line in given)] if given else []


def _sections(name: str, flags: Sequence[Flag]) -> Iterator[tuple[str, list[Flag]]]:
    """Flags by section; within one those that matter first come first, in the table's order."""
    trains = name.startswith(("train", "ablate"))
    of = {field: title for title, names in SECTIONS.items() for field in names}
    found: dict[str, list[Flag]] = {title: [] for title in (*SECTIONS, *GROUPS.values(), "arguments")}
    for flag in flags:
        title = GROUPS.get(flag.group) or of.get(flag.name) or ("optimisation" if trains else "arguments")
        found[title].append(flag)
    for title, group in found.items():
        order = SECTIONS.get(title, ())
        group.sort(key=lambda flag: order.index(flag.name) if flag.name in order else len(order))
        if group:
            yield title, group


def _lines(flag: Flag, width: int, everything: bool) -> list[str]:
    head = f"{' ' * INDENT}{_written(flag)}"
    column = INDENT + NAMES
    about = flag.about if everything else flag.about.partition("\n\n")[0]
    about = " ".join(about.replace("``", "").split())
    said = textwrap.wrap(about + _said_default(flag), width - column, break_on_hyphens=False)
    if not said:
        return [head]
    if len(head) < column - 1:
        return [head.ljust(column) + said[0], *(" " * column + line for line in said[1:])]
    return [head, *(" " * column + line for line in said)]


def _written(flag: Flag) -> str:
    name = flag.name.replace("_", "-")
    if flag.positional:
        return _metavar(flag)
    if flag.kind is bool:
        return f"--[no-]{name}" if flag.default is True else f"--{name}"
    return f"--{name} {_metavar(flag)}"


_METAVARS = {int: "N", float: "X", str: "TEXT"}
_NAMED = {
    **dict.fromkeys(("task", "denoiser", "policy", "head", "network", "preset", "baseline", "start"), "NAME"),
    **{"policies": "NAME", "to": "OWNER/NAME", "suite": "FILE", "config": "FILE", "data": "PATH", "reward": "NAME"},
    **{"expert": "NAME", "validation_rules": "NAME", "heads": "NAME", "networks": "NAME", "device": "DEVICE"},
    **{"figures": "NAME", "sight": "NAME", "name": "NAME"},
}
"""What stands for the value of a flag, where its type says too little."""


def _metavar(flag: Flag) -> str:
    kind, origin = flag.kind, typing.get_origin(flag.kind)
    if origin is tuple:
        parts = typing.get_args(kind)
        one = "N|full" if flag.name == "block_length" else _NAMED.get(flag.name) or _of_type(parts[0])
        one = one.upper() if flag.positional else one
        return f"{one} ..." if parts[-1] is Ellipsis else " ".join([one] * len(parts))
    if flag.name == "block_length":
        return "N|full"
    name = (_of_type(kind) if kind in (int, float) else "") or _NAMED.get(flag.name) or _of_type(kind)
    return flag.name.upper() if flag.positional and name in ("PATH", "TEXT") else name


def _of_type(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if origin in (Union, types.UnionType):
        return next(_of_type(part) for part in typing.get_args(kind) if part is not type(None))
    if isinstance(kind, type) and issubclass(kind, Path):
        return "PATH"
    return _METAVARS.get(kind, "VALUE")


def _said_default(flag: Flag) -> str:
    value = flag.default
    if value is MISSING or value is None or value is False or value == "" or value == ():
        return ""
    if value is True:
        return " [on]"
    shown = (
        " ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )
    return f" [{shown}]"

"""The command line, ``dllm-env``.

Every command parses its arguments with tyro into the settings of the code that does the work. What a command needs
is imported when it is chosen, so that ``dllm-env --help`` answers at once.

Exit status: 0; 1 for a bug; 2 for bad input, with one line that says what to do; 130 when interrupted.
"""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import codecs
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, Union

from dllm_env import consent
from dllm_env.commands.arguments import SUMMARIES, Interrupted, parse
from dllm_env.errors import UsageError

COMMANDS = {
    "demo": "training.demo",
    "train grpo": "training.train_grpo",
    "train ppo": "training.train_ppo",
    "train denoiser": "training.train_denoiser",
    "ablate heads": "training.ablate_heads",
    "eval": "evaluation.evaluate",
    "report": "evaluation.report",
    "lm-eval": "evaluation.lm_eval",
    "tasks": "evaluation.list_tasks",
    "policies": "evaluation.list_policies",
    "generate": "evaluation.generate",
    "push": "evaluation.push",
}
"""Where each command is, within ``dllm_env.commands``; imported when it is chosen."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    tolerate_any_character(sys.stdout, sys.stderr)
    try:
        check(arguments)
        name, rest = choose(arguments)
        run(name, rest)
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


def check(arguments: Sequence[str]) -> None:
    """Refuses arguments that no command line can have.

    Raises:
        UsageError: one with a NUL byte, at which names of files would end.
    """
    for argument in arguments:
        if "\0" in argument:
            raise UsageError(f"an argument holds a NUL byte: {argument[:80]!r}")


def run(name: str, arguments: list[str]) -> None:
    """Runs a command on the arguments after its name."""
    module, _, function = COMMANDS[name].partition(".")
    with consent.given(consent.said_by(arguments)):
        getattr(importlib.import_module(f"dllm_env.commands.{module}"), function)(arguments)


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
        Annotated[make_dataclass(f"_{i}", []), _subcommand(word, SUMMARIES[name])]
        for i, (name, word) in enumerate(known)
    ]
    rest = arguments[1:] if group else arguments
    parse(Union[tuple(shown)], rest or ["--help"], group)  # noqa: UP007
    raise UsageError(f"unknown command; see {f'dllm-env {group}'.strip()} --help")


def _subcommand(name: str, description: str) -> Any:
    import tyro

    return tyro.conf.subcommand(name, description=description)


if __name__ == "__main__":
    sys.exit(main())

"""What the lm-evaluation-harness is told of the model ``dllm-env``: model arguments, defaults of its command line.

Model arguments come as ``name=value`` separated by commas, or as JSON. A value with commas of its own stands in
quotes, ``policy="klass:tau=0.6,kappa=0.01"``, or in the JSON form. Settings of a checkpoint are arguments, too:
``denoiser=runs/x,dtype=bfloat16`` means what ``denoiser="runs/x:dtype=bfloat16"`` does.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dllm_env import consent
from dllm_env.denoisers.base import Denoiser
from dllm_env.errors import UsageError
from dllm_env.locks import LOCK
from dllm_env.policies.base import Policy
from dllm_env.reading import check_value, exists, read_yaml, shown
from dllm_env.rules import Rules

NAME = "dllm-env"
"""How the harness calls the model."""

DENOISER_OPTIONS = (
    *("dtype", "device_map", "attention", "chat", "shift", "mask", "revision", "trust_remote_code"),
    *("attention_block", "blocks_from", "bits", "cache"),
)
"""Settings of a checkpoint that are model arguments, too; see ``dllm_env.denoisers.huggingface.Options``."""

MOST = 10**6
"""Sequences at a time, or samples of a likelihood, at most."""
BATCH = 128
"""Sequences at a time, where nothing or ``auto`` is said."""


UNCACHED = ("gen_kwargs", "seed", "samples", "metadata")
"""Flags of the harness that change requests, and that its cache of them (``--cache_requests``) knows nothing of."""


@dataclass(frozen=True)
class HarnessConfig(Rules):
    """The model arguments, the rules of the process first; ``gen_length`` is another name for the response length.

    Raises:
        UsageError: a value of another kind or out of range.
    """

    denoiser: str | Denoiser = ""
    """Bundled denoiser, folder, or name on the Hub; ``pretrained`` is another name for it."""
    policy: str | Policy = "threshold:0.9"
    """Heuristic, class in a file, or learned policy, as for --policies."""
    temperature: float | None = None  # type: ignore[assignment]
    """Of the denoiser's tokens; without it, what the request's do_sample and temperature say."""
    seed: int = 0
    """Evaluation seed: random streams are those that ``dllm-env eval`` has under this seed."""
    batch_size: int = BATCH
    """Sequences at a time; changes the speed, not the results (docs/reproducibility.md: where)."""
    max_batch_size: int = 0
    """The most that batch_size=auto may take; 0 for no limit."""
    mc_samples: int = 128
    """Sets of masks for each log-likelihood; exact where a continuation has no more sets than that."""
    check_greedy: bool = True
    """Say of each continuation whether the policy writes it at temperature 0; costs a generation of its length."""
    device: str = ""
    """cpu, cuda, cuda:1, …; auto or nothing: the processor for bundled denoisers, else a GPU where there is one."""

    @classmethod
    def parse(cls, arguments: Mapping[str, Any]) -> HarnessConfig:
        """From names and values: texts, numbers, or objects for denoiser and policy; None means not given.

        Raises:
            UsageError: an unknown argument, a value of another kind or out of range, or no denoiser.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        if "pretrained" in given:
            if "denoiser" in given:
                raise UsageError("denoiser and pretrained mean the same; give one of them")
            given["denoiser"] = given.pop("pretrained")
        if not given.get("denoiser"):
            raise UsageError("no denoiser; name one: --model_args denoiser=tiny, or a folder or name on the Hub")
        if "gen_length" in given:
            if "response_length" in given:
                raise UsageError("gen_length and response_length mean the same; give one of them")
            given["response_length"] = _value("gen_length", given.pop("gen_length"), int)
        options = {name: given.pop(name) for name in DENOISER_OPTIONS if name in given}
        if str(given.get("device", "")) == "auto":
            del given["device"]
        if str(given.get("batch_size", "")).partition(":")[0] == "auto":
            given["batch_size"] = min(BATCH, _value("max_batch_size", given.get("max_batch_size", 0), int) or BATCH)
        kinds = {column.name: type(column.default) for column in fields(cls)} | {"temperature": float}
        for name in given:
            if name not in kinds:
                known = ", ".join((*kinds, *DENOISER_OPTIONS))
                raise UsageError(
                    f"unknown model argument {name!r}; there are {known}. A value with "
                    """commas needs quotes: 'policy="klass:tau=0.6,kappa=0.01"'"""
                )
        values = {name: _value(name, value, kinds[name]) for name, value in given.items()}
        return cls(**values | {"denoiser": _with_options(values["denoiser"], options)})

    def __post_init__(self) -> None:
        Rules.of(self, temperature=self.temperature or 0.0)
        for name, least in (("batch_size", 1), ("mc_samples", 1), ("max_batch_size", 0)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"model argument {name} has to be at least {least}, got {value}")
            if value > MOST:
                raise UsageError(f"model argument {name} has to be at most {MOST:,}, got {value:,}")
        check_value(self.seed, int, "model argument seed")


def _value(name: str, value: Any, kind: type) -> Any:
    """A value as what the argument needs; the harness makes numbers and booleans of what looks like them."""
    if name == "block_length" and value == "full":
        return 0
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if kind is not str and isinstance(value, bool):
            raise ValueError
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if kind is str and not isinstance(value, (str, int, float)):
            return value  # a denoiser or policy
        return kind(value)
    except (KeyError, ValueError, TypeError, OverflowError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise UsageError(f"model argument {name} has to be {wanted}, got {value!r}") from None


def _with_options(denoiser: str | Denoiser, options: Mapping[str, Any]) -> str | Denoiser:
    """The denoiser's text with options that were arguments of their own, or were cut off by their commas."""
    if not options:
        return denoiser
    if not isinstance(denoiser, str):
        raise UsageError(f"a denoiser that is loaded already has no settings, got {', '.join(options)}")
    texts = [f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in options.items()]
    _, colon, after = denoiser.rpartition(":")
    return denoiser + ("," if colon and "=" in after else ":") + ",".join(texts)


def split_arguments(text: str) -> dict[str, str]:
    """``"a=1,b='2,3'"`` by name; commas within quotes or brackets do not separate.

    Raises:
        UsageError: an argument without ``=``.
    """
    found = {}
    for item in re.findall(r"""(?:"[^"]*"|'[^']*'|\([^)]*\)|[^,])+""", text):
        name, equals, value = item.strip().partition("=")
        if not equals:
            raise UsageError(f"cannot read the model argument {item!r}; write name=value, separated by commas")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        found[name] = value[1:-1] if quoted else value
    return found


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """The harness's command line, with this package's model where it names none, and what suits that model.

    The harness itself would take one sequence at a time and the first GPU.

    Raises:
        UsageError: ``--cache_requests`` with flags that its cache does not tell apart.
    """
    words = list(arguments)
    if words in ([], ["run"]) or words[0] in ("ls", "validate") or {"-h", "--help"} & set(words):
        return words
    parser = argparse.ArgumentParser("lm-eval", add_help=False)
    for names in (("--model", "-M"), ("--config", "-C"), ("--batch_size", "-b"), ("--device",)):
        parser.add_argument(*names)
    parser.add_argument("--cache_requests", nargs="?", const="true")
    for name in UNCACHED:
        parser.add_argument(f"--{name}", nargs="+")
    given = vars(parser.parse_known_args(words)[0])
    file = _yaml(given["config"]) if given["config"] else {}
    _check_consent(words, file, given["config"])
    said = {name: given[name] or file.get(name) for name in ("model", "batch_size", "device")}
    if not said["model"]:
        words += ["--model", NAME]
    if said["model"] in (None, NAME):
        _check_request_cache(given, file)
        words += [word for name in ("batch_size", "device") if not said[name] for word in (f"--{name}", "auto")]
    return words


def check_processes(words: Sequence[str], size: int) -> None:
    """Refuses other models in several processes.

    Args:
        words: from ``with_defaults``.
        size: how many processes were started.

    Raises:
        UsageError: there are several, and the model is not this package's.
    """
    parser = argparse.ArgumentParser("lm-eval", add_help=False)
    for names in (("--model", "-M"), ("--config", "-C")):
        parser.add_argument(*names)
    given = vars(parser.parse_known_args(list(words))[0])
    model = given["model"] or (_yaml(given["config"]) if given["config"] else {}).get("model")
    if size > 1 and model not in (None, NAME):
        raise UsageError(
            f"several processes are for the model {NAME}, but --model is {model}; leave torchrun away, or start "
            "lm-eval itself"
        )


def _check_consent(words: Sequence[str], file: Mapping[str, Any], place: str) -> None:
    """Refuses what a configuration file would allow, or have the harness run, by itself.

    Raises:
        UsageError: code that the command line does not speak of.
    """
    consent.check_read(file, place)
    said = {word.partition("=")[0].replace("-", "_").lstrip("_") for word in words if word.startswith("--")}
    for name in ("confirm_run_unsafe_code", "include_path"):
        if file.get(name) and name not in said:
            raise UsageError(f"{place}: no file can allow code to be run; give --{name} on the command line")
    tasks = file.get("tasks") or []
    for task in tasks if isinstance(tasks, list) else str(tasks).split(","):
        if isinstance(task, Mapping) or (exists(Path(str(task))) and Path(str(task)).suffix):
            raise UsageError(
                f"{place}: a file of tasks can run code, so that it has to be named on the command line: --tasks "
                f"{' '.join(str(task).split())[:80]}"
            )


def written_places(arguments: Sequence[str]) -> list[tuple[Path, str]]:
    """Where the harness will write: folders, each with the name of the lock that stands for what is written there.

    Results get names by their time, in the folder of ``--output_path``; a cache of results is one file.
    """
    if not arguments or arguments[0] in ("ls", "validate") or {"-h", "--help"} & set(arguments):
        return []
    parser = argparse.ArgumentParser("lm-eval", add_help=False)
    for names in (("--config", "-C"), ("--output_path", "-o"), ("--use_cache", "-c")):
        parser.add_argument(*names)
    given = vars(parser.parse_known_args(list(arguments))[0])
    file = _yaml(given["config"]) if given["config"] else {}
    output, cache = (given[name] or file.get(name) for name in ("output_path", "use_cache"))
    places = []
    if output:
        path = Path(str(output))
        places.append((path.parent if path.suffix == ".json" else path, LOCK))
    if cache:
        path = Path(str(cache))
        places.append((path.parent, f".{path.name}.lock"))
    return places


def _check_request_cache(given: Mapping[str, Any], file: Mapping[str, Any]) -> None:
    cached = given["cache_requests"] or file.get("cache_requests")
    changed = [f"--{name}" for name in UNCACHED if given[name] or file.get(name)]
    if cached and cached != "delete" and changed:
        raise UsageError(
            f"the harness's cache of requests would give later runs those of this {changed[0]}; leave "
            f"--cache_requests or {changed[0]} away (model arguments such as temperature are no part of requests)"
        )


def _yaml(path: str) -> dict[str, Any]:
    """A configuration file.

    Raises:
        UsageError: it cannot be read, or holds no settings.
    """
    found = read_yaml(Path(path))
    if not isinstance(found, dict):
        raise UsageError(f"{path} has to hold settings, name: value, got {shown(found)}")
    return found

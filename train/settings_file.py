"""Training settings as one flat table of names: to change some of them, and as a YAML or JSON file.

Settings are dataclasses that hold groups (optimizer, validation, …), dataclasses themselves. No name occurs twice
in them, so that a name alone says which setting is meant: on the command line, in a file, in ``changed``. A file
may also write a group as a mapping. A run's ``settings.json`` is such a file.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dllm_env import consent
from dllm_env.errors import UsageError
from dllm_env.files import write_atomically
from dllm_env.reading import MOST_YAML, check_value, exists, meant, name_of, read_json, read_yaml, shown
from dllm_env.user_code import origin_of

Settings = TypeVar("Settings")

SETTINGS = "settings.json"

RENAMED = {
    "rate": "learning_rate",
    "group": "num_generations",
    "clip": "clip_range",
    "trust_region": "target_kl",
    "gradient_norm": "max_grad_norm",
    "divide_by_deviation": "scale_rewards",
    "averaging": "ema_decay",
    "microbatch": "microbatch_size",
    "rows": "num_envs",
    "steps": "n_steps",
    "minibatch": "minibatch_size",
    "epochs": "n_epochs",
    "discount": "gamma",
    "trace": "gae_lambda",
    "entropy_weight": "ent_coef",
    "value_weight": "vf_coef",
    "imitation": "imitation_steps",
    "imitation_batch": "imitation_batch_size",
    "imitation_rate": "imitation_learning_rate",
}
"""Settings by the name they had until version 0.1 → the name that they have."""

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""1e-3 is a number to everyone but YAML 1.1, which wants 1.0e-3 and reads a text otherwise."""


# ------------------------------------------------------------------------------------------ flat names


def leaves(kind: type) -> dict[str, tuple[tuple[str, ...], Any]]:
    """The settings of a dataclass by flat name: the groups on the way to it with its own name, and its type."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        inner = leaves(hint) if is_dataclass(hint) and isinstance(hint, type) else {}
        for name, (path, leaf) in inner.items():
            found[name] = ((field.name, *path), leaf)
        if not inner:
            found[field.name] = ((field.name,), hint)
    return found


def flat(settings: Any) -> dict[str, Any]:
    """Settings as a table from flat name to value; tuples become lists, objects a text that says what they are."""
    table = {}
    for name, (path, _) in leaves(type(settings)).items():
        value = settings
        for part in path:
            value = getattr(value, part)
        table[name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    return origin_of(value) or repr(value)


def changed(settings: Settings, **values: Any) -> Settings:
    """The settings with some others, by flat name; each group checks itself as when it is made.

    Raises:
        UsageError: a name that there is not, or a value that cannot be.
    """
    known = leaves(type(settings))
    for name in values:
        if name not in known:
            raise UsageError(f"no setting {name!r}{_meant(name, known)}")
    return _changed(settings, {known[name][0]: value for name, value in values.items()})


def _changed(settings: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    direct = {path[0]: value for path, value in values.items() if len(path) == 1}
    groups = {path[0] for path in values if len(path) > 1}
    for group in groups:
        inner = {path[1:]: value for path, value in values.items() if len(path) > 1 and path[0] == group}
        direct[group] = _changed(getattr(settings, group), inner)
    return replace(settings, **direct)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    if RENAMED.get(name) in known:
        return f"; it is called {RENAMED[name]} now"
    return meant(name, known)


# ------------------------------------------------------------------------------------------ old names


def renamed_flags(arguments: Sequence[str], kind: type, note: Callable[[str], None]) -> list[str]:
    """Command line arguments with the flags of ``RENAMED`` under the names that they have now.

    Args:
        arguments: after the command's name.
        kind: the command's settings; names that they do not have are left alone.
        note: told a line for each flag that was renamed.
    """
    known, result = leaves(kind), []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        no = "no-" if flag.startswith("--no-") else ""
        old = flag.removeprefix("--" + no).replace("-", "_") if flag.startswith("--") else ""
        new = RENAMED.get(old)
        if new in known and old not in known:
            now = f"--{no}{new.replace('_', '-')}"
            note(f"{flag} is called {now} now")
            argument = now + equals + value
        result.append(argument)
    return result


# ------------------------------------------------------------------------------------------ files


def read_settings(path: Path, base: Settings, used: bool = True) -> Settings:
    """The settings of a YAML or JSON file (or of a run's folder) over those of ``base``.

    That programs may be run is for the user to say, so that ``allow_code_execution`` is always that of ``base``.

    Args:
        path: the file or folder.
        base: what the file leaves open.
        used: whether what the settings name is going to be loaded, which code of the user's own needs consent for.

    Raises:
        UsageError: no such file, one that cannot be read, a name that there is not, a value of the wrong type, or
            code that nobody has consented to.
    """
    file = path / SETTINGS if exists(path) and path.is_dir() else path
    if not exists(file):
        raise UsageError(f"no file {name_of(file)} with settings")
    table = read_json(file, MOST_YAML) if file.suffix == ".json" else read_yaml(file)
    if table is None:
        return base
    if not isinstance(table, dict):
        kind = "a list" if isinstance(table, list) else shown(table)
        raise UsageError(f"{file} has to be a table of settings (name: value), got {kind}")
    if used:
        consent.check_read(table, file)
    values = _values(table, type(base), str(file))
    values.pop("allow_code_execution", None)
    try:
        return changed(base, **values)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def write_settings(path: Path, settings: Any) -> None:
    """Writes settings as a file that ``read_settings`` takes: JSON, or YAML where the name ends so."""
    table = flat(settings)
    yaml_file = path.suffix in (".yaml", ".yml")
    text = yaml.safe_dump(table, sort_keys=False) if yaml_file else json.dumps(table, indent=1) + "\n"
    write_atomically(path, text.encode())


def _values(table: Mapping[Any, Any], kind: type, file: str) -> dict[str, Any]:
    """Flat names to checked values."""
    known, values = leaves(kind), dict[str, Any]()
    for name, value in _entries(table, known, file):
        value = 0 if name == "block_length" and value == "full" else value
        if name in values:
            raise UsageError(f"{file}: {name} is given twice")
        values[name] = _typed(known[name][1], value, f"{file}: {name}")
    return values


def _entries(
    table: Mapping[Any, Any], known: Mapping[str, tuple[tuple[str, ...], Any]], file: str, group: str = ""
) -> list[tuple[str, Any]]:
    groups = {part for path, _ in known.values() for part in path[:-1]}
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = str(key).replace("-", "_")
        if name in groups and isinstance(value, dict):
            found += _entries(value, known, file, name)
            continue
        name = name if name in known else RENAMED.get(name, name)
        if name not in known or (group and group not in known[name][0]):
            where = f" in {group}" if group else ""
            raise UsageError(f"{file}: no setting {shown(key)}{where}{_meant(str(key), known)}")
        found.append((name, value))
    return found


def _typed(hint: Any, value: Any, where: str) -> Any:
    """A file's value as the type that a setting has.

    Raises:
        UsageError: it is of another type.
    """
    hint = getattr(hint, "__supertype__", hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        check_value(value, hint, where)
        return value
    if origin is tuple:
        return _tuple(parts, value, where)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in parts else _typed(parts[0], value, where)
    if hint is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if hint is float and isinstance(value, float):
        return value  # whether it may be so large, or no number, is told by the settings themselves
    check_value(value, str if hint is Path else hint, where)
    return hint(value) if hint in (float, Path) else value


def _tuple(parts: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    given = value if isinstance(value, (list, tuple)) else [value]
    if parts[-1] is Ellipsis:
        return tuple(_typed(parts[0], one, where) for one in given)
    if len(given) != len(parts):
        raise UsageError(f"{where} must be {len(parts)} values, got {shown(value)}")
    return tuple(_typed(part, one, where) for part, one in zip(parts, given, strict=True))

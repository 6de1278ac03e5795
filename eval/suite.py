"""Suites: YAML files that say what to evaluate.

    problems: 1000
    denoiser: [tiny, tiny-b]            # of these two, every one is evaluated on every task
    policies:
      - top_k:1
      - threshold: {threshold: [0.5, 0.7, 0.9]}
      - klass: {tau: [0.5, 0.6], kappa: [0.01, 0.015]}      # all four combinations
      - runs/x
    evaluations:                        # each has the settings above, and its own
      - {task: trace, block_length: [full, 8]}
      - {task: sudoku, block_length: [full, 4]}

Settings are those of ``dllm-env eval`` with underscores; what the file leaves open is as the command line says, so
that the same suite serves another denoiser. Folders of policies are relative to where one runs it.

Data that are given for the whole suite are for each task that takes data; one that has problems of its own plays
these where the data are a folder of other benchmarks. Data that nothing takes are refused.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from dllm_env import consent
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig
from dllm_env.reading import LARGEST_FLOAT, read_yaml, shown
from dllm_env.specs import split, write_value
from dllm_env.tasks.benchmark_base import plays_its_own
from dllm_env.tasks.benchmarks import BENCHMARKS
from dllm_env.tasks.load import NAMES, load_task, takes_data

Plan = tuple[EvaluationConfig, tuple[str, ...]]
"""What to evaluate, and which policies."""

SWEPT = ("task", "denoiser")
MOST_PLANS, MOST_POLICIES = 1000, 10_000
"""Evaluations of a suite, and policies of each of them."""
_KINDS = {field.name: type(field.default) for field in fields(EvaluationConfig)}


def load_suite(file: Path, base: EvaluationConfig | None = None, more: Sequence[str] = ()) -> list[Plan]:
    """The evaluations that a file asks for.

    Args:
        file: the suite.
        base: values of everything that the file leaves open.
        more: policies to play in each evaluation, besides the file's.

    Raises:
        UsageError: no such file, no YAML, or something in it that cannot be understood.
    """
    try:
        suite = read_yaml(file)
    except UsageError as error:
        raise UsageError(str(error).replace("cannot read", "cannot read the suite", 1)) from None
    if not isinstance(suite, Mapping):
        raise UsageError(f"{file} has to hold settings, name: value")
    consent.check_read(suite, file)
    try:
        plans = _plans(suite, base or EvaluationConfig())
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    consent.check_read([policies for _, policies in plans], file)  # as they are put together of names and values
    return [(config, tuple(dict.fromkeys((*policies, *more)))) for config, policies in plans]


def _plans(suite: Mapping[str, Any], base: EvaluationConfig) -> list[Plan]:
    common = {name: value for name, value in suite.items() if name != "evaluations"}
    parts = suite.get("evaluations", [{}])
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise UsageError("evaluations has to be a list of settings")
    plans: list[Plan] = []
    for part in parts:
        given = {**common, **part}
        policies = _policies(given.pop("policies", None))
        swept = [_listed(given.pop(name, getattr(base, name))) for name in SWEPT]
        for values in product(*swept):
            config = _config({**given, **dict(zip(SWEPT, values, strict=True))}, base, "data" not in part)
            plans.append((config, policies))
            if len(plans) > MOST_PLANS:
                raise UsageError(f"these are more than {MOST_PLANS:,} evaluations; make several suites of them")
    for data in (base.data, common.get("data")):
        if data and not any(config.data == data for config, _ in plans):
            raise UsageError(f"nothing here takes the data {data!r}")
    return plans


def _of_shared_data(task: str, data: str) -> str:
    """Of data that are for a whole suite, those for one task."""
    if not data or not takes_data(task):
        return ""
    kind = BENCHMARKS.get(split(task, NAMES)[0])
    if kind and plays_its_own(kind, data):
        print(f"{task}: {data} has none of its problems, so these are the built-in ones", file=sys.stderr)
        return ""
    return data


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _config(given: Mapping[str, Any], base: EvaluationConfig, shares_data: bool) -> EvaluationConfig:
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _KINDS:
            known = ", ".join(("policies", "evaluations", *_KINDS))
            raise UsageError(f"unknown setting {shown(name)}; there are {known}")
        if name == "block_length":
            continue
        if name == "allow_code_execution":
            raise UsageError("a file cannot allow code to be run; give --allow-code-execution beside --suite")
        kind = _KINDS[name]
        if kind is tuple:  # of rewards and their weights
            values[name] = tuple(_listed(value))
            continue
        if kind is float and type(value) is int and abs(value) <= LARGEST_FLOAT:
            value = float(value)
        if type(value) is not kind:
            raise UsageError(f"{name} has to be of the kind {kind.__name__}, got {shown(value)}")
        values[name] = value
    config = replace(base, **values)
    if shares_data:
        config = replace(config, data=_of_shared_data(str(config.task), config.data))
    length = config.response_length
    if not length:
        length = load_task(config.task, config.data, config.allow_code_execution).response_length
    listed = _listed(given.get("block_length", list(base.block_length) or "full"))
    blocks = [length if block == "full" else block for block in listed]
    for block in blocks:
        if type(block) is not int:
            raise UsageError(f"block_length has to be full or a number, got {shown(block)}")
    return replace(config, block_length=tuple(blocks))


def _policies(listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list) or not listed:
        raise UsageError("policies has to be a list with at least one policy")
    texts: list[str] = []
    for policy in listed:
        if isinstance(policy, str):
            texts.append(policy)
        elif isinstance(policy, Mapping) and len(policy) == 1:
            ((name, grid),) = policy.items()
            texts += _grid(name, grid)
        else:
            raise UsageError(f"cannot read the policy {shown(policy)}; write name, or name: {{parameter: values}}")
        if len(texts) > MOST_POLICIES:
            raise UsageError(f"policies are more than {MOST_POLICIES:,}; leave some values away")
    return tuple(texts)


def _grid(name: str, grid: Any) -> list[str]:
    """``name:parameter=value,…`` for every combination."""
    if not isinstance(grid, Mapping) or not grid:
        raise UsageError(f"{shown(name)[1:-1]} needs {{parameter: value or list of values}}, got {shown(grid)}")
    values = [_listed(values) for values in grid.values()]
    for one in (name, *grid, *(value for some in values for value in some)):
        if isinstance(one, (list, dict)) or one is None:
            raise UsageError(f"{name}: cannot read {shown(one)}; write {{parameter: value or list of values}}")
    if math.prod(map(len, values)) > MOST_POLICIES:
        raise UsageError(f"{name} stands for more than {MOST_POLICIES:,} policies; leave some values away")
    combinations = product(*values)
    return [
        f"{name}:" + ",".join(f"{k}={write_value(v)}" for k, v in zip(grid, values, strict=True))
        for values in combinations
    ]

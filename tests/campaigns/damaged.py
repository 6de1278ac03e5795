"""Ways to damage files and arguments, drawn from a seed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join('*' + before for _ in range(10))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion of the same."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 10**12, 10**400, -0.0, 0.5, 1e30, -1e30, 1e-30),
    *(float("nan"), float("inf"), "", "x", "nan", "1", "é", "😀", "\ud800", "a" * 100_000, "../x", "a\nb", "\x00"),
    *([], {}, [[]], [None], {"a": 1}, [1] * 1000, {"": ""}),
)
WORDS = (
    *("", "nan", "inf", "-inf", "-1", "0", "1e30", "1e-30", "9" * 5000, "99999999999999", "True", "none", "é"),
    *(
        "😀",
        "a" * 5000,
        "a:" * 3000,
        "/proc/x",
        "/dev/null",
        "../../x",
        "trace:chains=1e3",
        "x.py:X((((",
        "my.py:X",
    ),
    *(
        "[1, 2",
        "{",
        "top_k:k=9999999999999999999",
        "factor:f=inf",
        "bernoulli:temperature=1e30",
        "gsm8k+",
        "+",
        ":",
    ),
    *(
        ":",
        "my.py:X",
        "a=b=c",
        "\x00",
        "local_leap:radius=999999999",
        "dilated:base=99999999999999999999",
        "-",
        "--",
        "''",
        "'",
    ),
)
FLAGS = (
    *("--nosuch", "--temperature", "--seeds", "--samples", "--batch-size", "--clip-range", "--alpha", "--betas"),
    *("--problems", "--reward", "--baseline", "--top", "--response-length", "--max-steps", "--warmup", "--gamma"),
)


def damage_file(rng: random.Random, path: Path) -> str:
    """Damages a file in one way or several; returns which."""
    if path.suffix == ".safetensors":
        ways = (*TENSORS, *BYTES[:6])
    elif path.suffix in (".json", ".jsonl"):
        ways = (*STRUCTURE * 4, *BYTES)
    elif path.suffix in (".yaml", ".yml"):
        ways = (*YAML * 4, *BYTES)
    else:
        ways = BYTES
    if path.name == "tokenizer_config.json":
        ways = (*ways, *[odd_template] * 8)
    way = rng.choice(ways)
    way(rng, path)
    return way.__name__


def damage_arguments(rng: random.Random, arguments: list[str]) -> list[str]:
    """Changes arguments in one to three places."""
    found = list(arguments)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(found) + 1)
        way = rng.choice(("replace", "replace", "insert", "remove", "twice", "swap", "flag", "letters"))
        here = place < len(found)
        if way == "replace" and here:
            found[place] = rng.choice(WORDS)
        elif way == "insert":
            found.insert(place, rng.choice(WORDS))
        elif way == "remove" and here:
            del found[place]
        elif way == "twice" and here:
            found.insert(place, found[place])
        elif way == "swap" and len(found) > 1:
            a, b = rng.sample(range(len(found)), 2)
            found[a], found[b] = found[b], found[a]
        elif way == "flag":
            found[place:place] = [rng.choice(FLAGS), rng.choice(WORDS)]
        elif way == "letters" and here and found[place]:
            at = rng.randrange(len(found[place]))
            found[place] = found[place][:at] + rng.choice("=:,+.'\"([{é\x01 9") + found[place][at + 1 :]
    return found


# ------------------------------------------------------------------------------------------------- bytes


def truncate(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(max(len(data), 1))])


def flip_bit(rng: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes() or b" ")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def empty(rng: random.Random, path: Path) -> None:
    path.write_bytes(b"")


def folder_instead(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def missing(rng: random.Random, path: Path) -> None:
    path.unlink()


def noise(rng: random.Random, path: Path) -> None:
    path.write_bytes(rng.randbytes(rng.randrange(1, 5000)))


def pipe_instead(rng: random.Random, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def circle_instead(rng: random.Random, path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def put_bytes(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    at = rng.randrange(len(data) + 1)
    more = rng.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"\n\n", b"}", b"]", b'"', b"\\ud800", b"\r"))
    path.write_bytes(data[:at] + more + data[at:])


def byte_order_mark(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    text = data.decode("utf-8", "replace")
    path.write_bytes(rng.choice((b"\xef\xbb\xbf" + data, text.encode("utf-16"), text.encode("utf-32"))))


def deep(rng: random.Random, path: Path) -> None:
    depth = rng.choice((100, 990, 5000, 200_000))
    path.write_text(rng.choice(("[", '{"a":')) * depth + rng.choice(("", "]" * depth)) + "\n")


def long_number(rng: random.Random, path: Path) -> None:
    path.write_text(rng.choice(("9" * 100_000, '{"a": ' + "9" * 100_000 + "}", "1e999", "-" * 1000)) + "\n")


def constants(rng: random.Random, path: Path) -> None:
    path.write_text(rng.choice(("NaN", "[Infinity]", '{"a": -Infinity}', "null", "5", '"text"', "[]", "{}")) + "\n")


def twice(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


BYTES: tuple[Callable[[random.Random, Path], None], ...] = (
    *(truncate, flip_bit, empty, folder_instead, missing, noise),
    *(pipe_instead, circle_instead, put_bytes, byte_order_mark, deep, long_number, constants, twice),
)


# --------------------------------------------------------------------------------------------- structure


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Everything within lists and tables, as (where it is in, its name or number)."""
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        found.append((value, name))
        _places(value[name], found)
    return found


def _changed(rng: random.Random, value: Any) -> Any:
    """A value with one thing in it replaced, removed, added or renamed."""
    places = _places(value, [])
    if not places:
        return rng.choice(VALUES)
    inside, name = rng.choice(places)
    way = rng.choice(("replace", "replace", "replace", "remove", "add", "rename", "wrap"))
    if way == "replace":
        inside[name] = rng.choice(VALUES)
    elif way == "remove":
        del inside[name]
    elif way == "wrap":
        inside[name] = rng.choice(([inside[name]], {"a": inside[name]}, str(inside[name])))
    elif isinstance(inside, dict):
        inside[rng.choice(("nosuch", "", "é", "a" * 5000))] = inside.pop(name) if way == "rename" else 1
    else:
        inside.insert(name, rng.choice(VALUES))
    return value


def change_json(rng: random.Random, path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".jsonl":
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(_changed(rng, json.loads(lines[at])))
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(_changed(rng, json.loads(text))))


def repeat_name(rng: random.Random, path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("{", '{"a": 1, "a": 2, ', 1))


def change_yaml(rng: random.Random, path: Path) -> None:
    changed = _changed(rng, yaml.safe_load(path.read_text()))
    with contextlib.suppress(yaml.YAMLError, UnicodeEncodeError):
        path.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8")


def odd_yaml(rng: random.Random, path: Path) -> None:
    text = path.read_text()
    more = rng.choice(
        (
            *(
                LAUGHS,
                "a: &a [*a]\n",
                "? [a, b]\n: c\n",
                "problems: 1000000000\n",
                "a: !!python/object:os.system x\n",
            ),
            *("a: !!int ''\n", "a: !!float x\n", "a: 2001-99-99\n", "<<: 3\n", "seed: 1\nseed: 2\n", "---\n---\n"),
            *("seed: 1:2:3:4:5:6\n", f"seed: {'1:' * 50_000}1\n", "%YAML 9.9\n", "\ta: b\n", "betas: []\n"),
            *(
                "temperature: .nan\n",
                "alpha: .inf\n",
                "clip_range: 1e30\n",
                "- a\n",
                "a: !!binary ====\n",
                "task: " + "x" * 900_000,
            ),
        )
    )
    path.write_text(rng.choice((more, text + more, more + text)))


def odd_template(rng: random.Random, path: Path) -> None:
    """A chat template that is broken, raises, or would take for ever or all memory."""
    template = rng.choice(
        (
            "{% for i in range(10**12) %}x{% endfor %}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ 'x' * 10**11 }}",
            "{% set x = namespace(v='x') %}{% for i in range(60) %}{% set x.v = x.v ~ x.v %}{% endfor %}",
            *("{{ raise_exception('no\nno') }}", "{{ 1 / 0 }}", "{% if %}", "{{", "{{ messages[99].content }}", ""),
            *("{{ messages.__class__.__mro__ }}", "{% include 'x' %}", "{{ messages|tojson * 100 }}"),
        )
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


STRUCTURE = (change_json, change_json, change_json, repeat_name)
YAML = (change_yaml, change_yaml, odd_yaml)


# ----------------------------------------------------------------------------------------------- tensors


def change_tensor(rng: random.Random, path: Path) -> None:
    """NaN, infinity, another type or shape, one more, one less; with the texts beside them, or without."""
    state = load_file(path)
    name = rng.choice(sorted(state))
    value = state[name]
    ways: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: value * float("nan"),
        lambda: value / 0,
        lambda: value.double(),
        lambda: value.bfloat16(),
        lambda: value.long(),
        lambda: value.bool(),
        lambda: value.flatten()[:1],
        lambda: value[None],
        lambda: torch.zeros(0),
    )
    way = rng.randrange(len(ways) + 3)
    if way < len(ways):
        state[name] = ways[way]().contiguous()
    elif way == len(ways):
        del state[name]
    elif way == len(ways) + 1:
        state[rng.choice(("nosuch", "optimizer.999.step", "optimizer.0.nosuch", "network.x", "."))] = value.clone()
    else:
        other = rng.choice(sorted(state))
        state[name], state[other] = state[other], value
    save_file(
        {key: one.clone() for key, one in state.items()},
        path,
        metadata=_texts(path) if rng.random() < 0.7 else None,
    )


def change_texts(rng: random.Random, path: Path) -> None:
    """The texts beside the tensors, which a checkpoint has."""
    state, texts = load_file(path), _texts(path) or {"info": "{}"}
    name = rng.choice(sorted(texts))
    with contextlib.suppress(ValueError):
        texts[name] = json.dumps(_changed(rng, json.loads(texts[name])))
    if rng.random() < 0.5:
        texts.pop("sha256", None)
    with contextlib.suppress(UnicodeEncodeError, SafetensorError):
        save_file(state, path, metadata=texts)


def odd_header(rng: random.Random, path: Path) -> None:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    other = rng.choice((0, 1, size + 1, 2**31, 2**63, 2**64 - 1))
    path.write_bytes(struct.pack("<Q", other) + data[8:])


def odd_names(rng: random.Random, path: Path) -> None:
    """Changes a letter of the header, which is JSON, so that it stays one or not."""
    data = bytearray(path.read_bytes())
    size = struct.unpack("<Q", bytes(data[:8]))[0]
    data[8 + rng.randrange(max(size, 1))] = rng.choice(b'0123456789"[]{},:xF')
    path.write_bytes(bytes(data))


def _texts(path: Path) -> dict[str, str] | None:
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]).get("__metadata__")


TENSORS = (change_tensor, change_tensor, change_tensor, change_texts, odd_header, odd_names)

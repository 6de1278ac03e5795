"""The grammar of names with settings, wherever one is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli, PlackettLuce, load_head
from dllm_env.policies.learned import load_policy
from dllm_env.policies.registry import load_heuristic
from dllm_env.specs import check_types, literal, pieces, read_settings, read_value, several, split, write_value
from dllm_env.tasks.load import load_task

KNOWN = ("threshold", "trace", "tiny")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("threshold", ("threshold", "")),
        ("threshold:0.9", ("threshold", "0.9")),
        ("trace:chains=4", ("trace", "chains=4")),
        ("tiny:device=cuda:1", ("tiny", "device=cuda:1")),
        ("owner/name:dtype=bfloat16,device=cuda:1", ("owner/name", "dtype=bfloat16,device=cuda:1")),
        ("owner/name", ("owner/name", "")),
        (r"C:\runs\x", (r"C:\runs\x", "")),
        (r"C:\runs\x:temperature=0.5", (r"C:\runs\x", "temperature=0.5")),
        ("runs/not-there:12:30", ("runs/not-there:12:30", "")),
        ("", ("", "")),
        ("x" * 5_000 + ":a=1", ("x" * 5_000, "a=1")),
        ("a\0b:a=1", ("a\0b", "a=1")),
    ],
)
def test_names_and_settings_are_told_apart(text: str, parts: tuple[str, str]) -> None:
    assert split(text, KNOWN) == parts


@pytest.mark.parametrize("name", ["10:30:00", "x,y=1", "a+b", "C:", "temperature=1", "trace:chains=3"])
def test_what_exists_as_a_path_is_one(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.mkdir()
    assert split(str(place), KNOWN) == (str(place), "")
    assert split(f"{place}:temperature=0.5,greedy=1", KNOWN) == (str(place), "temperature=0.5,greedy=1")
    assert split(f"{place}:0.5", KNOWN) == (str(place), "0.5")
    assert read_settings(f"data={place},shots=1") == {"data": str(place), "shots": "1"}
    assert several(f"gsm8k:data={place}+trace", ("gsm8k", "trace")) == [f"gsm8k:data={place}", "trace"]


def test_a_known_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "threshold").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_policy("threshold:0.8").name == "threshold:0.8"
    assert split("./threshold:greedy=1", KNOWN) == ("./threshold", "greedy=1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("2", {"": "2"}),
        ("2,a=1", {"": "2", "a": "1"}),
        (" a = 1 , b = x y ", {"a": "1", "b": "x y"}),
        ("data='a,b.json',k=2", {"data": "a,b.json", "k": "2"}),
        ('x="1+2"', {"x": "1+2"}),
        ("x=[1,2],y=(3,4)", {"x": "[1,2]", "y": "(3,4)"}),
        ("url=http://a:80/?q=1", {"url": "http://a:80/?q=1"}),
    ],
)
def test_settings(text: str, found: dict[str, str]) -> None:
    assert read_settings(text) == found


@pytest.mark.parametrize("text", ["a=1,2", "=1", "a=1,a=2", "a b=1", ",", "a=1,,b=2", "a='1", "a=[1", "a=1,"])
def test_settings_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        read_settings(text)


def test_quotes_and_brackets_hold_a_text_together() -> None:
    assert pieces("a,(b,c),'d,e',\"f,'g\"") == ["a", "(b,c)", "'d,e'", '"f,\'g"']
    assert pieces("a+b", "+") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        *((word, bool, True) for word in ("true", "True", "1", "yes", "on")),
        *((word, bool, False) for word in ("false", "0", "no", "off")),
        ("2", int, 2),
        ("-3", int, -3),
        ("2", float, 2.0),
        ("1e-3", float, 0.001),
        ("b", Literal["a", "b"], "b"),
        ("none", bool | None, None),
        ("1", bool | None, True),
        ("5", int | str, 5),
        ("x", int | str, "x"),
        ("2", Any, 2),
        ("2.5", Any, 2.5),
        ("true", Any, True),
        ("[1, 2]", Any, [1, 2]),
        ("word", Any, "word"),
    ],
)
def test_values_are_what_they_are_declared_to_be(text: str, kind: Any, value: Any) -> None:
    found = read_value(text, kind, "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("5", bool, "true or false"),
        ("maybe", bool | None, "true or false or none"),
        ("2.0", int, "a whole number"),
        ("", int, "a whole number"),
        ("x", float, "a number"),
        ("c", Literal["a", "b"], "a or b"),
    ],
)
def test_values_of_another_kind_are_refused(text: str, kind: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"x must be {wanted}, got '{text}'"):
        read_value(text, kind, "x")


@pytest.mark.parametrize("value", [True, False, 2, 0.1, 1e-7, 1 / 3, 123456789.123, "word", "a,b", "a+b"])
def test_values_are_written_as_they_are_read(value: Any) -> None:
    read = read_settings(f"x={write_value(value)}")["x"]
    assert read_value(read, type(value), "x") == value


def test_literals() -> None:
    assert [literal(text) for text in ("1", "1.5", "True", "(1, 2)", "a", "import os")] == [
        *(1, 1.5, True, (1, 2), "a", "import os")
    ]


# ------------------------------------------------------------------ the same grammar wherever something is named

LOADERS: list[tuple[Callable[[str], Any], str, str]] = [
    (load_heuristic, "top_k:2", "top_k:k=2"),
    (load_head, "plackett_luce:2", "plackett_luce:k=2"),
    (load_task, "trace:4", "trace:chains=4"),
    (load_head, "bernoulli:0.5", "bernoulli:temperature=0.5"),
]


@pytest.mark.parametrize(("load", "short", "long"), LOADERS)
def test_a_value_without_a_name_is_the_first_setting(load: Callable[[str], Any], short: str, long: str) -> None:
    assert load(short) == load(long)


def test_switches_are_said_in_words_or_digits() -> None:
    for word in ("true", "1", "yes", "on"):
        assert load_head(f"bernoulli:force_progress={word}") == Bernoulli(force_progress=True)
    assert load_head("bernoulli:force_progress=false,temperature=0.5") == Bernoulli(0.5)
    assert load_head("plackett_luce:3") == PlackettLuce(3)


@pytest.mark.parametrize(
    ("load", "text", "words"),
    [
        (load_head, "bernoulli:force_progress=5", "force_progress must be true or false, got '5'"),
        (load_head, "plackett_luce:k=2.5", "whole number"),
        (load_head, "plackett_luce:2,k=3", "given twice"),
        (load_head, "bernoulli:heat=1", "no setting 'heat'"),
        (load_head, "bernouli", "unknown head 'bernouli'"),
        (load_heuristic, "top_k:many", "whole number"),
        (load_heuristic, "first_hitting:3", "has no settings"),
        (load_heuristic, "threshold:0.9,0.8", "cannot read the setting '0.8'"),
        (load_task, "trace:links=4", "no setting 'links'"),
        (load_task, "trace:four", "whole number"),
        (load_task, "trce", "unknown task 'trce'"),
        (load_task, "trace+trce", "unknown"),
        (load_task, "nowhere.py:Mine", "no file 'nowhere.py'"),
        (load_head, "nowhere.py:Mine", "no file 'nowhere.py'"),
        (load_denoiser, "nowhere.py:Mine(a=1)", "no file 'nowhere.py'"),
        (load_denoiser, "tiny:dtype=float32", "no setting 'dtype'"),
        (load_denoiser, "tiny:device=nonsense:1", "no device 'nonsense:1'"),
        (load_denoiser, "tinny", "unknown denoiser 'tinny'"),
    ],
)
def test_what_cannot_be_named_is_refused_in_one_line(load: Callable[[str], Any], text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refused:
        load(text)
    assert "\n" not in str(refused.value)


def test_a_denoiser_s_device_is_a_setting() -> None:
    denoiser = load_denoiser("tiny:device=cpu")
    assert denoiser.name == "tiny:device=cpu"
    assert denoiser.device.type == "cpu"


def test_plus_signs_within_paths_and_values_separate_nothing() -> None:
    known = ("trace", "gsm8k")
    assert several("trace+gsm8k", known) == ["trace", "gsm8k"]
    assert several("gsm8k:data='a+trace.json'+trace", known) == ["gsm8k:data='a+trace.json'", "trace"]
    assert several("trace:x=1e+5+gsm8k", known) == ["trace:x=1e+5", "gsm8k"]
    assert several("a+b", known) == ["a+b"]


def test_kinds_of_fields_are_checked() -> None:
    from dllm_env.rules import Rules

    check_types(Rules(4, 4))
    with pytest.raises(UsageError, match=r"block_length must be a whole number, got 2\.5"):
        Rules(4, 2.5)  # type: ignore[arg-type]

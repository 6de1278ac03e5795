"""Folders and files that try to run code which nobody has consented to, and how a command takes them.

Each case makes its files in a folder of its own and gives the words of a command line that reads them. None of
these words consents to anything. Whatever code is there writes the file ``ran``; a "y" to every question waits on
the standard input.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from make_checkpoint import make_a2d, make_bert, make_dream, make_llada
from safetensors.torch import load_file, save_file

from dllm_env.cli import main
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, make_network
from dllm_env.random import torch_generator
from dllm_env.train.dcolt import DCoLT
from dllm_env.train.grpo import GRPO
from dllm_env.train.ppo import PPO
from dllm_env.train.run import CHECKPOINT
from dllm_env.train.settings_file import flat

RAN = "ran"

Words = list[str]
Make = Callable[[Path], Words]


@dataclass(frozen=True)
class Case:
    """One attempt.

    Attributes:
        name: what tries to run.
        make: writes the files and returns the words of the command.
        refused: whether the command has to refuse; else it may go on, as long as nothing runs.
        slow: whether a checkpoint in Hugging Face's format is loaded.
    """

    name: str
    make: Make
    refused: bool = True
    slow: bool = False


@dataclass(frozen=True)
class Taken:
    """How a command took it: exit status, lines of ``dllm-env`` on the standard error, all of it, and whether the
    code has run."""

    status: int
    lines: list[str]
    error: str
    ran: bool

    def fault(self, refused: bool) -> str:
        """What is wrong with that; empty where nothing is."""
        if self.ran:
            return "the code has run"
        if "Traceback" in self.error:
            return f"a traceback: {self.error[-300:]}"
        if refused and (self.status != 2 or len(self.lines) != 1):
            return f"exit status {self.status}, {len(self.lines)} lines: {self.error[-300:]}"
        return ""


def attempt(case: Case, folder: Path) -> Taken:
    """Makes a case in the folder, which becomes the working directory, and runs its command."""
    folder.mkdir(parents=True)
    before, error = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "stdin", io.StringIO("y\n" * 50)),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(error),
        ):
            status = main(case.make(folder))
    finally:
        os.chdir(before)
    lines = [line for line in error.getvalue().splitlines() if line.startswith("dllm-env:")]
    return Taken(status, lines, error.getvalue(), any(folder.rglob(RAN)))


# ------------------------------------------------------------------------------------------ what they are made of


def evil(folder: Path, name: str = "evil.py") -> str:
    """A Python file that writes ``ran`` when it is loaded; the path as the command may name it."""
    code = f"from pathlib import Path\nPath({str(folder / RAN)!r}).write_text('ran')\nclass Evil:\n    pass\n"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(code, encoding="utf-8")
    return name


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def pickled(folder: Path) -> bytes:
    """A pickle that writes ``ran`` when it is loaded."""
    return pickle.dumps({"weight": _Payload(folder / RAN)})


@functools.cache
def small_policy() -> LearnedPolicy:
    network = make_network("confidence", NetworkConfig(width=8, heads=2), torch_generator(1))
    return LearnedPolicy(network, load_head("bernoulli"), training={"task": "trace", "denoiser": "tiny"})


def policy(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "runs/x") -> str:
    """A learned policy whose ``policy.json`` was changed."""
    made = small_policy().save_pretrained(folder / name)
    about = json.loads((made / "policy.json").read_text())
    change(about)
    (made / "policy.json").write_text(json.dumps(about))
    return name


def write(folder: Path, name: str, table: Any) -> str:
    """A YAML or JSON file."""
    text = json.dumps(table) if name.endswith("json") else yaml.safe_dump(table)
    (folder / name).write_text(text, encoding="utf-8")
    return name


EVAL = ["eval", "--problems", "2", "--out", "results"]
TRAIN = ["--updates", "1", "--imitation-steps", "0", "--validation-problems", "2", "--validation-rules"]

# ------------------------------------------------------------------------------------------ settings and suites

CODE = "evil.py:Evil"
NAMED: dict[str, Any] = {
    "task": CODE,
    "task in a mixture": f"trace+{CODE}",
    "denoiser": CODE,
    "denoiser of an absolute path": "{folder}/evil.py:Evil",
    "denoiser that asks for trust": "checkpoint:trust_remote_code=1",
    "denoiser that asks for trust in other words": "checkpoint:dtype=float32,trust_remote_code=Yes",
    "reward": [CODE],
    "head": f"{CODE}(k=1)",
    "network": CODE,
    "expert": CODE,
    "validation_rules": [CODE],
}
"""Settings, by the name that their text begins with, and values that would run something."""


def _value(name: str, folder: Path) -> tuple[str, Any]:
    """The setting's name and value."""
    evil(folder)
    value = NAMED[name]
    return name.split()[0], value.format(folder=folder) if isinstance(value, str) else value


def config_case(kind: str, file: str, name: str) -> Case:
    def make(folder: Path) -> Words:
        setting, value = _value(name, folder)
        if "trust" in name:
            remote_checkpoint(folder)
        written = write(folder, file, {setting: value, "updates": 1})
        return ["train", kind, "--config", written, "--out", "run"]

    return Case(f"train {kind} --config {file}: {name}", make)


def resume_case(kind: str, name: str) -> Case:
    def make(folder: Path) -> Words:
        setting, value = _value(name, folder)
        if "trust" in name:
            remote_checkpoint(folder)
        (folder / "run").mkdir()
        settings = flat({"grpo": GRPO, "ppo": PPO, "dcolt": DCoLT}[kind]())
        write(folder, "run/settings.json", settings | {setting: value, "allow_code_execution": True})
        (folder / "run" / CHECKPOINT).write_bytes(pickled(folder))
        return ["train", kind, "--resume", "--out", "run"]

    return Case(f"train {kind} --resume: {name}", make)


def suite_case(name: str, suite: Callable[[Path], Any]) -> Case:
    def make(folder: Path) -> Words:
        evil(folder)
        return [
            *EVAL,
            "--suite",
            write(folder, "suite.yaml", {"problems": 2, "policies": ["top_k:4"]} | suite(folder)),
        ]

    return Case(f"suite: {name}", make)


def _head_of(folder: Path) -> str:
    return policy(folder, lambda about: None)


SUITES: dict[str, Callable[[Path], Any]] = {
    "policy": lambda folder: {"policies": [CODE]},
    "policy with arguments": lambda folder: {"policies": [f"{CODE}(k=2)"]},
    "policy of an absolute path": lambda folder: {"policies": [f"{folder}/{CODE}"]},
    "policy put together of a grid": lambda folder: {"policies": [{"evil.py": {"Evil": [1]}}, "evil.py:Evil"]},
    "head of a policy": lambda folder: {"policies": [f"{_head_of(folder)}:head={CODE}"]},
    "quoted head of a policy": lambda folder: {"policies": [f"{_head_of(folder)}:head='{CODE}'"]},
    "head of a policy in a grid": lambda folder: {"policies": [{_head_of(folder): {"head": [CODE]}}]},
    "network of a policy in a grid": lambda folder: {"policies": [{_head_of(folder): {"network": CODE}}]},
    "task": lambda folder: {"task": CODE},
    "one of several tasks": lambda folder: {"task": ["trace", CODE]},
    "mixture of tasks": lambda folder: {"task": f"trace+{CODE}"},
    "denoiser": lambda folder: {"denoiser": CODE},
    "denoiser of one evaluation": lambda folder: {"evaluations": [{"task": "trace"}, {"denoiser": ["tiny", CODE]}]},
    "reward": lambda folder: {"reward": CODE},
    "rewards": lambda folder: {"reward": ["additive", CODE]},
    "trust": lambda folder: {"denoiser": f"{remote_checkpoint(folder)}:trust_remote_code=1"},
    "trust in capitals": lambda folder: {"denoiser": f"{remote_checkpoint(folder)}:trust_remote_code=TRUE"},
    "compiled code of the Hub": lambda folder: {"denoiser": f"{remote_checkpoint(folder)}:attention=evil/kernel"},
    "no trust, and code": lambda folder: {"denoiser": remote_checkpoint(folder)},
    "programs": lambda folder: {"task": "humaneval", "allow_code_execution": True},
    "Python's own module": lambda folder: {
        "denoiser": f"{os.__file__.replace('os.py', 'subprocess.py')}:Popen(args=['touch', '{folder / RAN}'])"
    },
    "policy of Python's own module": lambda folder: {
        "policies": [f"{os.__file__.replace('os.py', 'subprocess.py')}:Popen(args=['touch', '{folder / RAN}'])"]
    },
}


def text_case(name: str, file: str, text: str, words: Words) -> Case:
    def make(folder: Path) -> Words:
        (folder / file).write_text(text.format(marker=folder / RAN), encoding="utf-8")
        return [*words, file]

    return Case(name, make)


TAG = "policies: [top_k:4]\ntask: !!python/object/apply:os.system ['touch {marker}']\n"

# ------------------------------------------------------------------------------------------ policies


def _set(part: str, value: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(folder: Path, about: dict[str, Any]) -> None:
        about[part]["kind"] = value if isinstance(value, str) else value(folder)

    return change


def _popen(folder: Path, about: dict[str, Any]) -> None:
    about["head"] = {"kind": f"{os.__file__.replace('os.py', 'subprocess.py')}:Popen"}
    about["head"] |= {"args": ["touch", str(folder / RAN)]}


POLICIES: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "head": _set("head", CODE),
    "head beside it": _set("head", "runs/x/evil.py:Evil"),
    "head of an absolute path": _set("head", lambda folder: f"{folder}/evil.py:Evil"),
    "network": _set("network", CODE),
    "network with arguments": _set("network", f"{CODE}(layers=2)"),
    "head of Python's own module": _popen,
}
COMMANDS: dict[str, Words] = {
    "eval": [*EVAL, "--policies"],
    "generate": ["generate", "--no-animate", "--policy"],
    "push": ["push"],
}


def policy_case(name: str, command: str) -> Case:
    def make(folder: Path) -> Words:
        evil(folder)
        evil(folder, "runs/x/evil.py")
        place = policy(folder, lambda about: POLICIES[name](folder, about))
        return [*COMMANDS[command], place, *(["owner/name", "--dry-run", "dry"] if command == "push" else [])]

    return Case(f"{command} with policy.json: {name}", make)


ADAPTERS: dict[str, Callable[[Path], str]] = {
    "a class in a file": lambda folder: CODE,
    "a class in a file of an absolute path": lambda folder: f"{folder}/{CODE}",
    "a checkpoint with trust": lambda folder: f"{remote_checkpoint(folder)}:trust_remote_code=1",
    "itself": lambda folder: str(folder / "run"),
}


def adapter_case(name: str) -> Case:
    """An adapter says what it is of."""

    def make(folder: Path) -> Words:
        evil(folder)
        (folder / "run").mkdir()
        about = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
        write(folder, "run/adapter_config.json", about | {"base_model_name_or_path": ADAPTERS[name](folder)})
        (folder / "run" / "adapter_model.safetensors").write_bytes(pickled(folder))
        return [*EVAL, "--denoiser", str(folder / "run"), "--policies", "top_k:4"]

    return Case(f"adapter of {name}", make)


def _worker_case() -> Case:
    def make(folder: Path) -> Words:
        evil(folder)
        return [
            *EVAL,
            "--workers",
            "2",
            "--policies",
            policy(folder, lambda about: _set("head", CODE)(folder, about)),
        ]

    return Case("eval --workers 2 with policy.json: head", make)


def _trained_on_case() -> Case:
    """The card of a policy says the task that it was trained on, and may not load it to know more."""

    def make(folder: Path) -> Words:
        evil(folder)
        place = policy(folder, lambda about: about["training"].update(task=CODE, denoiser=CODE))
        return ["push", place, "owner/name", "--dry-run", "dry"]

    return Case("push of a policy that was trained on a task in a file", make, refused=False)


def _pickle_case(name: str, file: str, words: Words) -> Case:
    def make(folder: Path) -> Words:
        policy(folder, lambda about: None)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(pickled(folder))
        if file.startswith("tiny"):
            write(folder, "tiny/config.json", {})
        return words

    return Case(name, make)


# ------------------------------------------------------------------------------------------ checkpoints


@functools.cache
def _made(kind: str, root: str) -> Path:
    make = {"llada": make_llada, "a2d": make_a2d, "bert": make_bert, "dream": make_dream}[kind]
    return make(Path(root) / kind)


_root: list[str] = []


@contextlib.contextmanager
def checkpoints_in(folder: Path) -> Iterator[None]:
    """Lets small checkpoints be made in this folder, once."""
    _root.append(str(folder))
    try:
        yield
    finally:
        _root.pop()


def remote_checkpoint(folder: Path) -> str:
    """A checkpoint of an unknown kind with code of its own; there are no weights, which come after the code."""
    place = folder / "checkpoint"
    evil(folder, "checkpoint/modeling.py")
    homes = {"AutoConfig": "modeling.Evil", "AutoModel": "modeling.Evil", "AutoModelForMaskedLM": "modeling.Evil"}
    write(place, "config.json", {"model_type": "of_a_stranger", "vocab_size": 9, "auto_map": homes})
    write(place, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling.Evil", None]}})
    return "checkpoint"


def checkpoint_case(name: str, kind: str, change: Callable[[Path, Path], None], refused: bool = True) -> Case:
    """A small checkpoint of a known kind, changed by ``change(folder, its folder)``."""

    def make(folder: Path) -> Words:
        place = folder / "checkpoint"
        shutil.copytree(_made(kind, _root[-1]), place)
        for code in (
            "modeling.py",
            "tokenization.py",
            "configuration.py",
            "custom_generate/generate.py",
            "setup.py",
        ):
            evil(folder, f"checkpoint/{code}")
        change(folder, place)
        words = ["generate", "--no-animate", "--denoiser", "checkpoint", "--policy", "top_k:4"]
        return [*words, "--prompt", "a 1", "--response-length", "4"]

    return Case(f"checkpoint, {kind}: {name}", make, refused, slow=True)


def _edit(place: Path, file: str, **changes: Any) -> None:
    found = json.loads((place / file).read_text()) if (place / file).is_file() else {}
    write(place, file, found | changes)


def _homes(place: Path) -> None:
    homes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "modeling.Evil")
    _edit(place, "config.json", auto_map=homes)


def _tokenizer(homes: Any) -> Callable[[Path, Path], None]:
    def change(folder: Path, place: Path) -> None:
        _edit(place, "tokenizer_config.json", auto_map=homes)

    return change


def _unknown_tokenizer(folder: Path, place: Path) -> None:
    """Of a Llama transformers knows no tokenizer: here it would ask, and take the "y" for consent."""
    homes = {"AutoTokenizer": ["tokenization.Evil", "tokenization.Evil"]}
    _edit(place, "tokenizer_config.json", auto_map=homes, tokenizer_class="Evil")


def _weights(name: str, entry: Callable[[Path, Path], str]) -> Callable[[Path, Path], None]:
    """The weights in a file outside of the folder, which the index names."""

    def change(folder: Path, place: Path) -> None:
        weights = load_file(place / "model.safetensors")
        (place / "model.safetensors").unlink()
        save_file(weights, folder / "outside.safetensors", {"format": "pt"})
        named = dict.fromkeys(weights, entry(folder, place))
        write(place, "model.safetensors.index.json", {"metadata": {}, "weight_map": named})

    return change


def _link(folder: Path, place: Path) -> str:
    (place / "linked.safetensors").symlink_to(folder / "outside.safetensors")
    return "linked.safetensors"


def _only_pickle(name: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, place: Path) -> None:
        for file in place.glob("*.safetensors*"):
            file.unlink()
        (place / name).write_bytes(pickled(folder))
        if name != "pytorch_model.bin":
            _edit(place, "config.json", transformers_weights=name)

    return change


ESCAPES = (
    "cycler.__init__.__globals__.os.system('touch {marker}')",
    "self.__init__.__globals__.__builtins__.__import__('os').system('touch {marker}')",
    "''.__class__.__mro__[1].__subclasses__()[0].__init__.__globals__",
    "messages.__class__.__base__.__subclasses__()",
    "raise_exception.__globals__['os'].system('touch {marker}')",
    "strftime_now.__globals__['sys'].modules['os'].system('touch {marker}')",
    "(messages|attr('__class__')).__mro__",
    "'{{0.__class__.__mro__}}'.format(messages).nothing.nothing",
)
"""What chat templates try, to leave the sandbox."""


def _template(text: str, file: str) -> Callable[[Path, Path], None]:
    def change(folder: Path, place: Path) -> None:
        template = "{{ " + text.format(marker=folder / RAN) + " }}"
        if file == "chat_template.jinja":
            (place / file).write_text(template)
        else:
            _edit(place, file, chat_template=template)

    return change


def _nothing(folder: Path, place: Path) -> None:
    pass


def checkpoint_cases() -> list[Case]:
    """Checkpoints and tokenizers; nobody has said that they are trusted."""
    listed = {"AutoTokenizer": ["tokenization.Evil", "tokenization.Evil"]}
    cases = [
        checkpoint_case("Python files beside it", kind, _nothing, False)
        for kind in ("llada", "a2d", "bert", "dream")
    ]
    cases += [
        checkpoint_case("auto_map of a known kind", kind, lambda folder, place: _homes(place), False)
        for kind in ("llada", "a2d", "bert")
    ]
    cases += [
        checkpoint_case("auto_map of its tokenizer", "llada", _tokenizer(listed), False),
        checkpoint_case("auto_map of its tokenizer", "bert", _tokenizer(listed), False),
        checkpoint_case("auto_map of its tokenizer as a list", "bert", _tokenizer(listed["AutoTokenizer"]), False),
        checkpoint_case(
            "tokenizer of another repository", "bert", _tokenizer({"AutoTokenizer": ["a/b--t.E", None]}), False
        ),
        checkpoint_case(
            "generation configuration with code",
            "a2d",
            lambda folder, place: _edit(place, "generation_config.json", custom_generate="custom_generate"),
            False,
        ),
        checkpoint_case("tokenizer that transformers would ask about", "llada", _unknown_tokenizer),
        checkpoint_case(
            "weights of a relative path outside", "a2d", _weights("up", lambda f, p: "../outside.safetensors")
        ),
        checkpoint_case(
            "weights of an absolute path", "a2d", _weights("abs", lambda f, p: str(f / "outside.safetensors"))
        ),
        checkpoint_case("weights by a link", "a2d", _weights("link", _link)),
        checkpoint_case("pickled weights", "a2d", _only_pickle("pytorch_model.bin")),
        checkpoint_case("pickled weights that its configuration names", "a2d", _only_pickle("adapter_model.bin")),
    ]
    for i, text in enumerate(ESCAPES):
        kind, file = ("llada", "tokenizer_config.json") if i % 2 else ("a2d", "chat_template.jinja")
        cases.append(checkpoint_case(f"template {text[:30]}", kind, _template(text, file)))
    return cases


def quick_cases() -> list[Case]:
    """Cases in which no checkpoint is loaded."""
    cases = [config_case("grpo", "config.yaml", name) for name in NAMED]
    cases += [config_case("ppo", "config.json", name) for name in NAMED]
    cases += [config_case("dcolt", "config.yaml", name) for name in NAMED]
    cases += [resume_case(kind, name) for kind in ("grpo", "ppo", "dcolt") for name in NAMED]
    cases += [adapter_case(name) for name in ADAPTERS]
    cases += [suite_case(name, suite) for name, suite in SUITES.items()]
    cases += [policy_case(name, command) for name in POLICIES for command in COMMANDS]
    cases += [_worker_case(), _trained_on_case()]
    cases += [
        text_case("suite with a YAML tag", "suite.yaml", TAG, [*EVAL, "--suite"]),
        text_case("settings with a YAML tag", "config.yaml", TAG, ["train", "grpo", "--out", "run", "--config"]),
        _pickle_case(
            "pickle as the weights of a policy", "runs/x/policy.safetensors", [*EVAL, "--policies", "runs/x"]
        ),
        _pickle_case("pickle as a policy.json", "runs/x/policy.json", [*EVAL, "--policies", "runs/x"]),
        _pickle_case(
            "pickle as a bundled kind of denoiser",
            "tiny/model.safetensors",
            [*EVAL, "--denoiser", "./tiny", "--policies", "top_k:4"],
        ),
    ]
    return cases

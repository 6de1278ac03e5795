"""What is installed: every module and asset of the four folders, with types for whoever imports them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dllm_env

ROOT = Path(__file__).parent.parent
PARTS = ("policies", "train", "eval")


def run(script: str, folder: Path) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def test_every_file_of_the_folders_is_installed(tmp_path: Path) -> None:
    """Asked in another folder, since Python started in the checkout finds the checkout first."""
    installed = Path(run("import dllm_env; print(dllm_env.__path__[0])", tmp_path).strip())
    files = [path for folder in ("dllm_env", *PARTS) for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts]
    assert len(names) > 50
    places = [installed.parent / name if name.parts[0] == "dllm_env" else installed / name for name in names]
    missing = [str(name) for name, place in zip(names, places, strict=True) if not place.is_file()]
    assert not missing, "a new file needs `make install`, or `pip install -e .` once more"


def test_a_checkout_alone_has_all_its_parts() -> None:
    """Python started in the checkout finds dllm_env/ first, and the other three beside it."""
    script = """if True:
        import sys
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
        sys.path = [entry for entry in sys.path if "__editable__" not in entry]
        import dllm_env.errors, dllm_env.eval, dllm_env.policies.registry, dllm_env.train
        print(dllm_env.errors.__file__, dllm_env.policies.registry.__file__, dllm_env.eval.__file__)"""
    found = [Path(path).resolve() for path in run(script, ROOT).split()]
    expected = ("dllm_env/errors.py", "policies/registry.py", "eval/__init__.py")
    assert found == [(ROOT / path).resolve() for path in expected]


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    """Each bound is what constraints-lowest.txt holds; torch's is what constraints.txt holds for Python 3.10."""
    project = (ROOT / "pyproject.toml").read_text().split("\ndev = [")[0].split("[project]")[1]
    bounds = dict(re.findall(r'"([\w-]+)(?:\[[^\]]*\])?>=([\d.]+)"', project))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    pins["torch"] = re.findall(r'torch==(.*); python_version < "3.11"', (ROOT / "constraints.txt").read_text())[0]
    assert len(bounds) > 15

    def release(version: str) -> list[int]:
        return [*map(int, version.split(".")), 0, 0][:3]

    lowest = {name: pins[name.lower().replace("_", "-")] for name in bounds}
    assert {name: release(bound) for name, bound in bounds.items()} == {n: release(v) for n, v in lowest.items()}


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy: pip install 'dllm-env[dev]'")
def test_who_imports_it_sees_its_types(tmp_path: Path) -> None:
    """No import is ``Any``, for a script in a folder of its own."""
    (tmp_path / "script.py").write_text(
        "from dllm_env.errors import UsageError\n"
        "from dllm_env.policies.heads import load_head\n"
        "from dllm_env.train.losses import group_advantages\n"
        "from dllm_env.eval.metrics import pass_at_k\n"
        "reveal_type(UsageError)\nreveal_type(load_head)\nreveal_type(group_advantages)\nreveal_type(pass_at_k)\n"
    )
    # Other packages' types are not the question, and torch's take a minute to read.
    others = "torch.*,numpy.*,gymnasium.*,stable_baselines3.*"
    (tmp_path / "mypy.ini").write_text(f"[mypy-{others}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    shown = [line.split("Revealed type is")[1] for line in out.splitlines() if "Revealed type" in line]
    expected = ["dllm_env.errors.UsageError", "dllm_env.policies.heads.Head", "divide: bool", "samples: int"]
    assert len(shown) == len(expected), out
    assert all(part in line for part, line in zip(expected, shown, strict=True)), out


def test_the_wheel_is_small(tmp_path: Path) -> None:
    """And has the package alone in it: weights are 4.8 MB of it. A copy is built: building leaves files behind."""
    source = tmp_path / "source"
    source.mkdir()
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "dllm_env", *PARTS)
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [*("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")]
    subprocess.run([sys.executable, *command, "--wheel-dir", str(tmp_path), str(source)], check=True, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 5e6
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dllm_env"}


def test_the_citation_has_the_version() -> None:
    assert f"\nversion: {dllm_env.__version__}\n" in (ROOT / "CITATION.cff").read_text()

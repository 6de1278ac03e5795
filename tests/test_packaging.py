"""What is installed: every module and asset of the four folders, with types for whoever imports them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "dllm_env": "dllm_env",
    "policies": "dllm_env.policies",
    "train": "dllm_env.train",
    "eval": "dllm_env.eval",
}
FILES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
]


def test_every_file_of_the_folders_is_installed() -> None:
    """Asked in another folder, for there is no installed package to see from within the checkout."""
    script = "import importlib.util as u; print(u.find_spec('dllm_env').submodule_search_locations[0])"
    command = [sys.executable, "-I", "-c", script]
    installed = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    places = {folder: installed.joinpath(*package.split(".")[1:]) for folder, package in FOLDERS.items()}
    assert len(FILES) > 50
    missing = [
        str(path.relative_to(ROOT))
        for path in FILES
        if not (places[path.relative_to(ROOT).parts[0]] / Path(*path.relative_to(ROOT).parts[1:])).is_file()
    ]
    assert not missing, "a new file needs `make install`, or pip install -e . once more"


def test_a_checkout_alone_has_all_its_parts(tmp_path: Path) -> None:
    """Python started in the checkout finds dllm_env/ before the installed package, and the other three beside it."""
    script = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [{str(ROOT)!r}] + [entry for entry in sys.path if "__editable__" not in entry]
import dllm_env.policies.base, dllm_env.errors, dllm_env.eval
print(dllm_env.errors.__file__, dllm_env.policies.base.__file__, dllm_env.eval.__file__)
"""
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
    expected = ["dllm_env/errors.py", "policies/base.py", "eval/__init__.py"]
    assert [Path(path).resolve() for path in found] == [(ROOT / path).resolve() for path in expected]


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy: pip install 'dllm-env[dev]'")
def test_who_imports_it_sees_its_types(tmp_path: Path) -> None:
    """No import is ``Any``, for a script in a folder of its own."""
    (tmp_path / "script.py").write_text(
        "from dllm_env.errors import UsageError\n"
        "from dllm_env.policies.heads import load_head\n"
        "from dllm_env.train.losses import clipped_loss\n"
        "from dllm_env.eval.metrics import Summary\n"
        "reveal_type(UsageError)\nreveal_type(load_head)\nreveal_type(clipped_loss)\nreveal_type(Summary)\n"
    )
    # Other packages' types are not the question, and torch's take a minute to read.
    (tmp_path / "mypy.ini").write_text(
        "[mypy-torch.*,numpy.*,gymnasium.*,stable_baselines3.*]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    revealed = [line.split("Revealed type is")[1] for line in out.splitlines() if "Revealed type" in line]
    assert len(revealed) == 4, out
    assert "dllm_env.errors.UsageError" in revealed[0]
    assert "-> dllm_env.policies.heads.Head" in revealed[1]
    assert all(line.strip() != '"Any"' for line in revealed)

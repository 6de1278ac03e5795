"""Which folder is which package; all else is in pyproject.toml, which could only list sub-packages by hand."""

from setuptools import find_packages, setup

FOLDERS = {
    "dllm_env": "dllm_env",
    "dllm_env.policies": "policies",
    "dllm_env.train": "train",
    "dllm_env.eval": "eval",
}

rooms = [f"{package}.{room}" for package, folder in FOLDERS.items() for room in find_packages(folder)]
setup(
    package_dir=FOLDERS,
    packages=[*FOLDERS, *rooms],
    # `pip install -e .` makes a folder of links with the package's own shape, in build/. What setuptools does by
    # default (a finder of modules) is run by Python alone: to editors and mypy every import would be Any.
    options={"editable_wheel": {"mode": "strict"}},
)

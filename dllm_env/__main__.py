"""``python -m dllm_env`` is ``dllm-env``: what ``torchrun`` and ``accelerate launch`` can start."""

import sys

from dllm_env.cli import program

if __name__ == "__main__":
    sys.exit(program())

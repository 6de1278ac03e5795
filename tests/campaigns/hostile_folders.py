"""Loads folders and files that try to run code without consent: ``python tests/campaigns/hostile_folders.py``.

Prints a line for each fault and one of figures; the exit status is 1 where there was a fault.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "examples")]

from hostile import attempt, checkpoint_cases, checkpoints_in, quick_cases  # noqa: E402


def main() -> int:
    """Runs all cases."""
    begun, faults, cases = time.perf_counter(), 0, [*quick_cases(), *checkpoint_cases()]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, checkpoints_in(Path(name) / "checkpoints"):
        os.environ["HF_MODULES_CACHE"] = str(Path(name) / "modules")
        for number, case in enumerate(cases):
            fault = attempt(case, Path(name) / str(number)).fault(case.refused)
            faults += bool(fault)
            if fault:
                print(f"{case.name}: {fault}")
    refused = sum(case.refused for case in cases)
    print(
        f"hostile folders: {len(cases)} cases, {refused} to be refused, {len(cases) - refused} to be loaded "
        f"without their code; {faults} faults; {time.perf_counter() - begun:.0f} s"
    )
    return int(faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())

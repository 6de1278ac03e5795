"""Every known way to pass without solving, in every sandbox that works here; see ``fakes``.

    python tests/campaigns/fake_success.py

Prints one line of figures, and a line for each failure before; the exit status is 1 where there is one.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes import FAKES, PROBLEMS, RIGHT, play, sandboxes


def main() -> int:
    began = time.monotonic()
    found = sandboxes()
    cases = list(product(found, PROBLEMS, FAKES | RIGHT))
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
        verdicts = list(pool.map(lambda case: play(case[1], (FAKES | RIGHT)[case[2]], case[0]).passed, cases))
    wrong = [case for case, passed in zip(cases, verdicts, strict=True) if passed != (case[2] in RIGHT)]
    for sandbox, kind, name in wrong:
        print(f"{'fails' if name in RIGHT else 'passes'}: {name} ({kind}, {sandbox.name})")
    print(
        f"fake success: {len(FAKES)} ways and {len(RIGHT)} right programs, {len(PROBLEMS)} problems, "
        f"sandboxes: {', '.join(sandbox.name for sandbox in found) or 'NONE WORKS'}; "
        f"{len(cases)} runs, {len(wrong)} failures, {time.monotonic() - began:.0f} s"
    )
    return int(bool(wrong) or not found)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.torture [--seconds N] [--messages N] [--seed S]`: kill until nobody sends."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.torture.model import check
from tests.torture.rig import torture


def main() -> int:
    parser = argparse.ArgumentParser(prog="torture", description="Kill at random; lose nothing.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to kill (60)")
    parser.add_argument("--messages", type=int, default=10_000, help="how many to send (10000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which unmounts
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="agentfs-torture-") as folder:
        report = torture(Path(folder) / "rig", given.seconds, given.messages, given.seed)
    wrong = [*check(report.history), *report.faults, *report.undrained]
    print(report)
    print("\n".join(wrong[:100]) or "nothing was lost, and nothing came twice unmarked")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

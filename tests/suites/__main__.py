"""`./run suites [SUITE[:PART,PART…]]…`: suites that others wrote, on our files beside Linux's own.

SUITE (default: all): pjdfstest, fsx, fsstress, ltp (the file-system tests of the Linux Test
Project), stress-ng, readers (read_all of LTP and what else reads a whole tree). PART is a check of
it (rename, ftest01 …). Each runs on a tmpfs, on an ext4, in /shared and in an agent's memory/, one
after the other; the table has what came of it: operations a second (/s), seconds (s), or how many
assertions held. The readers read a tree with mail in it, which must wait there still. Exit code 0:
nothing fails on ours that does not fail on tmpfs or ext4. What is built is kept in
~/.cache/agentfs-suites. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.suites import ltp, pjdfstest
from tests.suites.outcome import KNOWN, Check, alone
from tests.suites.readers import READERS, mail_that_waits, read_by
from tests.suites.sides import SIDES, sides
from tests.suites.sources import CACHE
from tests.suites.stress import stressors
from tests.tree import Tree

__all__ = ["main"]

WIDTH = 14


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing fails on ours alone."""
    given = _arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted is unmounted then
    wanted = _wanted(given.suites)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="agentfs-suites-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if set(wanted) - {"readers"}:
            chosen = tuple(given.side or SIDES)
            checks = {
                suite: _only(MAKE[suite](given, only), only)
                for suite, only in wanted.items()
                if suite != "readers"
            }
            with sides(folder, chosen) as places:
                for suite, rows in checks.items():
                    failed += _table(suite, rows, places)
        if "readers" in wanted:
            failed += _readers(folder / "tree", ltp.built(given.ltp), wanted["readers"])
    print(f"{failed} failed on ours alone")
    return 1 if failed else 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./run suites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE[:PART,…]", help="see above")
    parser.add_argument("--seconds", type=int, default=2, help="of each that goes on; default: 2")
    parser.add_argument("--side", action="append", choices=SIDES, help="default: all four")
    parser.add_argument("--devices", action="store_true", help="pjdfstest: with device files")
    for name, url in (("ltp", ltp.URL), ("pjdfstest", pjdfstest.URL)):
        words = f"a repository or checkout of it; default: {url}"
        parser.add_argument(f"--{name}", metavar="SOURCE", default=url, help=words)
    given = parser.parse_args(arguments)
    if os.geteuid():
        parser.error("the suites need root")
    return given


MAKE: dict[str, Callable[[argparse.Namespace, frozenset[str]], list[Check]]] = {
    "pjdfstest": lambda given, only: pjdfstest.parts(
        pjdfstest.built(given.pjdfstest, devices=given.devices)
    ),
    "fsx": lambda given, only: ltp.fsx(ltp.built(given.ltp)),
    "fsstress": lambda given, only: ltp.fsstress(ltp.built(given.ltp)),
    "ltp": lambda given, only: ltp.tests(ltp.built(given.ltp), CACHE / "ltp", given.seconds),
    "stress-ng": lambda given, only: stressors(given.seconds, only),
}
"""The suites that work in a directory."""


def _wanted(words: list[str]) -> dict[str, frozenset[str]]:
    """The suites, with the parts that were named; none: all."""
    found: dict[str, frozenset[str]] = {}
    for word in words or [*MAKE, "readers"]:
        suite, _, parts = word.partition(":")
        if suite not in MAKE and suite != "readers":
            raise SystemExit(f"suites: one of {', '.join([*MAKE, 'readers'])}, not {suite!r}")
        found[suite] = frozenset(filter(None, parts.split(",")))
    return found


def _only(checks: list[Check], only: frozenset[str]) -> list[Check]:
    unknown = only - {check.name for check in checks}
    if unknown:
        raise SystemExit(f"suites: there is no {', '.join(sorted(unknown))}")
    return [check for check in checks if check.name in only or not only]


def _table(suite: str, checks: list[Check], places: dict[str, Path]) -> int:
    """Print a row for each check; how many kinds of faults are on ours alone."""
    width = max(len(check.name) for check in checks) + 2
    print(f"\n{suite:<{width}}" + "".join(f"{side:>{WIDTH}}" for side in places), flush=True)
    failed = 0
    for check in checks:
        outcomes = {
            side: check.run(where)
            for side, where in places.items()
            if not (check.private and side == "memory/")
        }
        cells = [outcomes[side].figure if side in outcomes else "-" for side in places]
        print(f"{check.name:<{width}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells), flush=True)
        for words in dict.fromkeys(each.words for each in outcomes.values() if each.words):
            told = [side for side, each in outcomes.items() if each.words == words]
            print(f"    {', '.join(told)}: {words}")
        for side, words in alone(outcomes):
            print(f"    {side} alone: {words}")
            failed += not words.endswith(KNOWN)
    return failed


def _readers(folder: Path, programs: Path, only: frozenset[str]) -> int:
    """Print a row for each reader; how many took something."""
    failed = 0
    with _tree_with_mail(folder) as tree:
        print(f"\n{'readers':<18}{'all of it':>{WIDTH}}", flush=True)
        for name in READERS:
            if only and name not in only:
                continue
            outcome = read_by(tree, programs, folder, name)
            print(f"{name:<18}{outcome.figure:>{WIDTH}}  {outcome.words}".rstrip(), flush=True)
            failed += outcome.faults.total()
    return failed


@contextlib.contextmanager
def _tree_with_mail(folder: Path) -> Iterator[Tree]:
    tree = Tree(folder)
    tree.may_hold = True
    try:
        tree.mount()
        ann = mail_that_waits(tree)
        yield tree
        ann.close()
        tree.unmount()
    finally:
        tree.clean_up()


if __name__ == "__main__":
    sys.exit(main())

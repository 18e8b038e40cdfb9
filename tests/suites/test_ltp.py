"""What LTP's tests say is told apart, and what fails on ours alone is found."""

from __future__ import annotations

from collections import Counter

from tests.suites.ltp import shortened, verdict
from tests.suites.outcome import Outcome, alone


def test_what_is_said_in_seconds_is_shortened() -> None:
    line = "growfiles -W gf03 -b -e 1 -i 500 -L 120 -u -d $TMPDIR"
    assert shortened(line, 5) == line.replace("120", "5")
    assert shortened("rwtest -c -q -i 60s -f sync", 5) == "rwtest -c -q -i 5s -f sync"
    assert shortened("growfiles -L 3", 5) == "growfiles -L 3"


def test_a_failure_is_told_by_its_first_line() -> None:
    said = "a TINFO: begins\nftest01 1 TFAIL : wrong data\nftest01 2 TBROK : end\n"
    assert verdict(0, said) == verdict(32, said) == ""
    assert verdict(1, said) == "ended with 1: ftest01 1 TFAIL : wrong data"
    assert verdict(2, "one\ntwo\n\n") == "ended with 2: two"
    assert verdict(2, "") == "ended with 2: and said nothing"


def test_what_fails_on_a_baseline_too_is_not_ours() -> None:
    bad = Outcome.failed("it is so")
    well = Outcome("1 s")
    assert list(alone({"tmpfs": well, "ext4": well, "/shared": bad})) == [("/shared", "it is so")]
    assert list(alone({"tmpfs": well, "ext4": bad, "/shared": bad})) == []
    assert list(alone({"tmpfs": bad, "/shared": Outcome.skipped("not here")})) == []
    some = {"tmpfs": Outcome("9", Counter(a=2)), "/shared": Outcome("8", Counter(a=3, b=1))}
    assert list(alone(some)) == [("/shared", "1 a"), ("/shared", "1 b")]

"""What stress-ng says is told apart: what it did, what it skipped, and what failed."""

from __future__ import annotations

from tests.suites.outcome import KNOWN, Outcome, alone
from tests.suites.stress import outcome

DONE = """stress-ng: info:  [9913] dispatching hogs: 1 rename
stress-ng: metrc: [9913] stressor       bogo ops real time  usr time  sys time   bogo ops/s
stress-ng: metrc: [9913]                           (secs)    (secs)    (secs)   (real time)
stress-ng: metrc: [9913] rename            33645      1.00      0.04      0.50     33603.86  62738.6
stress-ng: info:  [9913] successful run completed in 1.00s
"""
FAILED = "stress-ng: fail:  [12] fsize: fallocate failed, errno=95\n"
SKIPPED = "stress-ng: info:  [12] verity: stressor will be skipped, not supported\n"


def test_what_was_done_is_a_rate() -> None:
    assert outcome("rename", 0, DONE) == Outcome("33,604/s")


def test_a_failure_that_was_told_is_one_whatever_the_exit_code() -> None:
    wanted = Outcome.failed("fsize: fallocate failed, errno=95")
    assert outcome("fsize", 0, DONE + FAILED) == wanted
    assert outcome("fsize", 2, FAILED + SKIPPED) == wanted
    assert outcome("fsize", 2, "") == Outcome.failed("ended with 2")


def test_what_has_its_reason_in_the_docs_is_known() -> None:
    said = "stress-ng: fail:  [12] fsize: fallocate unexpectedly succeeded at offset 1\n"
    found = outcome("fsize", 0, DONE + said)
    ((side, words),) = alone({"tmpfs": outcome("fsize", 0, DONE), "/shared": found})
    assert (side, words.endswith(KNOWN)) == ("/shared", True)


def test_what_is_not_there_is_skipped_in_words() -> None:
    words = "verity: stressor will be skipped, not supported"
    assert outcome("verity", 0, SKIPPED) == Outcome.skipped(words)
    assert outcome("verity", 4, "") == Outcome.skipped("not supported here")
    unknown = outcome("metamix", 1, "stress-ng: unrecognized option '--metamix'\n")
    assert unknown.figure == "skipped"

"""What the suite says is counted by kind."""

from __future__ import annotations

from tests.suites.pjdfstest import assertions

SAID = """1..6
ok 1
not ok 2 - tried 'mknod pjdfstest_1 b 0644 1 2', expected 0, got EPERM
not ok 3 - tried '-u 65534 -g 65534 unlink pjdfstest_1', expected EACCES, got ENOENT
not ok 4 - tried 'unlink pjdfstest_2', expected 0, got ENOENT
not ok 5 # TODO Known fault of some systems
not ok 6
"""


def test_failures_are_counted_by_what_was_tried_and_known_faults_are_none() -> None:
    count, failed = assertions(SAID)
    assert count == 6
    assert dict(failed) == {
        "mknod of a device file: EPERM for 0": 1,
        "unlink: ENOENT for EACCES": 1,
        "unlink: ENOENT for 0": 1,
        "a check of the test's own": 1,
    }

"""The one exception."""

import errno

from agentfs.base.errors import KernelError


def test_a_refusal_says_what_why_and_by_which_rule() -> None:
    refusal = KernelError(errno.EACCES, "bob may only write to alice", rule="task")
    assert (refusal.errno, refusal.reason, refusal.rule) == (
        errno.EACCES,
        "bob may only write to alice",
        "task",
    )
    assert str(refusal) == "EACCES: bob may only write to alice [task]"


def test_without_a_rule_none_is_shown() -> None:
    assert str(KernelError(errno.ENOENT, "no such agent")) == "ENOENT: no such agent"


def test_a_number_without_a_name_is_shown_as_it_is() -> None:
    assert KernelError(99_999, "odd").code == "99999"


def test_what_the_machine_refused_keeps_its_number() -> None:
    made = KernelError.from_os(OSError(errno.ENOSPC, "x"), "cannot write the log")
    assert made.errno == errno.ENOSPC
    assert made.reason == "cannot write the log: No space left on device"
    assert KernelError.from_os(OSError("no number"), "x").errno == errno.EIO

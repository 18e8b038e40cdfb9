"""`python -m agentfs.runner.harness JSON`: a program that people talk to on a terminal, as an agent
that its mail wakes. Each turn is one call of the program; the next one goes on with its session.

JSON is an entry of /etc/harnesses.yaml, with the program and its arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentfs.agent import Agent
from agentfs.runner.errands import Errands, Letters, StoppedError, TurnFailedError, note

__all__ = ["main"]

MOST_OUTPUT = 16 << 20
"""Bytes that a turn may print; of more only the last ones are kept."""

GRACE = 5.0
"""Seconds from TERM to KILL for the programs of a turn that is ended."""

AFRESH = 2
"""Attempts of a message that go on with the session. The ones after that begin a new one: perhaps
the program does not know the old one any more."""

PR_SET_CHILD_SUBREAPER = 36

PIECE = 64 * 1024


class ProgramTurns:
    """The calls of one program. `task` is what the command line says."""

    def __init__(self, task: dict[str, Any], agent: Agent) -> None:
        self._task = task
        self._errands = Errands(agent, self._work)
        self._name = os.path.basename(task["program"])

    def serve(self) -> None:
        self._errands.serve()

    def _work(self, letters: Letters) -> str:
        """One turn: the answer. Raises TurnFailedError."""
        journal = self._errands.journal
        session = journal.get("session") if letters.attempt <= AFRESH else None
        text = letters.as_text() if self._task["prompt"] == "text" else letters.as_mail()
        with tempfile.TemporaryDirectory(prefix="turn-") as folder:
            given, answer = Path(folder, "prompt"), Path(folder, "answer")
            given.write_text(text, encoding="utf-8", errors="replace")
            places = {
                "prompt": text,
                "file": str(given),
                "answer": str(answer),
                "session": session or "",
                "home": os.environ.get("HOME", ""),
                "url": os.environ.get("OPENAI_BASE_URL", ""),
            }
            words, has_text = self._words("resume" if session else "turn", places)
            with open(os.devnull if has_text else given, "rb") as stdin:
                output = self._call(words, stdin, letters)
            if self._task["file"]:
                answer = Path(_filled(self._task["file"], places))
            found = self._read(output, answer)
        journal.set("session", found.session or session or "1")
        return found.answer

    def _words(self, which: str, places: dict[str, str]) -> tuple[list[str], bool]:
        """The command, and whether the text is in it."""
        words = [self._task["program"]]
        has_text = False
        for word in [*self._task["options"], *self._task[which]]:
            if word == "{arguments}":
                words += self._task["arguments"]
                continue
            has_text = has_text or "{prompt}" in word or "{file}" in word
            words.append(_filled(word, places))
        return words, has_text

    # -- a call ------------------------------------------------------------------------------------

    def _call(self, words: list[str], stdin: Any, letters: Letters) -> bytes:
        """Run it to its end; its standard output. Raises TurnFailedError, StoppedError."""
        env = os.environ | {
            "AGENTFS_FROM": letters.sender,
            "AGENTFS_MESSAGES": letters.key,
            "AGENTFS_ATTEMPT": str(letters.attempt),
        }
        try:
            program = subprocess.Popen(
                words,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                start_new_session=True,
            )
        except OSError as failed:
            raise TurnFailedError(f"{self._name} cannot be started: {failed.strerror}") from None
        try:
            output, errors = self._follow(program)
        finally:
            self._end_all(program)
        if program.returncode:
            text = (errors.strip() or output.strip()).decode("utf-8", "replace")
            lines = [line for line in text.splitlines() if re.search(r"\w", line)]
            raise TurnFailedError(
                f"{self._name} ended with code {_code(program.returncode)}"
                + (f": {lines[-1].strip()}" if lines else "")
            )
        return output

    def _follow(self, program: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """Its output and errors, which go into our log too. Raises when it takes too long, or we
        are to end."""
        assert program.stdout is not None
        assert program.stderr is not None
        deadline = time.monotonic() + self._task["timeout"]
        kept = {program.stdout.fileno(): bytearray(), program.stderr.fileno(): bytearray()}
        output, errors = kept.values()
        end = os.pidfd_open(program.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for each in (*kept, end, self._errands.wake):
                    selector.register(each, selectors.EVENT_READ)
                while True:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TurnFailedError(
                            f"{self._name} was not done after {self._task['timeout']:g} s"
                        )
                    ready = [key.fd for key, _ in selector.select(left)]
                    if self._errands.stopping:
                        raise StoppedError
                    for each in kept:
                        if each in ready and not _take(each, kept[each]):
                            selector.unregister(each)
                    if end in ready and not any(each in ready for each in kept):
                        break  # a program that it left behind may hold its output open
        finally:
            os.close(end)
        program.wait()
        return bytes(output), bytes(errors)

    def _end_all(self, program: subprocess.Popen[bytes]) -> None:
        """End whatever the turn has started and left, in whatever session it is: they are our
        children now, or their children. The next turn begins when none is left."""
        deadline = time.monotonic() + GRACE
        number = signal.SIGTERM if program.poll() is None else signal.SIGKILL
        while below := _below(os.getpid()):
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(0.01)
            program.poll()
            with contextlib.suppress(ChildProcessError):
                while program.returncode is not None and os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        program.wait()
        for stream in (program.stdout, program.stderr):
            if stream is not None:
                stream.close()

    # -- what it printed ---------------------------------------------------------------------------

    def _read(self, output: bytes, place: Path) -> Found:
        """The answer and the session. Raises TurnFailedError if there is none."""
        text = output.decode("utf-8", "replace")
        keys = [self._task[name] for name in ("answer", "session", "failed")]
        said = _said(text) if any(keys) else []
        answer, session, failed = (_last(said, key) for key in keys)
        if not self._task["answer"]:
            answer = text
        with contextlib.suppress(FileNotFoundError):
            answer = place.read_text(encoding="utf-8", errors="replace")
        answer = self._part(answer) if isinstance(answer, str) else ""
        if failed is True:
            raise TurnFailedError(f"{self._name}: {answer or 'it says that it has failed'}")
        if not answer:
            raise TurnFailedError(f"{self._name} ended with code 0 and gave no answer")
        return Found(f"{answer}\n", session if isinstance(session, str) else "")

    def _part(self, text: str) -> str:
        """What of a text is the answer."""
        after, without = self._task["after"], self._task["without"]
        lines = text.splitlines()
        if after:
            marks = [at for at, line in enumerate(lines) if line.startswith(after)]
            lines = lines[marks[-1] + 1 :] if marks else []
        return "\n".join(
            line for line in lines if not (without and line.startswith(without))
        ).strip()


def _filled(word: str, places: dict[str, str]) -> str:
    """A word with what stands for each name in braces; what that says is not looked at again."""
    return re.sub(r"\{([a-z]+)\}", lambda match: places.get(match[1], match[0]), word)


class Found:
    """What a turn gave."""

    def __init__(self, answer: str, session: str) -> None:
        self.answer = answer
        self.session = session


def _code(returned: int) -> int:
    """As a shell says it."""
    return returned if returned >= 0 else 128 - returned


def _take(file: int, kept: bytearray) -> bool:
    """Read what there is, and let the log have it; False at its end."""
    piece = os.read(file, PIECE)
    kept += piece
    del kept[: max(0, len(kept) - MOST_OUTPUT)]
    with contextlib.suppress(OSError):
        os.write(2, piece)
    return bool(piece)


def _below(pid: int) -> list[int]:
    """The pids of all programs that `pid` has started, with those that these have."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                # Not `stat`: reading that waits for a program that is in execve(2).
                text = Path("/proc", name, "status").read_text(errors="replace")
                found = re.search(r"^State:\t([A-Z]).*?^PPid:\t(\d+)", text, re.M | re.S)
                if found is not None and found[1] != "Z":
                    children.setdefault(int(found[2]), []).append(int(name))
    below: list[int] = []
    todo = [pid]
    while todo:
        started = children.get(todo.pop(), [])
        below += started
        todo += started
    return below


def _said(text: str) -> list[dict[str, Any]]:
    """The JSON objects that a program printed: one, or one a line."""
    for candidate in ([text], text.splitlines()):
        found = []
        for piece in candidate:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(piece)
                found += [
                    each
                    for each in (value if isinstance(value, list) else [value])
                    if isinstance(each, dict)
                ]
        if found:
            return found
    return []


def _last(said: list[dict[str, Any]], key: str) -> Any:
    """The last of these objects that has the key decides."""
    return next((each[key] for each in reversed(said) if key and key in each), None)


def main() -> None:
    task = json.loads(sys.argv[1])
    # Programs that lose their parents become our children: at the end of a turn we find them all.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    agent = Agent()
    note(f"{agent.name} works on its mail with {task['program']}")
    ProgramTurns(task, agent).serve()


if __name__ == "__main__":
    main()

"""A client for agents written in Python: one file, standard library only, nothing but file
operations on the tree that $AGENTFS names. Import it, or copy it.

    agent = Agent()

    @agent.on_message
    def shout(message: Message) -> str:
        return message.text.upper()  # what a handler returns is the reply

    agent.run()  # under trio and asyncio: `await agent.arun()`, and handlers may be async

A message is acknowledged when its handler has returned: by asking for the next one or, where none
waits, by writing `done` to `recv`. If the handler raises, `failed REASON` is written there: the
message comes again with Delivery-Attempt raised, and after the last attempt it is a dead letter.
What was returned and could not be sent is kept, and the next attempt sends it without calling the
handler again. Automatic mail (reminders, notices, broadcasts, what another handler returned) is
handled too, but what the handler returns is no answer to it: two programs that answer each other
never end. Call `reply` if you mean to answer it.

One handler runs at a time, and the heartbeat comes from the loop between them, so that a handler
which hangs is noticed. Every other method may be called from any thread.

While the daemon is away (it is started again after a crash) the loop waits for it; a call does so
for `patience` seconds (not at all under an event loop) and raises OSError then. A call that was cut
after it had been sent raises at once: nobody knows whether it was accepted, and to repeat it is the
caller's decision.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import email
import email.message
import errno
import inspect
import json
import logging
import os
import re
import select
import signal
import sys
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

__all__ = ["Agent", "Call", "Message", "Record", "Subscription", "Talk", "Work"]

log = logging.getLogger("agentfs.agent")

T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., object])
Text = str | bytes | bytearray | memoryview

AWAY = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.ESTALE, errno.EIO}
"""What the files of a daemon that ended, or is ending, answer."""

CAUGHT = {"TERM", "HUP", "INT", "USR1", "USR2", "CONT"}
"""Signals of the operating system. Others (CHLD) are read from the stream `signals`."""

PIECE = 64 * 1024  # bytes of one read
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds between attempts to reach the daemon
FAILED_PAUSE = 0.1  # seconds after a message failed; twice that after its second failure …
GLANCE = 0.05  # seconds of work after which the loop looks at everything else
UNSENT = 64  # answers that are kept for the next attempt

# Control characters, and what some reader takes for the end of a line.
NO_LINE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
HEADER_NAME = re.compile("[!-9;-~]{1,64}")


class Message:
    """A message as it was received. `id` is its number, `attempt` counts from 1, `waiting` says how
    many more wait, `automatic` that a program sent it by itself and waits for no answer."""

    def __init__(self, content: bytes) -> None:
        head, _, self.body = content.partition(b"\n\n")
        self.headers = email.message_from_string(head.decode(errors="replace"))
        self.id = self.get("Message-ID").strip("<>").partition("@")[0]
        self.sender, self.type = self.get("From"), self.get("Type")
        self.attempt = int(self.get("Delivery-Attempt", "1"))
        self.waiting = int(self.get("Messages-Waiting", "0"))
        unasked = self.get("Auto-Submitted", "no").lower() != "no"
        unwanted = self.get("Reply-Expected").lower() == "no"
        self.automatic = (unasked or unwanted) and not self.get("Reply-By")

    def get(self, name: str, default: str = "") -> str:
        """A header's text."""
        return str(self.headers.get(name, default))

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def __repr__(self) -> str:
        return f"<message {self.id} from {self.sender}, attempt {self.attempt}>"


class Work(Message):
    """A task that was received: its number, which attempt this is (from 1), what is to be done, and
    what with."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        said = json.loads(self.body)
        self.task: int = said["task"]
        self.attempt = said["attempt"]
        self.description: str = said["description"]
        self.input: Any = said["input"]
        self.requirements: dict[str, Any] = said["requirements"]
        self.key: str | None = said["key"]

    def __repr__(self) -> str:
        return f"<task {self.task} from {self.sender}, attempt {self.attempt}>"


class Record(NamedTuple):
    """What was published; where `lost` is not 0, it says instead that so many were lost."""

    seq: int
    sender: str
    data: bytes
    lost: int = 0


class Agent:
    """The agent that this program is. `tree` is the mount ($AGENTFS), `name` its own name."""

    def __init__(self, tree: str = "", name: str = "", patience: float = 30.0) -> None:
        self.tree = tree or os.environ["AGENTFS"]
        self.patience = patience
        self.name = name or os.environ.get("AGENT_NAME") or os.readlink(f"{self.tree}/agents/self")
        self.home = f"{self.tree}/agents/{self.name}"
        self._process = f"{self.tree}/proc/self"
        self._types: dict[str, Callable[..., object]] = {}
        self._signals: dict[str, Callable[..., object]] = {}
        self._sources: dict[str, _Source] = {}  # by path
        self._noticed: deque[list[str]] = deque()  # signals that no handler has had yet
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._unsent: dict[str, bytes] = {}  # answers that were refused, by message
        self._kept: dict[tuple[int, str], int] = {}  # files that stay open, by who opened them
        weakref.finalize(self, _close_all, self._kept)
        self._stopped = False
        self._beat_every = self._beat_due = 0.0

    # -- handlers --------------------------------------------------------------------------------

    def on_message(self, handler: Handler) -> Handler:
        """Call `handler(message)` for mail that no other handler is for."""
        return self.on_type("")(handler)

    def on_task(self, handler: Handler) -> Handler:
        """Call `handler(message)` for mail whose Type begins with `task`."""
        return self.on_type("task")(handler)

    def on_type(self, prefix: str) -> Callable[[Handler], Handler]:
        """For mail whose Type begins with `prefix`; the longest one that fits decides."""

        def keep(handler: Handler) -> Handler:
            self._sources[path] = _Source(path, self._by_type)
            self._types[prefix] = handler
            return handler

        path = f"{self.home}/recv"
        return keep

    def on_queue(self, queue: str) -> Callable[[Handler], Handler]:
        """Call `handler(message)` for what is taken from a queue."""

        def keep(handler: Handler) -> Handler:
            self._sources[path] = _Source(path, lambda message: handler)
            return handler

        path = f"{self.tree}/dev/queues/{queue}/recv"
        return keep

    def on_work(self, worker: str, **about: Any) -> Callable[[Handler], Handler]:
        """Be the worker of that name (`capabilities={"cpu": "high"}, capacity=1`), and call
        `handler(work)` for each task: the result is what it returns; if it raises, another worker
        may try. OSError: it may not be that worker."""

        def keep(handler: Handler) -> Handler:
            self._sources[path] = _TaskSource(
                path, lambda message: handler if isinstance(message, Work) else _noted
            )
            return handler

        request = json.dumps({"name": _name(worker)} | about)
        path = f"{self.tree}/dev/workers/{worker}/recv"
        self._call(f"{self.tree}/dev/workers/new", request.encode(), reply=True)
        return keep

    def progress(self, work: Work, words: str) -> None:
        """Say how far a task is."""
        self._call(f"{self.tree}/dev/tasks/{work.task}/ctl", _bytes(f"progress {_line(words)}"))

    def on_signal(self, name: str) -> Callable[[Handler], Handler]:
        """Call `handler(*words)` when a signal comes: no words for TERM, the pid and the code for
        CHLD. Those of the operating system are caught from now on, which takes the main thread."""

        def keep(handler: Handler) -> Handler:
            self._signals[name] = handler
            return handler

        if name in CAUGHT:
            signal.signal(signal.Signals[f"SIG{name}"], self._catch)
        return keep

    def _catch(self, number: int, frame: object) -> None:
        self._noticed.append([signal.Signals(number).name.removeprefix("SIG")])
        os.eventfd_write(self._wake, 1)

    # -- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Handle what comes until `stop()`, in this thread. Raises OSError if the agent is no
        more, or may not read what it wants to."""
        _in_thread(self._loop())

    async def arun(self) -> None:
        """The same under trio or asyncio. Cancelled in the middle of a handler, it puts the message
        back: that was no attempt."""
        await self._loop()

    def stop(self) -> None:
        """Let the loop end after the handler that is at work. From any thread."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    async def _loop(self) -> None:
        absence = _Absence(self)
        while not self._stopped:
            try:
                with contextlib.ExitStack() as stack:
                    poller, signals = self._connect(stack)
                    self._enter_again()
                    absence = _Absence(self)
                    await self._serve(poller, signals)
            except OSError as failure:  # of our own files: those of handlers are theirs
                pause = absence.pause(failure)
                if pause is None:
                    raise
                log.warning("the tree is away (%s); trying again", failure.strerror)
                await _wait(self._wake, pause)
        self._stopped = False

    def _enter_again(self) -> None:
        """A program begins in its memory. If that was in a tree that is gone, go on in this one."""
        try:
            os.statvfs(".")
        except OSError as failure:
            if failure.errno in AWAY:
                os.chdir(f"{self.home}/memory")

    def _connect(self, stack: contextlib.ExitStack) -> tuple[select.epoll, int]:
        """Open what the loop reads; the descriptor of `signals` is -1 if nobody wants it."""

        def watch(path: str, flags: int) -> int:
            file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
            stack.callback(_close, file)
            poller.register(file, select.EPOLLIN)
            return file

        poller = stack.enter_context(select.epoll())
        poller.register(self._wake, select.EPOLLIN)
        for path, source in self._sources.items():
            source.opened(watch(path, os.O_RDWR | os.O_DIRECT))
            stack.callback(source.settle)
        wanted = self._signals.keys() - CAUGHT
        signals = watch(f"{self._process}/signals", os.O_RDONLY) if wanted else -1
        info = json.loads(_whole(f"{self._process}/info"))
        self._beat_every = info["heartbeat"] or 0.0
        return poller, signals

    async def _serve(self, poller: select.epoll, signals: int) -> None:
        glanced = 0.0
        while not self._stopped:
            while self._noticed:
                await self._signal(*self._noticed.popleft())
            busy = False
            for source in self._sources.values():
                message = None if self._stopped else source.take()
                if message is not None:
                    busy = True
                    await self._handle(source, message)
            wait = self._beat()
            await _wait(None if busy else poller.fileno(), 0.0 if busy else wait)
            if not busy or time.monotonic() > glanced + GLANCE:
                glanced = time.monotonic()
                self._look(poller, signals)

    def _look(self, poller: select.epoll, signals: int) -> None:
        """See which sources can be read, and what signals there are."""
        ready = {file for file, _ in poller.poll(0)}
        for source in self._sources.values():
            source.ready = source.ready or source.file in ready
        with contextlib.suppress(BlockingIOError):
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if signals in ready:
                lines = os.read(signals, PIECE).decode().splitlines()
                if not lines:
                    raise OSError(errno.ESTALE, "this process is no more")
                self._noticed += [line.split() for line in lines if line not in CAUGHT]

    async def _handle(self, source: _Source, message: Message) -> None:
        try:
            await self._work(source, message)
        except Exception as failure:
            log.exception("the handler of %r failed", message)
            words = " ".join(f"{type(failure).__name__}: {failure}".split())
            source.fail(message, words[:500])
            await _wait(self._wake, min(FAILED_PAUSE * 2 ** (message.attempt - 1), LONGEST_PAUSE))
        except BaseException:
            source.owed = "back"
            raise
        else:
            source.finish(message)

    async def _work(self, source: _Source, message: Message) -> None:
        """Let the handler do it, and send what it returns."""
        handler = source.handler(message)
        if handler is None:
            log.warning("there is no handler for %r of type %r", message, message.type)
            return
        answer = self._unsent.pop(message.id, None)
        if answer is None:
            returned = handler(message)
            if inspect.isawaitable(returned):
                returned = await returned
            if isinstance(source, _TaskSource):
                await source.answer(message, returned)
                return
            if returned is None:
                return
            answer = await _answer(returned)
        if message.automatic:
            log.info("%r is automatic: what its handler returned is no answer to it", message)
            return
        try:
            self.reply(message, answer, auto_submitted="auto-replied")
        except Exception:
            self._unsent[message.id] = answer
            if len(self._unsent) > UNSENT:
                del self._unsent[next(iter(self._unsent))]
            raise

    async def _signal(self, name: str, *words: str) -> None:
        try:
            answer = self._signals[name](*words) if name in self._signals else None
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            log.exception("the handler of the signal %s failed", name)

    def _by_type(self, message: Message) -> Callable[..., object] | None:
        fitting = [prefix for prefix in self._types if message.type.startswith(prefix)]
        return self._types[max(fitting, key=len)] if fitting else None

    def _beat(self) -> float | None:
        """Say that the loop is alive, if it is time; in how many seconds it is time again."""
        if not self._beat_every:
            return None
        if time.monotonic() >= self._beat_due:
            self.heartbeat()
            self._beat_due = time.monotonic() + self._beat_every / 2
        return max(0.0, self._beat_due - time.monotonic())

    # -- calls -----------------------------------------------------------------------------------

    def send(self, to: str, body: Text, **headers: object) -> None:
        """Send a message; `in_reply_to=…` gives the header In-Reply-To. OSError if it is refused:
        `why()` says it in words."""
        self._tell(f"{self.home}/send", _compose(body, {"To": to} | headers))

    def reply(self, message: Message, body: Text, **headers: object) -> None:
        """Answer a message, or a question."""
        self.send(message.sender, body, **{"In-Reply-To": message.get("Message-ID")} | headers)

    def broadcast(self, body: Text, **headers: object) -> None:
        """Send a message to every other agent."""
        self._call(f"{self.tree}/dev/broadcast", _compose(body, {"To": "*"} | headers))

    def ask(self, to: str, question: Text, timeout: float = 60.0, **headers: object) -> Message:
        """Send a question and wait for its answer. TimeoutError after `timeout` seconds; whatever
        else ends the wait cancels the question."""
        return _in_thread(self.aask(to, question, timeout, **headers))

    async def aask(
        self,
        to: str,
        question: Text,
        timeout: float = 60.0,  # noqa: ASYNC109  # the other side is told of it
        **headers: object,
    ) -> Message:
        """The same under trio or asyncio; cancelling it cancels the question."""
        content = _compose(question, {"To": to, "Reply-By": f"{timeout:.3f}s"} | headers)
        place = f"{self.home}/asks/{self._call(f'{self.home}/asks/new', content, reply=True)}"
        try:
            return Message(await self._whole(f"{place}/answer"))
        except TimeoutError:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(place)
            raise

    def remember(self, text: Text, **headers: object) -> str:
        """Keep a note; the path of its file below the agent's directory. Headers: `type` (fact,
        skill, …), `tags` (words with commas between), `expires` (90d, or a date)."""
        return self._call(f"{self.home}/remember", _compose(text, headers), reply=True)

    def recall(self, query: Text, **headers: object) -> list[dict[str, Any]]:
        """What the files of one's memory say of some words, the best first: each with `path`,
        `line`, `snippet`, `score`, `type`, `tags`. Headers narrow it: `type`, `tags`, `limit`."""
        return _in_thread(self.arecall(query, **headers))

    async def arecall(self, query: Text, **headers: object) -> list[dict[str, Any]]:
        """The same under trio or asyncio."""
        file = self._open(f"{self.home}/recall", os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(file, _compose(query, headers))
            found = b""
            while (piece := await _read(file)) != b"":
                found += piece
        finally:
            _close(file)
        return [json.loads(line) for line in found.splitlines()]

    def remind(self, when: str, text: str) -> str:
        """Have a message sent to oneself: `in 10m`, `at 2026-12-01T09:00Z`, `cron "0 9 * * 1"`. Its
        number, to remove `reminders/NUMBER` by. The text may have several lines."""
        request = _bytes(f"{_line(when)} {text}").replace(b"\0", b" ") + b"\0"
        return self._call(f"{self.home}/reminders/new", request, reply=True)

    def publish(self, topic: str, data: Text) -> None:
        """Let every subscriber of a topic have a record."""
        self._call(f"{self.tree}/dev/topics/{_name(topic)}", _bytes(data))

    def subscribe(self, topic: str, since: int | None = None) -> Subscription:
        """The records of a topic, for `for` and `async for`: those after number `since` (0: all
        that are kept), or those that come from now on."""
        return Subscription(self, f"{self.tree}/dev/topics/{_name(topic)}", since)

    def enqueue(self, queue: str, body: Text, **headers: object) -> None:
        """Put a message into a queue."""
        content = _compose(body, {"To": queue} | headers)
        self._call(f"{self.tree}/dev/queues/{_name(queue)}/send", content)

    def put(self, key: str, data: Text, visibility: str = "private", mime: str = "") -> None:
        """Store an artifact in shared memory; who reads sees the old one or the new one."""
        path = f"{self.tree}/dev/shm/{visibility}/{key}"  # noqa: S108
        self._call(path, _bytes(data), flags=os.O_CREAT | os.O_TRUNC)
        if mime:
            os.setxattr(path, "user.mime_type", mime.encode())

    def get(self, key: str, visibility: str = "private") -> bytes:
        """Read an artifact. FileNotFoundError if there is none that one may read."""
        path = f"{self.tree}/dev/shm/{visibility}/{key}"  # noqa: S108
        with open(self._open(path, os.O_RDONLY), "rb") as artifact:
            return artifact.read()

    def spawn(self, spec: Mapping[str, object]) -> int:
        """Start a child process; its pid."""
        whole = json.loads(_bytes(json.dumps(spec, ensure_ascii=False)))  # without lone surrogates
        return int(self._call(f"{self._process}/spawn", json.dumps(whole).encode(), reply=True))

    def wait(self, pid: int) -> int:
        """Wait until a process has ended; its exit code."""
        return _in_thread(self.await_exit(pid))

    async def await_exit(self, pid: int) -> int:
        """The same under trio or asyncio."""
        return int(await self._whole(f"{self.tree}/proc/{pid}/wait"))

    def escalate(self, severity: str, text: str) -> str:
        """Tell the parent, and by severity those above it."""
        request = _bytes(f"{_line(severity)} {text}")
        return self._call(f"{self._process}/escalate", request, reply=True)

    def call(self, model: str = "", most: int | None = None) -> Call:
        """Ask whether a model (its own one by default) may be called, for at most so many tokens:
        for a `with` block that makes the call and says what it took. OSError if the budget or a
        limit says no (EDQUOT, EAGAIN, EMSGSIZE), or the model is above its tier."""
        return Call(self, " ".join(["llm", model, "" if most is None else str(most)]))

    def call_tool(self, name: str) -> Call:
        """The same for a call of a tool."""
        return Call(self, f"tool {name}")

    def report(self, tokens: int, model: str = "") -> None:
        """Tell of a call of a model that was made already."""
        self._call(f"{self._process}/budget/ctl", _line(f"report {tokens} {model}").encode())

    def heartbeat(self) -> None:
        """Say that this program is alive: for a handler that takes long and knows it."""
        self._call(f"{self._process}/heartbeat", b"1")

    def ready(self) -> None:
        """Say that the children may be started; reading mail says it too."""
        self._call(f"{self._process}/ctl", b"ready")

    def ask_model(self, prompt: Text, model: str = "") -> str:
        """What a model answers; this process's own by default. OSError if it is refused, or fails
        in the midst of the answer: `why()` says it in words."""
        with self.talk(model) as talk:
            return talk.ask(prompt)

    async def aask_model(self, prompt: Text, model: str = "") -> str:
        """The same under trio or asyncio; cancelling it stops the model."""
        with self.talk(model) as talk:
            return await talk.aask(prompt)

    def talk(self, model: str = "", chat: str = "") -> Talk:
        """A conversation with a model; with `chat`, that which is kept in `chats/CHAT`."""
        if chat:
            return Talk(self, f"{self.home}/chats/{_name(chat)}/ask")
        model = model or json.loads(_whole(f"{self._process}/info"))["model"]
        return Talk(self, f"{self.tree}/dev/llm/{_name(model)}")

    def why(self) -> str:
        """Why the last refused call of this process was refused."""
        with open(f"{self._process}/error", encoding="utf-8") as file:
            return file.read()

    # -- files -----------------------------------------------------------------------------------

    def _call(self, path: str, data: bytes, *, reply: bool = False, flags: int = 0) -> str:
        """Write, and read the reply. It is written again if it did not reach the daemon
        (ENOTCONN)."""
        while True:
            file = self._open(path, (os.O_RDWR if reply else os.O_WRONLY) | flags)
            done = 0
            try:
                while done < len(data):
                    done += os.write(file, data[done:] if done else data)
                answer = os.read(file, PIECE).decode().strip() if reply else ""
            except OSError as failure:
                _close(file)
                if failure.errno != errno.ENOTCONN or done:
                    raise
            else:
                os.close(file)
                return answer

    def _tell(self, path: str, data: bytes) -> None:
        """Write to a file that stays open: one message is one write, and one call. It is
        written again if it did not reach the daemon (ENOTCONN) or the file is gone (ESTALE)."""
        key = os.getpid(), path  # whoever opened it is who writes, and a fork is another
        while True:
            file = self._kept.get(key, -1)
            fresh = file < 0
            if fresh:
                file = self._kept[key] = self._open(path, os.O_WRONLY)
            try:
                os.write(file, data)
            except OSError as failure:
                if failure.errno not in (errno.ENOTCONN, errno.ESTALE):
                    raise
                _close(self._kept.pop(key))
                if fresh and failure.errno == errno.ESTALE:
                    raise
            else:
                return

    def _open(self, path: str, flags: int) -> int:
        """Open a file, as soon as the tree is there. An event loop is not held up for that."""
        deadline, absence = time.monotonic() + self.patience, _Absence(self)
        while True:
            try:
                return os.open(path, flags | os.O_CLOEXEC, 0o600)
            except OSError as failure:
                pause = absence.pause(failure)
                late = time.monotonic() > deadline or _running() != (None, None)
                if pause is None or (pause and late):
                    raise
            time.sleep(pause)

    def _is_away(self, failure: OSError) -> bool:
        """Whether the daemon is: also where there is no such file, because nothing is mounted."""
        if failure.errno != errno.ENOENT:
            return failure.errno in AWAY
        try:
            os.statvfs(f"{self.tree}/agents")
        except OSError:
            return True
        return False

    async def _whole(self, path: str) -> bytes:
        """What a stream gives until its end; from the beginning again if it was cut."""
        while True:
            file, content = self._open(path, os.O_RDONLY | os.O_NONBLOCK), b""
            try:
                while (piece := await _read(file)) != b"":
                    content += piece
                return content
            except OSError as failure:
                if not self._is_away(failure):
                    raise
            finally:
                _close(file)


class _Absence:
    """Of the daemon, while attempts to reach it fail one after the other."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._was_there = False
        self._next = FIRST_PAUSE

    def pause(self, failure: OSError) -> float | None:
        """Seconds to wait before the next attempt. None: the daemon is there, and has refused."""
        if self._agent._is_away(failure):
            self._was_there = False
            pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
            return pause
        if failure.errno != errno.ENOENT or self._was_there:
            return None
        self._was_there = True  # since when? Maybe it was mounted between the open and this look
        return 0.0


class Call:
    """A call of a model or a tool that may be made now. Leaving the `with` block settles it: as
    what was set aside for it if nobody said what it took, as not made if the block raises.
    `skipped`: the rule because of which it is not to be made; empty otherwise."""

    def __init__(self, agent: Agent, request: str) -> None:
        self._agent = agent
        answer, _, self.skipped = self._ask(request).partition(" ")
        self._open = "" if self.skipped else answer

    def settle(self, tokens_in: int | None = None, tokens_out: int = 0) -> None:
        """It was made, and took so many tokens."""
        self._end("settle", "" if tokens_in is None else f"{tokens_in} {tokens_out}")

    def cancel(self) -> None:
        """It was not made."""
        self._end("cancel", "")

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        if kind is None:
            self.settle()
        else:
            with contextlib.suppress(OSError):  # what the block raised is what matters
                self.cancel()

    def _end(self, verb: str, tokens: str) -> None:
        number, self._open = self._open, ""
        if number:
            self._ask(f"{verb} {number} {tokens}")

    def _ask(self, request: str) -> str:
        line = _line(request).encode()
        return self._agent._call(f"{self._agent._process}/call", line, reply=True)


class Talk:
    """A conversation with a model: it is told all that was said before. Close it, or use it in a
    `with` block: that stops an answer which is under way."""

    def __init__(self, agent: Agent, path: str) -> None:
        self._agent = agent
        self._path = path
        self._file = -1

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation."""
        _close(self._file)
        self._file = -1

    def ask(self, prompt: Text) -> str:
        """The whole answer to `prompt`."""
        return "".join(self.stream(prompt))

    async def aask(self, prompt: Text) -> str:
        """The same under trio or asyncio."""
        return "".join([piece async for piece in self.astream(prompt)])

    def stream(self, prompt: Text) -> Iterator[str]:
        """The answer as it comes."""
        pieces = self._pieces(prompt)
        while (piece := _in_thread(_next_of(pieces))) is not None:
            yield piece

    def astream(self, prompt: Text) -> AsyncIterator[str]:
        """The same under trio or asyncio."""
        return self._pieces(prompt)

    async def _pieces(self, prompt: Text) -> AsyncIterator[str]:
        if self._file < 0:
            self._file = self._agent._open(self._path, os.O_RDWR | os.O_NONBLOCK)
        data = _bytes(prompt)
        if data.startswith(b"{"):  # that would be a request of a dialect
            data = b"\n" + data
        done = 0
        while done < len(data):
            done += os.write(self._file, data[done:])
        text = codecs.getincrementaldecoder("utf-8")("replace")
        while piece := await _read(self._file):
            if words := text.decode(piece):
                yield words
        if words := text.decode(b"", final=True):
            yield words


class Subscription:
    """The records of a topic. It goes on where it was when the daemon is back."""

    def __init__(self, agent: Agent, path: str, since: int | None) -> None:
        self._agent = agent
        self._path = path
        self._since = since
        self._file = -1
        self._rest = b""

    def __iter__(self) -> Iterator[Record]:
        while True:
            yield _in_thread(self._next())

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            yield await self._next()

    def open(self) -> None:
        """Subscribe now, and not when the first record is asked for."""
        if self._file < 0:
            self._file = self._agent._open(self._path, os.O_RDWR | os.O_NONBLOCK)
            if self._since is not None:
                os.write(self._file, f"since {self._since}".encode())

    def close(self) -> None:
        _close(self._file)
        self._file, self._rest = -1, b""

    async def _next(self) -> Record:
        while b"\n" not in self._rest:
            try:
                self.open()
                piece = await _read(self._file)
                if not piece:
                    raise FileNotFoundError(errno.ENOENT, "the topic is gone", self._path)
                self._rest += piece
            except OSError as failure:
                self.close()
                if not self._agent._is_away(failure):
                    raise
                await _wait(None, FIRST_PAUSE)
        line, _, self._rest = self._rest.partition(b"\n")
        fields = json.loads(line)
        self._since = fields["seq"]
        if fields.get("type") == "lost":
            return Record(fields["seq"], "", b"", fields["count"])
        coded = fields.get("data_base64")
        data = _bytes(fields["data"]) if coded is None else base64.b64decode(coded)
        return Record(fields["seq"], fields["from"], data)


def _noted(message: Message) -> None:
    log.info("%r: %s", message, message.text)


class _Source:
    """One `recv`, of the inbox or of a queue, and what is known of the message it gave last."""

    kind: Callable[[bytes], Message] = Message

    def __init__(self, path: str, handler: Callable[[Message], Callable[..., object] | None]):
        self.path = path
        self.handler = handler
        self.file = -1
        self.ready = False
        self.owed = ""  # what is to be said of the last message, unless asking for the next says it
        self._finished = ""  # the id of the last message, if it was handled
        self._ending = "done"  # what is to be said of one that was handled

    def opened(self, file: int) -> None:
        self.file, self.ready = file, True

    def take(self) -> Message | None:
        """The next message; None if none waits."""
        if self.owed not in ("", "done"):
            self._say()
        while self.ready:
            content = b""
            try:
                while len(piece := os.read(self.file, PIECE)) == PIECE:
                    content += piece
                content += piece
            except BlockingIOError:
                self.ready = False
                break
            message, self.owed = self.kind(content), ""
            self.ready = message.waiting > 0  # else the poller says when there is another
            if message.id != self._finished:
                return message
            self.owed = self._ending  # a crash of the daemon came between handling and saying so
        self._say()
        return None

    def finish(self, message: Message) -> None:
        """It was handled."""
        self._finished, self.owed = message.id, self._ending

    def fail(self, message: Message, words: str) -> None:
        """It could not be handled."""
        self.settle(f"failed {words}")

    def settle(self, words: str = "") -> None:
        """Say what became of the message; when the daemon is back if it cannot be said now."""
        self.owed = words or self.owed
        with contextlib.suppress(OSError):
            self._say()

    def _say(self) -> None:
        if self.owed:
            with contextlib.suppress(FileNotFoundError):  # it expired, or was settled otherwise
                os.write(self.file, _bytes(self.owed))
            self.owed = ""


class _TaskSource(_Source):
    """The `recv` of a worker: an answer is written for each task. A cancelled one is over already:
    nobody waits for an answer."""

    @staticmethod
    def kind(content: bytes) -> Message:
        message = Message(content)
        return Work(content) if message.type == "assigned-task" else message

    async def answer(self, work: Message, returned: Any) -> None:
        """Have an answer: what its handler returned, as JSON."""
        if not isinstance(work, Work):
            self._ending = "done"
            return
        if not (
            returned is None or isinstance(returned, Mapping | list | tuple | bool | int | float)
        ):
            returned = (await _answer(returned)).decode(errors="replace")
        self._ending = self._about(work, ok=returned)

    def fail(self, message: Message, words: str) -> None:
        self._finished, self._ending = message.id, self._about(message, error=words, again=True)
        self.settle(self._ending)

    @staticmethod
    def _about(work: Message, **said: object) -> str:
        assert isinstance(work, Work)
        return json.dumps({"task": work.task, "attempt": work.attempt} | said)

    def _say(self) -> None:
        try:
            super()._say()
        except OSError as failure:
            if failure.errno not in (errno.ESTALE, errno.EACCES):
                raise
            self.owed = ""
            log.warning("an answer came too late: %s", failure.strerror)


# -- helpers -------------------------------------------------------------------------------------


def _bytes(text: Text) -> bytes:
    """Text as UTF-8. Of halves of surrogate pairs, which models and JSON bring, two that belong
    together become the character that they are, and one alone U+FFFD."""
    if not isinstance(text, str):
        return bytes(text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


async def _answer(returned: Any) -> bytes:
    """What a handler returned, as it is sent: text and bytes as they are, of a generator all that
    it gives, other values that JSON knows as JSON, and anything else as `str` says it."""
    if isinstance(returned, Text):
        return _bytes(returned)
    if isinstance(returned, AsyncIterator):
        return b"".join([await _answer(piece) async for piece in returned])
    if isinstance(returned, Iterator):
        return b"".join([await _answer(piece) for piece in returned])
    if isinstance(returned, Mapping | list | tuple | int | float):
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            return _bytes(json.dumps(returned, ensure_ascii=False))
    return _bytes(str(returned))


def _line(text: str) -> str:
    """`text`, if it is one line. ValueError."""
    if NO_LINE.search(text):
        raise ValueError(f"one line of text was expected, not {text!r}")
    return text


def _name(name: str) -> str:
    """`name`, if it names something in a directory, and nothing elsewhere. ValueError."""
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"a name was expected, not {name!r}")
    return _line(name)


def _compose(body: Text, headers: Mapping[str, object]) -> bytes:
    lines = []
    for key, value in headers.items():
        name, text = key.replace("_", "-").title(), str(value)
        if not HEADER_NAME.fullmatch(name) or NO_LINE.search(text):
            raise ValueError(f"a header is one line of text, not {f'{name}: {text}'!r}")
        lines.append(f"{name}: {text}")
    return _bytes("\n".join([*lines, "", ""])) + _bytes(body)


def _close(file: int) -> None:
    with contextlib.suppress(OSError):  # of a daemon that is gone, or never opened
        os.close(file)


def _close_all(files: dict[tuple[int, str], int]) -> None:
    for file in files.values():
        _close(file)


def _whole(path: str) -> bytes:
    """The content of a small file, in one read: between two it may have become another."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, PIECE)
    finally:
        os.close(file)


async def _read(file: int) -> bytes:
    """The next bytes of a descriptor that does not block."""
    while True:
        try:
            return os.read(file, PIECE)
        except BlockingIOError:
            await _wait(file, None)


async def _next_of(pieces: AsyncIterator[str]) -> str | None:
    return await anext(pieces, None)


# -- waiting, in a thread or under an event loop ---------------------------------------------------


def _in_thread(call: Coroutine[Any, Any, T]) -> T:
    """Run `call` where there is no event loop: then `_wait` waits by itself."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    call.close()
    raise TypeError("under an event loop, and with async handlers, `await` arun, aask, await_exit")


async def _wait(file: int | None, seconds: float | None) -> None:
    """Until the file can be read, or so many seconds (None: for ever); with neither, let others
    have a turn."""
    trio, asyncio = _running()
    if trio is not None:
        if file is None and not seconds:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            await (trio.sleep_forever() if file is None else trio.lowlevel.wait_readable(file))
    elif asyncio is None:
        poller = select.poll()
        if file is not None:
            poller.register(file, select.POLLIN)
        if file is not None or seconds:
            poller.poll(None if seconds is None else seconds * 1000)
    elif file is None:
        await asyncio.sleep(seconds)
    else:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(file, readable.set)
        try:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(readable.wait(), seconds)
        finally:
            loop.remove_reader(file)


def _running() -> tuple[Any, Any]:
    """The library whose event loop runs in this thread: (trio, None), (None, asyncio) or neither.
    Who runs under one has imported it."""
    trio, asyncio = sys.modules.get("trio"), sys.modules.get("asyncio")
    if trio is not None:
        with contextlib.suppress(RuntimeError):
            trio.lowlevel.current_task()
            return trio, None
    if asyncio is not None:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return None, asyncio
    return None, None

"""An agent's program that tries to get at what it may not. It is run by test_attack.py.

Each attempt is one function. It raises OSError, or returns nothing where it got nothing, or what it
got. What is printed is a JSON object for each: name, errno, got. It imports nothing of AgentFS.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

GIVEN = json.loads(sys.argv[1])
TREE = os.environ["AGENTFS"]
BOB, BOBS, DAEMON = GIVEN["bob"], GIVEN["bobs"], GIVEN["daemon"]
STATE, MAIL, SENT = GIVEN["state"], GIVEN["mail"], GIVEN["sent"]
ME = os.environ["AGENT_PID"]

ATTEMPTS = []


def attempt(*errors, path="", modes=False, only="", guard="us"):
    """Declares one. `errors`: the errno names that it may get, none: it gets nothing. `path`: what
    the audit says of it. `modes`: as another user the file's mode keeps it out, before the tree is
    asked. `only`: "same" or "other" user. `guard`: who keeps it out, `us` or `linux`."""

    def declare(function):
        entry = {"name": function.__name__.strip("_"), "errors": errors, "modes": modes}
        entry |= {"path": path.format(bob=BOB, me=ME, mail=MAIL, sent=SENT), "guard": guard}
        if only in ("", GIVEN["who"]):
            ATTEMPTS.append((entry, function))
        return function

    return declare


def at(path):
    return os.path.join(TREE, path)


def opened(path, flags=os.O_RDONLY, mode=0o644):
    descriptor = os.open(at(path), flags, mode)
    try:
        return os.read(descriptor, 4096).decode() if flags & os.O_ACCMODE == 0 else "it is open"
    finally:
        os.close(descriptor)


def write(path, text, flags=0):
    descriptor = os.open(at(path), os.O_WRONLY | flags)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    return "written"


def ask(path, request, flags=0):
    descriptor = os.open(at(path), os.O_RDWR | flags)
    try:
        os.write(descriptor, request.encode())
        return os.read(descriptor, 4096).decode()
    finally:
        os.close(descriptor)


def simple(name, call, *errors, **how):
    """One that is one line."""
    call.__name__ = name
    attempt(*errors, **how)(call)


def reads(name, path, *errors, **how):
    simple(name, lambda: opened(path), *errors, path="/" + path, **how)


def writes(name, path, text, *errors, **how):
    simple(name, lambda: write(path, text), *errors, path="/" + path, **how)


def asks(name, path, request, *errors, **how):
    simple(name, lambda: ask(path, request), *errors, path="/" + path, **how)


def lists(name, path, *errors, **how):
    simple(name, lambda: os.listdir(at(path)), *errors, path="/" + path, **how)


# -- others' mail --------------------------------------------------------------------------------

THEIRS = {"modes": True}

reads("recv of another", "agents/bob/recv", "EACCES", **THEIRS)
lists("inbox of another", "agents/bob/inbox/new", "EACCES", **THEIRS)
reads("message of another", f"agents/bob/inbox/new/{MAIL}", "EACCES", **THEIRS)
lists("sent of another", "agents/bob/sent", "EACCES", **THEIRS)
reads("sent message of another", f"agents/bob/sent/{SENT}", "EACCES", **THEIRS)
lists("asks of another", "agents/bob/asks", "EACCES", **THEIRS)
lists("reminders of another", "agents/bob/reminders", "EACCES", **THEIRS)
writes("send as another", "agents/bob/send", "To: init\n\nit was bob", "EACCES", **THEIRS)
writes("outbox of another", "agents/bob/outbox/init", "it was bob", "EACCES", **THEIRS)
writes("write to a stranger", "agents/mallory/outbox/bob", "psst", "EACCES", only="other")
writes("send to a stranger", "agents/mallory/send", "To: bob\n\npsst", "EACCES", only="other")
asks("ask a stranger", "agents/mallory/asks/new", "To: bob\n\nwell?", "EACCES", only="other")


@attempt("EACCES", path="/agents/bob/inbox/new/{mail}", modes=True)
def acknowledge_anothers_mail():
    os.unlink(at(f"agents/bob/inbox/new/{MAIL}"))
    return "acknowledged"


@attempt("EACCES", path="/agents/bob/inbox/new/{mail}", modes=True)
def claim_anothers_mail():
    os.rename(at(f"agents/bob/inbox/new/{MAIL}"), at("agents/bob/inbox/cur/mine"))
    return "claimed"


@attempt("EACCES", "EXDEV", path="/agents/bob/inbox/new/{mail}", modes=True)
def move_anothers_mail_into_ones_own():
    os.rename(at(f"agents/bob/inbox/new/{MAIL}"), at("agents/self/inbox/new/mine"))
    return "moved"


@attempt("EACCES", "EPERM", path="/agents/mallory/inbox/new/linked", modes=True)
def link_anothers_mail_into_ones_own():
    os.link(at(f"agents/bob/inbox/new/{MAIL}"), at("agents/self/inbox/new/linked"))
    return "linked"


@attempt("EACCES", path="/agents/bob/inbox/cur/planted", modes=True)
def plant_claimed_mail():
    return opened("agents/bob/inbox/cur/planted", os.O_WRONLY | os.O_CREAT)


asks("set a reminder for another", "agents/bob/reminders/new", "in 1h hide", "EACCES", **THEIRS)


@attempt("EACCES", path=f"/agents/bob/reminders/{GIVEN['reminder']}", modes=True)
def cancel_a_reminder_of_another():
    os.unlink(at(f"agents/bob/reminders/{GIVEN['reminder']}"))
    return "cancelled"


@attempt("EACCES", path=f"/agents/bob/asks/{GIVEN['ask']}", modes=True)
def cancel_anothers_question():
    os.rmdir(at(f"agents/bob/asks/{GIVEN['ask']}"))
    return "cancelled"


# -- others' files: symlinks, .., hard links, renames over ----------------------------------------

NOTES = "agents/bob/memory/notes"

lists("memory of another", "agents/bob/memory", "EACCES", **THEIRS)
reads("notes of another", NOTES, "EACCES", **THEIRS)
simple("notes of another by ..", lambda: opened("agents/self/memory/../../bob/memory/notes"),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("truncate notes of another", lambda: opened(NOTES, os.O_WRONLY | os.O_TRUNC),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("truncate(2) on another's", lambda: os.truncate(at(NOTES), 0),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("chmod on another's", lambda: os.chmod(at(NOTES), 0o666),
       "EACCES", "EPERM", path="/" + NOTES, modes=True)  # fmt: skip
simple("utime on another's", lambda: os.utime(at(NOTES)),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("setxattr on another's", lambda: os.setxattr(at(NOTES), "user.secret", b"x"),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("getxattr on another's", lambda: os.getxattr(at(NOTES), "user.secret"),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("listxattr on another's", lambda: os.listxattr(at(NOTES)),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("removexattr on another's", lambda: os.removexattr(at(NOTES), "user.secret"),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip
simple("readlink in another's", lambda: os.readlink(at("agents/bob/memory/way")),
       "EACCES", path="/agents/bob/memory/way", modes=True)  # fmt: skip
simple("fifo in another's", lambda: opened("agents/bob/memory/fifo", os.O_RDWR | os.O_NONBLOCK),
       "EACCES", path="/agents/bob/memory/fifo", modes=True)  # fmt: skip
simple("make a file in another's",
       lambda: opened("agents/bob/memory/new", os.O_WRONLY | os.O_CREAT), "EACCES",
       path="/agents/bob/memory/new", modes=True)  # fmt: skip
simple("make a folder in another's", lambda: os.mkdir(at("agents/bob/memory/new")),
       "EACCES", path="/agents/bob/memory/new", modes=True)  # fmt: skip
simple("remove a file of another", lambda: os.unlink(at(NOTES)),
       "EACCES", path="/" + NOTES, modes=True)  # fmt: skip


@attempt("EACCES", path="/" + NOTES, modes=True)
def read_through_a_symlink():
    os.symlink("../../bob/memory/notes", at("agents/self/memory/way"))
    return opened("agents/self/memory/way")


@attempt("EACCES", path="/agents/bob/memory/new", modes=True)
def write_through_a_symlink():
    os.symlink("../../bob/memory/new", at("agents/self/memory/out"))
    return opened("agents/self/memory/out", os.O_WRONLY | os.O_CREAT)


@attempt("EACCES", "EXDEV", "EPERM", path="/agents/mallory/memory/linked", modes=True)
def hard_link_to_anothers():
    os.link(at(NOTES), at("agents/self/memory/linked"))
    return "linked"


@attempt("EACCES", path="/agents/mallory/memory/mine", modes=True)
def rename_over_anothers():
    opened("agents/self/memory/mine", os.O_WRONLY | os.O_CREAT)
    os.rename(at("agents/self/memory/mine"), at(NOTES))
    return "renamed over"


@attempt("EACCES", path="/" + NOTES, modes=True)
def rename_anothers_away():
    os.rename(at(NOTES), at("agents/self/memory/theirs"))
    return "renamed away"


reads("log of another", "agents/bob/log", "EPERM", **THEIRS)
simple("empty the log of another", lambda: opened("agents/bob/log", os.O_WRONLY | os.O_TRUNC),
       "EACCES", "EPERM", path="/agents/bob/log", modes=True)  # fmt: skip
reads("definition of another", "agents/bob/spec.yaml", "EPERM", "EACCES")
reads("info of another", f"proc/{BOB}/info", "EPERM")
reads("environ of another", f"proc/{BOB}/environ", "EACCES", **THEIRS)
reads("signals of another", f"proc/{BOB}/signals", "EACCES", **THEIRS)
reads("error of another", f"proc/{BOB}/error", "EACCES", **THEIRS)
simple("pipe of another", lambda: opened(f"proc/{BOB}/pipes/down", os.O_RDWR | os.O_NONBLOCK),
       "EACCES", path=f"/proc/{BOB}/pipes/down")  # fmt: skip
# What one may not read of shared memory does not exist, and the names are nobody's business.
simple("private key of another", lambda: opened("agents/bob/shm/private/hideout"),
       "ENOENT", "EACCES", guard="hidden")  # fmt: skip
simple("list private keys of another", lambda: os.listdir(at("agents/bob/shm/private")) or None,
       modes=True, guard="hidden")  # fmt: skip

# -- /shared: documents, and what rules keep shut ------------------------------------------------

writes("the documents", "shared/docs/guide", "mine", "EACCES", **THEIRS)
simple("a document more", lambda: opened("shared/docs/new", os.O_WRONLY | os.O_CREAT),
       "EACCES", path="/shared/docs/new", modes=True)  # fmt: skip
simple("the documents' folder away", lambda: os.rename(at("shared/docs"), at("shared/docz")),
       "EACCES", "EPERM", path="/shared/docs", modes=True)  # fmt: skip
reads("what a rule denies", "shared/vault/plan", "EPERM")
writes("write what a rule denies", "shared/vault/plan", "x", "EPERM")
simple("the vault under another name", lambda: os.rename(at("shared/vault"), at("shared/open")),
       "EPERM", path="/shared/vault", modes=True)  # fmt: skip
simple("a device", lambda: os.mknod(at("shared/null"), 0o20666, os.makedev(1, 3)),
       "EPERM", path="/shared/null" if os.geteuid() == 0 else "", modes=True)  # fmt: skip


@attempt("EPERM", path="/shared/alias")
def the_vault_by_a_hard_link():
    os.link(at("shared/vault/plan"), at("shared/alias"))
    return opened("shared/alias")


@attempt("EPERM", path="/shared/vault/plan")
def the_vault_by_a_symlink():
    os.symlink("vault/plan", at("shared/door"))
    try:
        return opened("shared/door")
    finally:
        os.unlink(at("shared/door"))


@attempt("EPERM", path="/shared/vault/plan")
def the_vault_by_a_file_that_is_held_without_being_opened():
    """O_PATH asks for nothing but the look-up; /proc/self/fd opens what it holds."""
    held = os.open(at("shared/vault/plan"), os.O_PATH)
    try:
        return opened(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


@attempt("EACCES", "EPERM", path="/shared/mine", modes=True)
def rename_over_a_document():
    opened("shared/mine", os.O_WRONLY | os.O_CREAT)
    try:
        os.rename(at("shared/mine"), at("shared/docs/guide"))
    finally:
        os.unlink(at("shared/mine"))
    return "renamed over"


@attempt("EPERM", path="/shared/vault/plan")
def a_race_of_open_and_rename():
    """A name that leads to one's own file and to the vault in turn, while it is opened."""
    for name, text in (("mine", "mine"), ("vault/plan", "")):
        if text:
            opened(f"shared/{name}", os.O_WRONLY | os.O_CREAT)
    over = threading.Event()

    def flip():
        while not over.is_set():
            for target in ("mine", "vault/plan"):
                os.symlink(target, at("shared/next"))
                os.rename(at("shared/next"), at("shared/turn"))

    os.symlink("mine", at("shared/turn"))
    flipping = threading.Thread(target=flip)
    flipping.start()
    got, refused = "", None
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline or refused is None:
            try:
                got += opened("shared/turn")
                write("shared/turn", "")
            except OSError as failure:
                if failure.errno in (errno.EPERM, errno.EACCES):
                    refused = failure
    finally:
        over.set()
        flipping.join()
        for name in ("turn", "mine"):
            os.unlink(at(f"shared/{name}"))
    if not got and refused is not None:
        raise refused
    return got


@attempt("EPERM", path="/shared/vault/plan")
def a_race_of_folders():
    """The path stays, what it leads to changes: two folders change places while one is opened."""
    os.mkdir(at("shared/a"))
    write_new("shared/a/plan", "decoy")
    over, got, refused = threading.Event(), set(), []

    def swap():
        while not over.is_set():
            with suppress(OSError):
                exchange(at("shared/a"), at("shared/vault"))

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            for name in ("a", "vault"):
                try:
                    got.add(opened(f"shared/{name}/plan"))
                except OSError as failure:
                    if name == "vault":
                        refused.append(failure)
    finally:
        over.set()
        swapping.join()
        os.unlink(at("shared/a/plan"))
        os.rmdir(at("shared/a"))
    if got <= {"decoy"} and refused:
        raise refused[0]
    return sorted(got)


def write_new(path, text):
    descriptor = os.open(at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def exchange(one, other):
    """renameat2(2), RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


# -- others' processes ---------------------------------------------------------------------------

THEM = f"proc/{BOB}"

for command in ("KILL", "TERM", "STOP", "HUP", "kill-branch", f"reparent {ME}", "done 0", "running",
                "idle"):  # fmt: skip
    writes(f"ctl of another: {command}", f"{THEM}/ctl", command, "EACCES", "EPERM", **THEIRS)
for verb in ("stop", "restart", "start"):
    writes(f"agents' ctl: {verb}", "agents/bob/ctl", verb, "EACCES", "EEXIST", "EINVAL", **THEIRS)
writes("kill process 1", "proc/1/ctl", "KILL", "EPERM", "EACCES", **THEIRS)
writes("heartbeat of another", f"{THEM}/heartbeat", "1", "EACCES", **THEIRS)
writes("attach one's program to another", f"{THEM}/attach", str(os.getpid()), "EACCES", **THEIRS)
asks("spawn below another", f"{THEM}/spawn", "{name: theirs}", "EACCES", **THEIRS)
asks("spawn below process 1", "proc/1/spawn", "{name: theirs}", "EACCES", **THEIRS)
asks("escalate as another", f"{THEM}/escalate", "error it was bob", "EACCES", **THEIRS)
asks("a call on another's account", f"{THEM}/call", "llm", "EACCES", **THEIRS)
writes("limit of another", f"{THEM}/limits/max_children", "0", "EPERM", "EACCES", **THEIRS)
writes("budget of another", f"{THEM}/budget/ctl", "release", "EACCES", **THEIRS)
writes("capabilities of another", f"{THEM}/caps/ctl", "-llm", "EACCES", **THEIRS)
writes(
    "write the definition of another", "agents/bob/spec.yaml", "role: lead\n", "EACCES", **THEIRS
)
simple("remove another", lambda: os.rmdir(at("agents/bob")),
       "EACCES", path="/agents/bob", modes=True)  # fmt: skip

# -- more for oneself ----------------------------------------------------------------------------

OWN = f"proc/{ME}"

for name, spec, errors in (
    ("role kernel", "{name: k, role: kernel}", ("EPERM",)),
    ("higher tier", "{name: k, tier: strategic}", ("EPERM",)),
    ("strategic task", "{name: k, role: task, tier: strategic}", ("EPERM",)),
    ("another user", f"{{name: k, user: {GIVEN['user']}}}", ("EPERM",)),
    ("more budget", "{name: k, tier: tactical, budget: {tactical: 1000000}}", ("EDQUOT",)),
    ("budget of a tier it has none of", "{name: k, budget: {operational: 5}}", ("EDQUOT",)),
    ("a name that is taken", "{name: bob}", ("EEXIST",)),
    ("the name of process 1", "{name: init}", ("EEXIST", "EINVAL", "EPERM")),
    ("a name with a path", "{name: ../../etc/x}", ("EINVAL",)),
    *((f"the name {name}", f"{{name: '{name}'}}", ("EINVAL",))
      for name in ("operator", "Operator", "0perator", "kernel", "user", "nobody", "all", "se1f",
                   "12", "-x")),
    ("a name that differs by case", "{name: BOB}", ("EEXIST",)),
    ("a name that a rule grants something to", "{name: auditor}", ("EACCES", "EPERM")),
    ("aliases that multiply",
     "".join(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}\n" if n else "x0: &x0 {k: v}\n"
             for n in range(12)), ("EINVAL",)),
    ("another's group", "{name: k, group: team}", ("EACCES", "EPERM")),
    ("an unknown capability", "{name: k, caps: [root]}", ("EINVAL",)),
    ("a tool that it denies", "{name: k, deny: [shell_exec], tools: [bash]}", ("EACCES", "EPERM")),
    ("fields that there are not", "{name: k, uid: 0}", ("EINVAL",)),
    ("a definition that takes long to read", "exec: [" + "a," * 30_000 + "a]", ("EINVAL",)),
):  # fmt: skip
    asks(f"spawn: {name}", f"{OWN}/spawn", spec, *errors)


# What the daemon looks at for somebody else: it has rights of its own, and would wait.
for name, file in (
    ("a program that is a fifo", os.path.realpath("wait")),
    ("a program that is another's mail", "agents/bob/recv"),
    ("a program that is another's notes", NOTES),
    ("a program that is the audit", "sys/audit/log"),
):
    spec = json.dumps({"name": "k", "caps": [], "exec": [at(file)]})
    asks(f"spawn: {name}", f"{OWN}/spawn", spec, "EACCES")


@attempt(path="")
def wider_capabilities_for_a_child():
    """It is spawned, and has nothing that its parent does not have."""
    child = ask(f"{OWN}/spawn", "{name: wide, caps: ['*'], limits: {max_children: max}}").strip()
    theirs = set(opened(f"proc/{child}/caps/effective").split())
    mine = set(opened(f"{OWN}/caps/effective").split())
    write(f"proc/{child}/ctl", "KILL")
    return sorted(theirs - mine) or None


writes("raise one's own limit", f"{OWN}/limits/max_children", "max", "EPERM")
writes("raise one's own rate", f"{OWN}/limits/messages_per_minute", "1000", "EPERM")
writes("add a capability", f"{OWN}/caps/ctl", "+broadcast", "EPERM")
writes("allocate to oneself", f"{OWN}/budget/ctl", f"allocate {ME} 5000", "EACCES", "EPERM")
writes("report less than nothing", f"{OWN}/budget/ctl", "report -1000", "EINVAL")
asks("more tokens than there are", f"{OWN}/call", "llm sonnet 100000", "EDQUOT")
asks("a call that costs more than any can", f"{OWN}/call", f"llm sonnet {10**15}", "EDQUOT",
     "EMSGSIZE", "EINVAL")  # fmt: skip
writes("settle a call with a figure that ruins all", f"{OWN}/budget/ctl",
       f"settle 1 {10**12} {10**12}", "EMSGSIZE", "ENOENT", "EINVAL")  # fmt: skip
asks("a model above its tier", f"{OWN}/call", "llm opus 1", "EPERM")
asks("a tool that is denied", f"{OWN}/call", "tool rocket", "EACCES", "EPERM")
writes("reparent oneself", f"{OWN}/ctl", "reparent 1", "EACCES", "EPERM")
writes("its own definition", "agents/mallory/spec.yaml", "role: lead\n", "EPERM", **THEIRS)
writes("attach the operator's program", f"{OWN}/attach", str(GIVEN["sleeper"]), "EBUSY", "EPERM")
writes("attach the daemon", f"{OWN}/attach", str(DAEMON), "EBUSY", "EPERM")
writes("attach a neighbour", f"{OWN}/attach", str(BOBS), "EBUSY", "EPERM")

# -- the system ----------------------------------------------------------------------------------

for name in ("agentfs", "acl", "roles", "models"):
    writes(f"etc: {name}", f"etc/{name}.yaml", "{}\n", "EACCES", "EPERM", **THEIRS)
simple("etc: a file beside", lambda: opened("etc/x", os.O_WRONLY | os.O_CREAT),
       "EACCES", "EPERM", path="/etc/x", modes=True)  # fmt: skip
simple("etc: rename the rules", lambda: os.rename(at("etc/acl.yaml"), at("etc/x")),
       "EACCES", "EPERM", path="/etc/acl.yaml", modes=True)  # fmt: skip
for name in ("log", "head", "verify"):
    reads(f"audit: {name}", f"sys/audit/{name}", "EACCES")
lists("audit", "sys/audit", "EACCES")
asks("audit: query", "sys/audit/query", "agent=bob", "EACCES")
simple("a group", lambda: os.mkdir(at("sys/cgroup/mine")),
       "EACCES", "EPERM", path="/sys/cgroup/mine")  # fmt: skip
writes("out of the group", "sys/cgroup/cgroup.procs", "0", "EACCES", "EPERM")
writes("another into a group", "sys/cgroup/team/cgroup.procs", str(BOB), "EACCES", "EPERM")
writes("a group's limit", "sys/cgroup/team/tokens.max", "max", "EACCES", "EPERM")
writes("broadcast", "dev/broadcast", "hear me", "EACCES", "EPERM")
writes("broadcast by a header", "agents/mallory/send", "To: *\n\nhear me", "EACCES", "EPERM")
writes("a queue of another", "dev/queues/jobs/send", "x", "EACCES", **THEIRS)
reads("take from a queue of another", "dev/queues/jobs/recv", "EACCES", **THEIRS)
writes("a topic of another", "dev/topics/news", "x", "EACCES", **THEIRS)
simple("remove a queue of another", lambda: os.rmdir(at("dev/queues/jobs")),
       "EACCES", "EPERM", path="/dev/queues/jobs", modes=True)  # fmt: skip
simple("remove a topic of another", lambda: os.unlink(at("dev/topics/news")),
       "EACCES", "EPERM", path="/dev/topics/news", modes=True)  # fmt: skip
simple("open a topic of another to all", lambda: os.chmod(at("dev/topics/news"), 0o666),
       "EACCES", "EPERM", path="/dev/topics/news", modes=True)  # fmt: skip
simple("replace a global artifact", lambda: write("dev/shm/global/plan", "x", os.O_TRUNC),
       "EACCES", "EPERM", guard="hidden")  # fmt: skip
reads("an approval that is another's", "dev/approvals/000001/request", "EACCES")
writes("decide another's approval", "dev/approvals/000001/decision", "approve", "ENOENT")

# -- runs of others, and what they are made of -----------------------------------------------------

RUN = GIVEN["run"]

writes("cancel another's run", f"proc/runs/{RUN}/ctl", "cancel", "EACCES", "EPERM")
simple("a signal to another's run", lambda: write(f"proc/runs/{RUN}/signals/go", "1", os.O_CREAT),
       "EACCES", "EPERM", path=f"/proc/runs/{RUN}/signals/go")  # fmt: skip
simple("another's run again", lambda: ask(f"proc/runs/{RUN}/retry", "from: w"),
       "EACCES", "EPERM")  # fmt: skip
writes("another's pipeline", "etc/pipelines/theirs.yaml", "x", "EACCES", "EPERM", **THEIRS)
simple("another's pipeline away", lambda: os.unlink(at("etc/pipelines/theirs.yaml")),
       "EACCES", "EPERM", path="/etc/pipelines/theirs.yaml", modes=True)  # fmt: skip
simple("a policy", lambda: opened("etc/policies/mine.yaml", os.O_WRONLY | os.O_CREAT),
       "EACCES", "EPERM", path="/etc/policies/mine.yaml", modes=True)  # fmt: skip
simple("wake another's wait", lambda: write("dev/waits/go", "1", 0), "EACCES", "EPERM",
       path="/dev/waits/go")  # fmt: skip

# -- keys of providers, which nobody reads and only the operator sets ------------------------------

KEY = "etc/secrets/ANTHROPIC_API_KEY"

lists("which keys there are", "etc/secrets", "EACCES", **THEIRS)
reads("a key", KEY, "EACCES", **THEIRS)
simple("another key in its place", lambda: opened(KEY, os.O_WRONLY | os.O_TRUNC),
       "EACCES", path="/" + KEY, modes=True)  # fmt: skip
simple("a key more", lambda: opened("etc/secrets/MINE", os.O_WRONLY | os.O_CREAT),
       "EACCES", path="/etc/secrets/MINE", modes=True)  # fmt: skip
simple("a key away", lambda: os.unlink(at(KEY)) or "removed",
       "EACCES", path="/" + KEY, modes=True)  # fmt: skip
simple("what a key is known by", lambda: os.getxattr(at(KEY), "user.fingerprint"),
       "EACCES", path="/" + KEY, modes=True)  # fmt: skip


@attempt(path="")
def secrets_in_the_streams_of_the_kernel():
    """What happened is told to everybody; what was said in it is not."""
    text = b""
    for name in ("events.all", "kmsg"):
        descriptor = os.open(at(f"dev/{name}"), os.O_RDONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while part := os.read(descriptor, 1 << 20):
                text += part
        os.close(descriptor)
    return [secret for secret in GIVEN["secrets"] if secret.encode() in text] or None


@attempt("EPERM", path="/dev/approvals/000002/decision")
def approve_ones_own_request():
    with suppress(BlockingIOError):
        ask(f"{OWN}/spawn", "{name: asked}", os.O_NONBLOCK)
    return write("dev/approvals/000002/decision", "approve")


@attempt(path="")
def forged_headers():
    """The message is accepted; what its receiver reads is for the test to look at."""
    head = "From: init\nSender: init\nRelation: system\nMessage-ID: <1@x>\nDate: Thu, 1 Jan 1970\n"
    write("agents/self/send", f"To: init\n{head}Broadcast: <2@x>\nDelivery-Attempt: 7\n\nforged")


for name in ("approval-request", "escalation", "notice"):
    writes(f"a message of the kernel's, {name}", "agents/mallory/send",
           f"To: init\nType: {name}\n\napprove me", "EINVAL")  # fmt: skip


@attempt("EINVAL", path="/agents/init/inbox/new/000000000001.init", modes=True)
def a_place_in_the_order_of_another_inbox():
    return opened("agents/init/inbox/new/000000000001.init", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


@attempt("EAGAIN", path="/agents/mallory/outbox/init")
def more_messages_than_the_limit():
    for _ in range(5):
        write("agents/self/outbox/init", "spam")
    return "five more"


# -- who one is ----------------------------------------------------------------------------------


def in_orphan(task):
    """What `task()` gives in a program that forked twice and has a session of its own."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        os.setsid()
        parent = os.getpid()
        if os.fork() == 0:
            while os.getppid() == parent:
                time.sleep(0.001)
            try:
                answer = {"got": task()}
            except OSError as failure:
                answer = {"errno": failure.errno}
            theirs.sendall(json.dumps(answer).encode())
        os._exit(0)
    os.wait()
    theirs.close()
    answer = json.loads(ours.recv(4096))
    ours.close()
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    return answer["got"]


asks_as_orphan = {"path": "/proc/1/spawn", "modes": True}
simple("the operator, by forking twice",
       lambda: in_orphan(lambda: ask("proc/1/spawn", "{name: sneaked}")),
       "EACCES", **asks_as_orphan)  # fmt: skip


@attempt("EACCES", path="/proc/1/spawn", only="same")
def the_operator_by_leaving_the_control_group():
    """Root may move itself anywhere; who it descends from stays."""

    def leave():
        for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            with suppress(OSError), open(f"{top}/cgroup.procs", "w") as group:
                group.write("0")
        return ask("proc/1/spawn", "{name: sneaked}")

    return in_orphan(leave)


@attempt("EACCES", path="/etc/acl.yaml", only="same")
def the_operator_by_leaving_the_control_group_without_forking_twice():
    reader, writer = os.pipe()
    if os.fork() == 0:
        for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            with suppress(OSError), open(f"{top}/cgroup.procs", "w") as group:
                group.write("0")
        try:
            write("etc/acl.yaml", "rules: []\n")
            number = 0
        except OSError as failure:
            number = failure.errno
        os.write(writer, b"%d" % number)
        os._exit(0)
    os.wait()
    number = int(os.read(reader, 16))
    if number:
        raise OSError(number, os.strerror(number))
    return "the rules are mine"


@attempt("EACCES", path="/agents/bob/recv", only="same")
def the_neighbour_by_entering_its_control_group():
    """Root may write into any group; who it descends from stays."""
    with open(f"/proc/{BOBS}/cgroup") as groups:
        theirs = next(line[3:].strip() for line in groups if line.startswith("0::"))
    reader, writer = os.pipe()
    if os.fork() == 0:
        for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            with suppress(OSError), open(f"{top}{theirs}/cgroup.procs", "w") as group:
                group.write("0")
        try:
            opened("agents/bob/recv", os.O_RDONLY | os.O_NONBLOCK)
            number = 0
        except OSError as failure:
            number = failure.errno
        os.write(writer, b"%d" % number)
        os._exit(0)
    os.wait()
    number = int(os.read(reader, 16))
    if number:
        raise OSError(number, os.strerror(number))
    return "taken for bob"


# -- around the tree -----------------------------------------------------------------------------


def libc_ptrace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) == -1:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")
    return "traced"


LINUX = {"only": "other", "guard": "linux"}

for whose, ospid in (("neighbour", BOBS), ("daemon", DAEMON)):
    simple(f"kill the {whose}", lambda pid=ospid: os.kill(pid, signal.SIGTERM) or "killed",
           "EPERM", **LINUX)  # fmt: skip
    simple(f"trace the {whose}", lambda pid=ospid: libc_ptrace(pid), "EPERM", **LINUX)
    for entry in ("environ", "mem"):
        simple(f"{entry} of the {whose}", lambda pid=ospid, e=entry: opened(f"/proc/{pid}/{e}"),
               "EACCES", "EPERM", **LINUX)  # fmt: skip
    for entry in ("fd", "root/", "cwd/"):
        simple(f"{entry} of the {whose}", lambda pid=ospid, e=entry: os.listdir(f"/proc/{pid}/{e}"),
               "EACCES", **LINUX)  # fmt: skip
for file in ("store.db", "audit.key", "kernel.log", "logs/bob.log", "agents/bob/memory/notes",
             "shared/vault/plan"):  # fmt: skip
    simple(f"state: {file}", lambda f=file: opened(os.path.join(STATE, f)), "EACCES", **LINUX)
    simple(f"write state: {file}", lambda f=file: opened(os.path.join(STATE, f), os.O_RDWR),
           "EACCES", **LINUX)  # fmt: skip
for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
    if os.path.exists(f"{top}/cgroup.procs"):
        simple(f"leave the group by {top}",
               lambda top=top: opened(f"{top}/cgroup.procs", os.O_WRONLY),
               "EACCES", **LINUX)  # fmt: skip


@attempt("EACCES", "EPERM", "ENOSPC", **LINUX)
def root_in_a_name_space_of_its_own():
    reader, writer = os.pipe()
    if os.fork() == 0:
        number = 0
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):  # CLONE_NEWUSER
                raise OSError(ctypes.get_errno(), "unshare")
            write("etc/acl.yaml", "rules: []\n")
        except OSError as failure:
            number = failure.errno
        os.write(writer, b"%d" % number)
        os._exit(0)
    os.wait()
    number = int(os.read(reader, 16))
    if number:
        raise OSError(number, os.strerror(number))
    return "the rules are mine"


simple("state by .. of the folder it works in", lambda: opened("/proc/self/cwd/../../../store.db"),
       "ENOENT", **LINUX)  # fmt: skip
simple("a neighbour by .. of that", lambda: opened("/proc/self/cwd/../../bob/memory/notes"),
       "EACCES", **LINUX)  # fmt: skip
simple("state by the daemon's root", lambda: opened(f"/proc/{DAEMON}/root{STATE}/store.db"),
       "EACCES", **LINUX)  # fmt: skip
simple("the tree by a neighbour's root", lambda: opened(f"/proc/{BOBS}/root{TREE}/{NOTES}"),
       "EACCES", **LINUX)  # fmt: skip
simple("the tree by a neighbour's root, as the same user",
       lambda: opened(f"/proc/{BOBS}/root{TREE}/{NOTES}"),
       "EACCES", path="/" + NOTES, only="same")  # fmt: skip


@attempt("EACCES", path=f"/agents/bob/inbox/new/{MAIL}", only="same")
def a_neighbours_open_file():
    """Linux lets the same user open it anew; then the tree asks who that is."""
    for number in os.listdir(f"/proc/{BOBS}/fd"):
        link = f"/proc/{BOBS}/fd/{number}"
        with suppress(FileNotFoundError):
            if os.readlink(link).endswith(MAIL):
                return opened(link)
    return "bob does not have it open"


@attempt(guard="linux")
def inherited_descriptors():
    """0, 1 and 2 are there, and what lists them."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    with suppress(OSError):
        return sorted(n for n in found - {0, 1, 2} if os.fstat(n) is not None) or None


def main():
    os.mkfifo(at("agents/self/memory/wait"), 0o777)
    for entry, function in ATTEMPTS:
        error, got = "", None
        try:
            got = function()
        except OSError as failure:
            error = errno.errorcode.get(failure.errno, str(failure.errno))
        print(json.dumps(entry | {"errno": error, "got": got}, default=repr), flush=True)


main()

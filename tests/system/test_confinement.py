"""Programs without a capability, in a real tree: what they may still do there, who tells what
holds, what a crash of the daemon means; and two users of the machine who get at nothing."""

from __future__ import annotations

import errno
import json
import os
import pwd
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import agentfs.agent
from agentfs.machine import network
from agentfs.machine.confine import Confinement, mechanisms
from tests.puppet import Puppet
from tests.tree import Tree, eventually, until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        any(map(mechanisms().lacks, Confinement(False, False, False).kept_from)),
        reason="advisory on this machine: `agentfs doctor` says what it needs",
    ),
]

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs two other users of the machine")


def confined(tree: Tree, pid: int) -> str:
    status = dict(line.split(":\t", 1) for line in tree.read(f"proc/{pid}/status").splitlines())
    return status["Confined"]


def refusal(puppet: Puppet, expression: str) -> str:
    """The errno that an expression raises in a program; empty if none."""
    try:
        puppet.do(expression)
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]
    return ""


OF_THE_NETWORK = "models" if network.made_by_us() or network.made_by_children() else "network"
"""What a program without `network_access` but with `llm` is kept from here."""

CAPABILITIES = ["network_access", "file_write", "shell_exec"]


def test_capabilities_confine_the_program_and_status_says_so(tree: Tree, tmp_path: Path) -> None:
    attempts = {
        "network_access": "__import__('socket').socket().close()",
        "file_write": f"os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY)",
        "shell_exec": "os.posix_spawn('/bin/true', ['true'], {})",
    }
    words = {"network_access": "network", "file_write": "write", "shell_exec": "exec"}
    refused = {"network_access": "EPERM", "file_write": "EACCES", "shell_exec": "ENOSYS"}
    for denied in CAPABILITIES:
        with closing(Puppet(tree, f"no-{denied}", deny=[denied, "llm"])) as puppet:
            assert confined(tree, puppet.pid) == words[denied]
            for capability, attempt in attempts.items():
                expected = refused[capability] if capability == denied else ""
                assert refusal(puppet, attempt) == expected
    with closing(Puppet(tree, "free")) as free:
        assert confined(tree, free.pid) == "no"
        assert all(refusal(free, attempt) == "" for attempt in attempts.values())
    assert confined(tree, 1) == "no"
    assert confined(tree, tree.spawn("person")) == "", "it has no program"


def test_a_program_that_is_kept_from_everything_is_an_agent_all_the_same(
    tree: Tree, tmp_path: Path
) -> None:
    """The tree, the client module, the log and the memory work."""
    script = tmp_path / "agent.py"
    script.write_text(
        f"""#!{sys.executable}
import os, sys, tempfile
sys.path.insert(0, {str(Path(agentfs.agent.__file__).parent)!r})
from agent import Agent
agent = Agent()
assert os.system("true") != 0
with open("note", "w") as file, tempfile.NamedTemporaryFile() as temporary:
    file.write("kept")
    print(temporary.name, flush=True)
agent.on_message(lambda message: agent.send("init", message.text.upper()))
agent.run()
"""
    )
    script.chmod(0o755)
    pid = tree.spawn("bob", exec=[str(script)], role="task", tier="tactical")
    assert confined(tree, pid) == f"{OF_THE_NETWORK} write exec", "as the table says of a task"
    tree.write("agents/init/outbox/bob", "hello")
    assert tree.read("agents/init/recv").strip().endswith("HELLO")
    assert tree.read("agents/bob/memory/note") == "kept"
    assert tree.read("agents/bob/log").startswith(f"{tree.path}/agents/bob/memory/")


def test_who_is_denied_the_machine_sees_the_tree_alone(tree: Tree, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("word")
    tree.write("agents/init/outbox/init", "a letter")
    (tree / "shared/plan").write_text("a plan")
    given = {"deny": ["host_read"], "read": [str(tmp_path / "given")]}
    (tmp_path / "given").write_text("given")
    with closing(Puppet(tree, "bob", **given)) as bob, closing(Puppet(tree, "ann")) as ann:
        assert confined(tree, bob.pid) == "read"
        assert confined(tree, ann.pid) == "no", "everybody may who is not denied it"
        assert "-host_read\n" in bob.read("proc/self/caps/effective")
        assert "host_read" not in ann.read("proc/self/caps/effective")
        for path in (secret, tmp_path, "/etc/shadow", "/root", "/home", "/"):
            attempt = f"os.close(os.open({str(path)!r}, 0))"
            assert refusal(bob, attempt) == "EACCES"
            assert not os.path.exists(path) or refusal(ann, attempt) in ("", "EACCES")
        for path in ("store.db", "shared/plan", "agents/ann/memory", "logs"):
            assert refusal(bob, f"os.close(os.open({str(tree.state / path)!r}, 0))") == "EACCES"
        assert bob.do(f"open({str(tmp_path / 'given')!r}).read()") == "given"
        assert bob.read("shared/plan") == "a plan", "through the tree"
        ann.send("bob", "hello")
        assert "hello" in bob.recv()
        bob.do("open(me + '/memory/note', 'w').write('mine')")
        assert bob.read("agents/self/memory/note") == "mine"
        assert "bob" in bob.ls("agents")
        assert bob.do("os.system('ls / > /dev/null 2>&1')") != 0
        with pytest.raises(OSError, match="Operation not permitted"):
            bob.ask("proc/self/spawn", f"{{name: kid, exec: [cat], read: [{secret}]}}")
        assert "cannot let others read" in bob.read("proc/self/error")


def test_a_role_denies_the_machine_with_a_minus(tree: Tree) -> None:
    tree.write("etc/roles.yaml", "roles: {worker: {capabilities: [llm, shell_exec, -host_read]}}")
    with closing(Puppet(tree, "bob", role="worker", caps=["*"])) as bob:
        assert confined(tree, bob.pid) == f"{OF_THE_NETWORK} write read"
        assert tree.read("sys/caps/profiles/worker") == "shell_exec\nllm\n-host_read\n"
        assert refusal(bob, "os.listdir('/root')") == "EACCES"
    with pytest.raises(OSError, match="Invalid argument"):
        tree.write("etc/roles.yaml", "roles: {worker: {capabilities: [-llm]}}")


def test_a_program_that_is_denied_the_machine_is_started_again_after_a_crash(tree: Tree) -> None:
    script = "cat $AGENTFS/agents/self/pid && echo $AGENT_NAME sees; sleep 1000"
    pid = tree.spawn("bob", exec=["sh", "-c", script], deny=["host_read"])
    log = Path(tree / "agents/bob/log")
    eventually(lambda: log.read_text().count("sees") == 1)
    tree.crash()
    tree.mount()
    eventually(lambda: log.read_text().count("sees") == 2)
    assert confined(tree, pid) == "read"


def test_a_drop_and_a_program_that_was_attached_are_said_to_be_advisory(tree: Tree) -> None:
    with closing(Puppet(tree, "bob")) as bob:
        assert confined(tree, bob.pid) == "no"
        roles = tree.read("etc/roles.yaml")
        tree.write("etc/roles.yaml", "roles: {agent: {capabilities: [memory, network_access]}}\n")
        assert confined(tree, bob.pid) == "advisory: write exec"
        tree.write("etc/roles.yaml", roles)
        assert confined(tree, bob.pid) == "no"
        bob.write("proc/self/caps/ctl", "-network_access")
        assert confined(tree, bob.pid) == "advisory: network", "until it is started again"
        assert refusal(bob, "__import__('socket').socket().close()") == ""
    other = tree.start("sleep", "1000")
    pid = tree.spawn("eve", deny=["file_write", "shell_exec"])
    tree.write(f"proc/{pid}/attach", str(other.pid))
    assert confined(tree, pid) == "advisory: write exec"


def test_who_may_not_start_programs_cannot_have_the_kernel_start_them(tree: Tree) -> None:
    with closing(Puppet(tree, "bob", deny=["shell_exec"])) as bob:
        for command in ("[sh, -c, id]", "[/bin/true]"):
            assert refusal(bob, f"ask('proc/self/spawn', 'name: eve\\nexec: {command}')") == "EPERM"
        assert "capability shell_exec" in bob.read("proc/self/error")
        same = f"name: twin\\nexec: [{sys.executable}, -c, pass]\\nrestart: never"
        assert int(bob.ask("proc/self/spawn", same.replace("\\n", "\n"))) > bob.pid
        assert int(bob.ask("proc/self/spawn", "name: person")) > bob.pid


def test_after_a_crash_a_program_that_may_only_write_to_the_tree_gets_the_new_one(
    trees: Callable[..., Tree],
) -> None:
    """The machine knows the tree of the crashed daemon only, by its inode; so the program is
    started again, or ended where its policy says never. Others go on with the new tree."""
    tree = trees()
    tree.mount()
    write = (
        'echo start; while sleep 0.05; do [ -e "$AGENTFS/agents/self/memory/go" ] &&'
        ' echo "To: init\n\nfrom $AGENT_NAME" > "$AGENTFS/agents/self/send" && exec sleep 1000;'
        " done 2>/dev/null"
    )
    deny = {"again": "file_write", "never": "file_write", "goes-on": "network_access"}
    pids = {
        name: tree.spawn(
            name,
            exec=["sh", "-c", write],
            deny=[denied],
            restart="never" if name == "never" else "on-failure",
        )
        for name, denied in deny.items()
    }
    before = {name: tree.read(f"proc/{pid}/ospid") for name, pid in pids.items()}
    tree.crash()
    tree.mount()
    until(tree / f"proc/{pids['never']}/state", "zombie")
    gone = ("", before["again"].strip())
    eventually(lambda: tree.read(f"proc/{pids['again']}/ospid").strip() not in gone)
    assert tree.read(f"proc/{pids['goes-on']}/ospid") == before["goes-on"]
    assert confined(tree, pids["goes-on"]) == OF_THE_NETWORK
    assert confined(tree, pids["again"]) == "write"
    for name in ("again", "goes-on"):
        (tree / f"agents/{name}/memory/go").touch()
    said = {tree.read("agents/init/recv").split()[-1] for _ in range(2)}
    assert said == {"again", "goes-on"}


# -- users ---------------------------------------------------------------------------------------


HOLDS = """
import os, time
kept = open('memory.txt', 'w+')
kept.write('secret')
kept.flush()
print('ready', flush=True)
time.sleep(1000)
"""

TRIES = """
import ctypes, errno, json, os, signal, struct, sys
given = json.loads(sys.argv[1])
tree, state, other = os.environ['AGENTFS'], given['state'], given['name']
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def attempt(name, what):
    try:
        what()
        found[name] = 'done'
    except OSError as failure:
        found[name] = errno.errorcode[failure.errno]

def call(name, *arguments):
    words = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    if getattr(libc, name)(*words) == -1:
        raise OSError(ctypes.get_errno(), name)

def files(kind, folder, reading, writing=()):
    for path in reading:
        attempt(f'{kind}: read {path}', lambda: os.open(os.path.join(folder, path), os.O_RDONLY))
    for path in writing:
        attempt(f'{kind}: write {path}', lambda: os.open(os.path.join(folder, path), os.O_WRONLY))

files('state', state, ['', 'store.db', 'store.db-wal', 'kernel.log', 'shared', f'logs/{other}.log',
    f'agents/{other}/memory', f'agents/{other}/memory/memory.txt'],
    ['store.db', f'logs/{other}.log', f'agents/{other}/memory/memory.txt'])
files('agent', f'{tree}/agents/{other}', ['inbox/new', 'recv', 'sent', 'dead', 'log', 'memory',
    'memory/memory.txt', 'asks', 'reminders'], ['send', 'outbox/init', 'log', 'memory/memory.txt'])
memory = f'{tree}/agents/{other}/memory'
attempt('agent: create', lambda: os.open(memory + '/mine', os.O_CREAT | os.O_WRONLY))
attempt('agent: unlink', lambda: os.unlink(memory + '/memory.txt'))
attempt('agent: rename', lambda: os.rename(memory + '/memory.txt', 'taken'))
attempt('agent: link', lambda: os.link(memory + '/memory.txt', 'taken'))
attempt('agent: chmod', lambda: os.chmod(memory, 0o777))
attempt('agent: chown', lambda: os.chown(memory, os.getuid(), -1))
files('process', f"{tree}/proc/{given['pid']}", ['environ', 'signals', 'error'], ['ctl', 'spawn'])
for who in ('ospid', 'daemon'):
    ospid = given[who]
    files(f'/proc of {who}', f'/proc/{ospid}', ['environ', 'mem', 'fd', 'fd/3', 'map_files', 'maps',
        'root', 'root/etc', 'cwd', 'cwd/memory.txt', 'auxv', 'stack', 'syscall', 'io', 'fdinfo',
        f'task/{ospid}/environ', f'task/{ospid}/fd', f'task/{ospid}/cwd'],
        ['mem', 'oom_score_adj', 'clear_refs', 'fd/1', 'comm'])
    for link in ('exe', 'cwd', 'root', 'fd/1', 'ns/net'):
        attempt(f'{who}: {link}', lambda: os.readlink(f'/proc/{ospid}/{link}'))
    attempt(f'{who}: chdir', lambda: os.chdir(f'/proc/{ospid}/cwd'))
    for number in (0, signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        attempt(f'{who}: signal {number}', lambda: os.kill(ospid, number))
    attempt(f'{who}: signal to all', lambda: os.killpg(ospid, signal.SIGTERM))
    attempt(f'{who}: pidfd', lambda: signal.pidfd_send_signal(os.pidfd_open(ospid), signal.SIGTERM))
    attempt(f'{who}: descriptor', lambda: call('syscall', 438, os.pidfd_open(ospid), 3, 0))
    attempt(f'{who}: attach', lambda: call('ptrace', 16, ospid, None, None))
    attempt(f'{who}: seize', lambda: call('ptrace', 0x4206, ospid, None, None))
    place = ctypes.create_string_buffer(8)
    local = struct.pack('PN', ctypes.addressof(place), 8)
    for way in ('process_vm_readv', 'process_vm_writev'):
        attempt(f'{who}: {way}', lambda: call(way, ospid, local, 1, local, 1, 0))
    attempt(f'{who}: limits', lambda: call('prlimit', ospid, 0, struct.pack('qq', 1, 1), None))
    attempt(f'{who}: priority', lambda: os.setpriority(os.PRIO_PROCESS, ospid, 10))
    attempt(f'{who}: processors', lambda: os.sched_setaffinity(ospid, {0}))
print(json.dumps(found), flush=True)
"""


def interpreter() -> str:
    """A Python that other users can run: root's own may lie in a closed home."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        real = Path(os.path.realpath(candidate))
        if real.exists() and all(part.stat().st_mode & 0o001 for part in real.parents):
            return candidate
    pytest.skip("no interpreter that other users can run")


@pytest.fixture
def accounts() -> tuple[str, str]:
    """Two accounts that are there anyway, neither root."""
    there = {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid}
    names = [name for name in ("daemon", "nobody", "games", "bin") if name in there]
    if len(names) < 2:
        pytest.skip("no two accounts to test with")
    return names[0], names[1]


@ROOT_ONLY
def test_two_users_of_the_machine_get_at_nothing_of_each_other(
    tree: Tree, accounts: tuple[str, str]
) -> None:
    """Neither through the tree, nor the state directory, nor /proc of the host, nor a system
    call; nor of the daemon. Their programs are not confined: the users keep them apart."""
    for folder in tree.path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    python = interpreter()
    pids = {
        user: tree.spawn(f"of-{user}", exec=[python, "-c", HOLDS], user=user, env={"KEY": "secret"})
        for user in accounts
    }
    for user in accounts:
        eventually(lambda user=user: tree.read(f"agents/of-{user}/log") == "ready\n")
    tries = 0
    for attacker, victim in (accounts, accounts[::-1]):
        given = {
            "state": str(tree.state),
            "name": f"of-{victim}",
            "pid": pids[victim],
            "ospid": int(tree.read(f"proc/{pids[victim]}/ospid")),
            "daemon": tree.daemon,
        }
        name = f"thief-{attacker}"
        command = [python, "-c", TRIES, json.dumps(given)]
        pid = tree.spawn(name, exec=command, user=attacker, restart="never")
        assert tree.read(f"proc/{pid}/wait") == "0\n", tree.read(f"agents/{name}/log")
        noted = json.loads(tree.read(f"agents/{name}/log"))
        got = {what: said for what, said in noted.items() if said not in ("EACCES", "EPERM")}
        assert got.pop("daemon: signal to all", "ESRCH") == "ESRCH", "it leads no group"
        assert got == {}
        tries += len(noted)
        assert tree.read(f"agents/of-{victim}/memory/memory.txt") == "secret"
        assert tree.read(f"proc/{pids[victim]}/state") == "idle\n"
    assert tries > 200

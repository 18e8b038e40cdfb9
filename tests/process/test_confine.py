"""What programs are kept from, tried by programs that try hard: real forks, filters, rulesets."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agentfs.base.errors import KernelError
from agentfs.machine.confine import FREE, Confinement, Mechanisms, described, mechanisms
from agentfs.machine.own_program import own_program
from agentfs.model.process import Process
from tests.process.world import OPERATOR, PYTHON, System, gone

NO_NETWORK = Confinement(network=False)
NO_WRITE = Confinement(write=False)
NO_EXEC = Confinement(execute=False)
NOTHING = Confinement(network=False, write=False, execute=False)

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user of the machine")

PRELUDE = """
import ctypes, errno, json, mmap, os, signal, socket, stat, struct, subprocess, sys
X86 = os.uname().machine == 'x86_64'
SOCKET, EXECVEAT, SENDTO, SETSOCKOPT, SENDMMSG = (
    (41, 322, 44, 54, 307) if X86 else (198, 281, 206, 208, 269))
libc = ctypes.CDLL(None, use_errno=True)
given = json.loads(sys.argv[1])
found = {}

def call(name, *arguments):
    'A function of libc: its result, or OSError.'
    result = getattr(libc, name)(
        *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def attempt(name, what):
    'Note what came of it: done, the name of the errno, or of what ended the child that tried.'
    try:
        what()
        found[name] = 'done'
    except OSError as failure:
        found[name] = errno.errorcode.get(failure.errno, str(failure.errno))

def address(to):
    'struct sockaddr_in.'
    return struct.pack('=H', 2) + struct.pack('>H', to[1]) + socket.inet_aton(to[0]) + bytes(8)

def in_child(what, *, twice=False):
    'Try it in a child, or in its orphaned grandchild; the result goes through a pipe.'
    reader, writer = os.pipe()
    if os.fork() == 0:
        if twice:
            os.setsid()
            if os.fork():
                os._exit(0)
        try:
            what()
            os.write(writer, b'0')
        except OSError as failure:
            os.write(writer, str(failure.errno).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    _, status = os.wait()
    if os.WIFSIGNALED(status):
        raise OSError(0, signal.Signals(os.WTERMSIG(status)).name)
    if said != '0':
        raise OSError(int(said or 0), 'in child')

def other_program(*command):
    'Have another program try it: it exits with the errno.'
    code = subprocess.run(command, stderr=subprocess.DEVNULL).returncode
    if code:
        raise OSError(code, command[0])

def machine_code(code):
    'Run instructions of the machine: 32-bit system calls from a 64-bit program.'
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    if result < 0:
        raise OSError(-result, 'int 0x80')

def ended_by(name, what):
    'Note the signal that ends who tries it.'
    try:
        in_child(what)
        found[name] = 'done'
    except OSError as failure:
        found[name] = failure.strerror if failure.errno == 0 else errno.errorcode[failure.errno]
"""


@pytest.fixture(autouse=True, scope="module")
def machine() -> None:
    """These tests are about machines that can confine programs; doctor says of others that not."""
    for name in NOTHING.kept_from:
        lacking = mechanisms().lacks(name)
        if lacking:
            pytest.skip(f"{name} is advisory here: needs {lacking}")


async def tried(
    system: System, script: str, held: Confinement, given: object = None, **spec: Any
) -> dict[str, str]:
    """Run `script` in an agent's program confined as `held`; what it noted in `found`."""
    system.grants.confinement = lambda process: held
    end = "\nprint('FOUND', json.dumps(found), flush=True)"
    command = [PYTHON, "-c", PRELUDE + script + end, json.dumps(given)]
    process = await system.spawn("bob", exec=command, restart="never", **spec)
    assert process.confined == held.kept_from
    await system.until(lambda: not process.state.alive)
    text = system.agents.log_path("bob").read_text()
    assert "FOUND" in text, text
    noted = json.loads(text.rpartition("FOUND ")[2])
    assert isinstance(noted, dict)
    return noted


def all_refused(noted: dict[str, str], but: tuple[str, ...] = ()) -> bool:
    """Whether nothing was done, for want of permission."""
    refusals = {"EPERM", "EACCES", "EXDEV", "EROFS"}
    return all(said in refusals for name, said in noted.items() if name not in but)


# -- network -------------------------------------------------------------------------------------

NETWORK = """
found["inherited"] = " ".join(os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2))
found["more"] = str(len(os.listdir("/proc/self/fd")))
for family in range(2, 47):  # AF_INET and all after it: INET6, NETLINK, PACKET, VSOCK, ALG …
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        attempt(f'{family} {kind.name}', lambda: socket.socket(family, kind))
attempt('pair', lambda: socket.socketpair(socket.AF_TIPC))
inet = lambda: socket.socket(socket.AF_INET)
attempt('with high bits', lambda: call('syscall', SOCKET, 2 | 1 << 32, 1, 0))
attempt('fork', lambda: in_child(inet))
attempt('double fork', lambda: in_child(inet, twice=True))
attempt('other program', lambda: other_program(
    sys.executable, '-c',
    'import ctypes, sys; sys.exit(13 * (ctypes.CDLL(None).socket(2, 1, 0) < 0))'))
attempt('io_uring', lambda: call('syscall', 425, 8, bytes(120)))
attempt('namespace', lambda: in_child(lambda: (call('unshare', 0x50000000), inet())))
attempt('another namespace', lambda: call('setns', os.open(f"/proc/{given['pid']}/ns/net", 0), 0))
attempt('steal', lambda: call('syscall', 438, os.pidfd_open(given['pid']), given['socket'], 0))
attempt('trace', lambda: call('ptrace', 16, given['pid'], None, None))
attempt('memory', lambda: os.open(f"/proc/{given['pid']}/mem", os.O_RDWR))
attempt('descriptors', lambda: os.open(f"/proc/{given['pid']}/fd/0", 0))
if X86:
  ended_by('x32', lambda: call('syscall', 0x40000000 + SOCKET, 2, 1, 0))
  # mov eax, 359 (socket); mov ebx, 2; mov ecx, 1; xor edx, edx; int 0x80; ret
  ended_by('i386', lambda: machine_code(bytes.fromhex(
    '53 b867010000 bb02000000 b901000000 31d2 cd80 5b c3')))
"""


async def test_without_network_access_there_is_no_way_to_a_socket_of_the_network(
    system: System,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        given = {"pid": os.getpid(), "socket": listening.fileno()}
        noted = await tried(system, NETWORK, NO_NETWORK, given)
    ended = {noted.pop(name, "SIGSYS") for name in ("x32", "i386")}
    assert ended <= {"SIGSYS", "SIGSEGV"}, "the latter on a machine without 32-bit calls"
    assert noted.pop("inherited").startswith("/dev/null /")
    assert noted.pop("more") == "4", "and the one that lists them"
    assert all_refused(noted), {n: s for n, s in noted.items() if s != "EPERM"}


async def test_a_tcp_port_that_somebody_hands_over_cannot_be_bound_or_connected(
    system: System, tmp_path: Path
) -> None:
    """The second belt: Landlock, for sockets that come through a UNIX socket."""
    script = """
line = socket.socket(socket.AF_UNIX)
line.connect(given['line'])
_, (first, second, third), _, _ = socket.recv_fds(line, 1, 3)
attempt('bind', lambda: socket.socket(fileno=os.dup(first)).bind(('127.0.0.1', 0)))
to = ('127.0.0.1', given['port'])
attempt('connect', lambda: socket.socket(fileno=second).connect(to))
fast = socket.socket(fileno=third)
for bits in (0, 1 << 32):  # Linux looks at 32 bits of a number
    attempt(f'sendto {bits}', lambda: call('syscall', SENDTO, third, b'x', 1,
        socket.MSG_FASTOPEN | bits, address(to), 16))
    attempt(f'connect by sending {bits}', lambda: call('syscall', SETSOCKOPT, third,
        6 | bits, 30 | bits, struct.pack('i', 1), 4))
attempt('sendmsg', lambda: fast.sendmsg([b'x'], [], socket.MSG_FASTOPEN, to))
attempt('sendmmsg', lambda: call('syscall', SENDMMSG, third, bytes(64), 1, socket.MSG_FASTOPEN))
attempt('fast open', lambda: fast.setsockopt(6, 23, 5))
"""
    if mechanisms().landlock < 4:
        pytest.skip("Landlock 4 (Linux 6.7) knows TCP")
    path = str(tmp_path / "line")
    with socket.socket(socket.AF_UNIX) as line, socket.create_server(("127.0.0.1", 0)) as server:
        line.bind(path)
        line.listen()

        def hand_over() -> None:
            with line.accept()[0] as taken, ExitStack() as stack:
                sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
                socket.send_fds(taken, [b"1"], [each.fileno() for each in sockets])

        thread = threading.Thread(target=hand_over)
        thread.start()
        given = {"line": path, "port": server.getsockname()[1]}
        noted = await tried(system, script, NO_NETWORK, given)
        thread.join()
    assert [noted.pop(name) for name in ("bind", "connect")] == ["EACCES", "EACCES"]
    assert len(noted) == 7
    assert set(noted.values()) == {"EPERM"}, noted


async def test_local_sockets_files_and_programs_work_without_network_access(
    system: System, tmp_path: Path
) -> None:
    script = """
def abstract():
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
        listening.bind('\\0' + given['name'])
        listening.listen()
        calling.connect('\\0' + given['name'])
attempt('abstract', abstract)
attempt('pair', socket.socketpair)
attempt('file', lambda: open(given['file'], 'w').close())
attempt('mode', lambda: os.chmod(given['file'], 0o600))
attempt('program', lambda: subprocess.run(['true'], check=True))
"""
    given = {"name": f"agentfs-{os.getpid()}", "file": str(tmp_path / "file")}
    noted = await tried(system, script, NO_NETWORK, given)
    assert set(noted.values()) == {"done"}


# -- files ---------------------------------------------------------------------------------------

FILES = """
import fcntl
victim, folder = given['victim'], given['folder']
open('mine', 'w').close()
flags = {'write': os.O_WRONLY, 'append': os.O_WRONLY | os.O_APPEND, 'both': os.O_RDWR,
    'truncate': os.O_RDONLY | os.O_TRUNC, 'create': os.O_CREAT | os.O_WRONLY}
for name, flag in flags.items():
    attempt(name, lambda: os.open(victim, flag))
attempt('new', lambda: os.open(folder + '/new', os.O_CREAT | os.O_WRONLY))
attempt('tmpfile', lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR))
attempt('truncate(2)', lambda: os.truncate(victim, 0))
attempt('chmod', lambda: os.chmod(victim, 0o777))
attempt('chmod by descriptor', lambda: os.fchmod(os.open(victim, 0), 0o777))
attempt('fchmodat2', lambda: call('syscall', 452, -100, victim.encode(), 0o777, 0))
attempt('chown', lambda: os.chown(victim, 1, 1))
attempt('lchown', lambda: os.lchown(victim, 1, 1))
attempt('utime', lambda: os.utime(victim))
attempt('utime by descriptor', lambda: os.utime(os.open(victim, 0), (1, 1)))
attempt('setxattr', lambda: os.setxattr(victim, 'user.x', b'1'))
attempt('fsetxattr', lambda: os.setxattr(os.open(victim, 0), 'user.x', b'1'))
attempt('removexattr', lambda: os.removexattr(victim, 'user.kept'))
attempt('setxattrat', lambda: call('syscall', 463, -100, victim.encode(), 0, b'user.x', b'', 0))
attempt('file_setattr', lambda: call('syscall', 469, -100, victim.encode(), bytes(24), 24, 0))
attempt('chattr', lambda: fcntl.ioctl(os.open(victim, 0), 0x40086602, struct.pack('q', 0x80)))
attempt('project', lambda: fcntl.ioctl(os.open(victim, 0), 0x401c5820, bytes(28)))
attempt('unlink', lambda: os.unlink(victim))
attempt('rename', lambda: os.rename(victim, folder + '/else'))
attempt('rename to mine', lambda: os.rename(victim, 'taken'))
attempt('rename mine over', lambda: os.rename('mine', victim))
attempt('exchange', lambda: call('renameat2', -100, victim.encode(), -100, b'mine', 2))
attempt('mkdir', lambda: os.mkdir(folder + '/d'))
attempt('rmdir', lambda: os.rmdir(folder + '/empty'))
attempt('symlink', lambda: os.symlink('/', folder + '/s'))
attempt('fifo', lambda: os.mkfifo(folder + '/f'))
attempt('device', lambda: os.mknod('device', stat.S_IFBLK | 0o600, os.makedev(7, 0)))
attempt('socket', lambda: socket.socket(socket.AF_UNIX).bind(folder + '/sock'))
attempt('hard link to', lambda: os.link(victim, 'hard'))
attempt('hard link from', lambda: os.link('mine', folder + '/hard'))
os.symlink(victim, 'soft')
os.symlink(folder, 'softly')
attempt('through a symlink', lambda: os.open('soft', os.O_WRONLY))
attempt('through a folder', lambda: os.open('softly/victim', os.O_WRONLY))
attempt('through ..', lambda: os.open(os.path.relpath(victim), os.O_WRONLY))
reading = os.open(victim, 0)
attempt('/proc/self/fd', lambda: os.open(f'/proc/self/fd/{reading}', os.O_WRONLY))
attempt('/proc/self/root', lambda: os.open('/proc/self/root' + victim, os.O_WRONLY))
attempt('/proc/self/cwd', lambda: os.open('/proc/self/cwd/' + os.path.relpath(victim), os.O_RDWR))
attempt('map', lambda: mmap.mmap(reading, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE))
attempt('double fork', lambda: in_child(lambda: os.open(victim, os.O_WRONLY), twice=True))
attempt('io_uring', lambda: call('syscall', 425, 8, bytes(120)))
attempt('bind mount', lambda: call('mount', b'.', folder.encode(), None, 4096, None))
attempt('namespace', lambda: in_child(lambda: (call('unshare', 0x10020000),
    call('mount', b'tmpfs', folder.encode(), b'tmpfs', 0, None))))
attempt('setting of the kernel', lambda: os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY))
attempt('disk', lambda: os.open(given['disk'], os.O_WRONLY))
attempt('trace', lambda: call('ptrace', 16, given['pid'], None, None))
attempt('other program', lambda: other_program(
    'sh', '-c', '(echo x > "$1") || exit 13', 'sh', victim))
"""


async def test_without_file_write_nothing_of_the_host_changes(
    system: System, tmp_path: Path
) -> None:
    folder = tmp_path / "host"
    (folder / "empty").mkdir(parents=True)
    victim = folder / "victim"
    victim.write_text("as it was" + " " * 5000)
    os.setxattr(victim, "user.kept", b"1")
    before = (
        victim.read_text(),
        victim.stat(),
        sorted(folder.iterdir()),
        folder.stat().st_mtime_ns,
    )
    disks = [entry.path for entry in os.scandir("/dev") if stat.S_ISBLK(entry.stat().st_mode)]
    given = {
        "victim": str(victim),
        "folder": str(folder),
        "disk": disks[0] if os.geteuid() == 0 and disks else "/proc/sys/kernel/core_pattern",
        "pid": os.getpid(),
    }
    noted = await tried(system, FILES, NO_WRITE, given)
    assert all_refused(noted), {n: s for n, s in noted.items() if s != "EPERM"}
    after = (victim.read_text(), victim.stat(), sorted(folder.iterdir()), folder.stat().st_mtime_ns)
    assert [part[1:] if part is before[1] else part for part in before] == [
        part[1:] if part is after[1] else part for part in after
    ]
    assert os.listxattr(victim) == ["user.kept"]


async def test_without_file_write_a_program_has_its_memory_its_log_and_the_usual_devices(
    system: System,
) -> None:
    script = """
import tempfile
def in_memory():
    os.mkdir('folder')
    with open('folder/file', 'w') as file:
        file.write('x')
    os.truncate('folder/file', 0)
    os.rename('folder/file', 'file')
    os.link('file', 'folder/linked')
    os.symlink('file', 'soft')
    os.mkfifo('fifo')
    socket.socket(socket.AF_UNIX).bind('socket')
    os.unlink('folder/linked')
    os.rmdir('folder')
attempt('memory', in_memory)
attempt('temporary', lambda: tempfile.NamedTemporaryFile().write(b'x'))
for name in ('null', 'zero', 'full', 'random', 'urandom'):
    attempt(name, lambda: open('/dev/' + name, 'r+b', buffering=0).read(1))
attempt('stdout', lambda: open('/dev/stdout', 'a').close())
attempt('network', lambda: socket.socket())
attempt('program', lambda: subprocess.run(['true'], check=True))
attempt('reading', lambda: open('/etc/passwd').read())
"""
    noted = await tried(system, script, NO_WRITE)
    assert set(noted.values()) == {"done"}, noted


# -- programs ------------------------------------------------------------------------------------

PROGRAMS = """
import glob, shutil
true = shutil.which('true')
shutil.copy(sys.executable, 'copy')
os.link('copy', 'hard')
os.symlink(sys.executable, 'soft')
with open('script', 'w') as file:
    file.write('#!/bin/sh\\ntrue\\n')
os.chmod('script', 0o755)
loader = (glob.glob('/lib*/ld-linux*') + glob.glob('/lib/ld-*') + [sys.executable])[0]
memory = os.memfd_create('program', 0)
os.sendfile(memory, os.open(true, 0), 0, os.stat(true).st_size)
ways = {
    'another': [true], 'script': ['./script'], 'itself': [sys.executable, '-V'],
    'soft link': ['./soft'], 'hard link': ['./hard'], 'copy': ['./copy'],
    '/proc/self/exe': ['/proc/self/exe', '-V'],
    'the loader': [loader, true], 'the loader on itself': [loader, sys.executable],
}
for name, command in ways.items():
    attempt(name, lambda: os.execv(command[0], command))
    attempt(name + ', below',
        lambda: in_child(lambda: os.execv(command[0], command), twice=True))
attempt('posix_spawn', lambda: os.posix_spawn(true, ['true'], {}))
attempt('vfork', lambda: subprocess.run([true]))
attempt('memfd', lambda: os.execve(memory, ['x'], {}))
attempt('by descriptor', lambda: os.execve(os.open(sys.executable, 0), ['x', '-V'], {}))
attempt('execveat', lambda: call('syscall', EXECVEAT, -100, true.encode(), None, None, 0))
attempt('execveat of nothing', lambda: call('syscall', EXECVEAT, memory, b'', None, None, 0x1000))
if X86:
  # mov eax, 11 (execve); xor ebx, ebx; xor ecx, ecx; xor edx, edx; int 0x80; ret
  ended_by('i386', lambda: machine_code(bytes.fromhex('53 b80b000000 31db 31c9 31d2 cd80 5b c3')))
  ended_by('x32', lambda: call('syscall', 0x40000000 + 520, true.encode(), None, None))
"""


async def test_without_shell_exec_a_program_executes_nothing_not_even_through_the_loader(
    system: System,
) -> None:
    noted = await tried(system, PROGRAMS, NO_EXEC)
    assert {noted.pop(name, "SIGSYS") for name in ("x32", "i386")} <= {"SIGSYS", "SIGSEGV"}
    assert set(noted.values()) == {"ENOSYS"}, noted


async def test_without_shell_exec_files_sockets_children_and_threads_work(
    system: System, tmp_path: Path
) -> None:
    script = """
import threading
attempt('file', lambda: open(given, 'w').close())
attempt('mode', lambda: os.chmod(given, 0o600))
attempt('socket', lambda: socket.socket())
attempt('fork', lambda: in_child(lambda: None, twice=True))
attempt('thread', lambda: threading.Thread(target=print).start())
attempt('trace', lambda: call('ptrace', 16, os.getppid(), None, None))
"""
    noted = await tried(system, script, NO_EXEC, str(tmp_path / "file"))
    assert noted.pop("trace") == "EPERM", "who is not confined would execute for it"
    assert set(noted.values()) == {"done"}, noted


async def test_all_three_together(system: System) -> None:
    script = """
attempt('network', lambda: socket.socket())
attempt('write', lambda: open('/tmp/agentfs-test', 'w'))
attempt('exec', lambda: subprocess.run(['true']))
attempt('memory', lambda: open('file', 'w').close())
"""
    noted = await tried(system, script, NOTHING)
    assert noted == {"network": "EPERM", "write": "EACCES", "exec": "ENOSYS", "memory": "done"}


@pytest.mark.parametrize("line", ["#!/bin/sh", "#!/usr/bin/env sh", "#!/usr/bin/env -S sh -e"])
async def test_a_script_is_a_program_of_its_own(system: System, tmp_path: Path, line: str) -> None:
    system.grants.confinement = lambda process: NO_EXEC
    script = tmp_path / "script"
    script.write_text(f'{line}\necho "$0 $1"; /bin/true || echo no\n')
    script.chmod(0o755)
    process = await system.spawn("bob", exec=[str(script), "x"], restart="never")
    await system.until(lambda: not process.state.alive)
    lines = system.agents.log_path("bob").read_text().splitlines()
    assert lines[0] == f"{script} x"
    assert lines[-1] == "no"


def test_env_is_asked_for_nothing_but_a_program(tmp_path: Path) -> None:
    path = os.environ["PATH"]
    sh = shutil.which("sh")

    def first(line: str) -> tuple[str, list[str]]:
        (tmp_path / "s").write_text(line + "\nrest\n")
        return own_program(["./s", "x"], str(tmp_path), path)

    assert first("#!/usr/bin/env sh") == (sh, ["sh", "./s", "x"])
    assert first("#! /usr/bin/env -S sh -e -u") == (sh, ["sh", "-e", "-u", "./s", "x"])
    for line in (
        "#!/usr/bin/env -i sh",
        "#!/usr/bin/env A=1 sh",
        "#!/usr/bin/env",
        "#!/bin/sh",
        "x",
    ):
        assert first(line) == ("./s", ["./s", "x"])
    assert own_program(["sh"], str(tmp_path), path) == (sh, ["sh"])
    with pytest.raises(FileNotFoundError):
        own_program(["no-such-program"], str(tmp_path), path)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["no-such-program"], errno.ENOENT),
        (["/no/such/program"], errno.ENOENT),
        (["/etc/passwd"], errno.EACCES),
        (["/"], errno.EACCES),
    ],
)
async def test_what_cannot_be_executed_is_refused_as_ever(
    system: System, command: list[str], expected: int, descriptors: Callable[[], int]
) -> None:
    system.grants.confinement = lambda process: NOTHING
    with pytest.raises(KernelError):
        await system.spawn("bob", exec=command)  # the first launch starts the fork server
    before = descriptors()
    with pytest.raises(KernelError) as refused:
        await system.spawn("bob", exec=command)
    assert refused.value.errno == expected
    assert system.table.by_name("bob") is None
    assert (descriptors(), answering()) == (before, 0)


# -- neighbours ----------------------------------------------------------------------------------

NEIGHBOURS = """
import fcntl, resource, threading
victim = given['pid']
numbers = dict(
    tkill=(200, 130), tgkill=(234, 131), queue=(129, 138), tgqueue=(297, 240), kcmp=(312, 272),
    readv=(310, 270), writev=(311, 271), by_handle=(304, 265), userfault=(323, 282),
    bpf=(321, 280), perf=(298, 241), keyctl=(250, 219), add_key=(248, 217), request=(249, 218),
    clone=(56, 220), setscheduler=(144, 119), setparam=(142, 118), setattr=(314, 274),
    ioprio=(251, 30), setpriority=(141, 140), mq_open=(240, 180), mq_unlink=(241, 181),
    move=(279, 239), shmget=(29, 194), shmat=(30, 196), semget=(64, 190), semop=(65, 193),
    msgget=(68, 186), msgsnd=(69, 189), msgrcv=(70, 188))
numbers = {name: both[0 if X86 else 1] for name, both in numbers.items()}
def raw(name, number, *arguments):
    attempt(name, lambda: call('syscall', numbers.get(number, number), *arguments))

info = struct.pack('iiiiii', 15, 0, -1, 0, victim, os.getuid()) + bytes(104)  # SI_QUEUE
for number in (0, 15, 19):
    attempt(f'kill {number}', lambda: os.kill(victim, number))
    attempt(f'killpg {number}', lambda: os.killpg(victim, number))
    attempt(f'pidfd {number}', lambda: signal.pidfd_send_signal(os.pidfd_open(victim), number))
    raw(f'tkill {number}', 'tkill', victim, number)
    raw(f'tgkill {number}', 'tgkill', victim, victim, number)
raw('sigqueue', 'queue', victim, 15, info)
raw('tgsigqueue', 'tgqueue', victim, victim, 15, info)
attempt('orphan', lambda: in_child(lambda: os.kill(victim, 15), twice=True))
attempt('limits', lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1)))
attempt('priority', lambda: os.setpriority(os.PRIO_PROCESS, victim, 10))
attempt('priority of a group', lambda: os.setpriority(os.PRIO_PGRP, victim, 10))
attempt('priority of the user', lambda: os.setpriority(os.PRIO_USER, 0, 10))
raw('the same, with high bits', 'setpriority', 2 | 1 << 32, 0, 10)
raw('disk', 'ioprio', 1, victim, 3 << 13)
raw('disk of the user', 'ioprio', 3, 0, 3 << 13)
raw('scheduler', 'setscheduler', victim, 5, bytes(4))
raw('scheduler again', 'setparam', victim, bytes(4))
raw('scheduler once more', 'setattr', victim, struct.pack('IIQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0), 0)
raw('trace', 438, os.pidfd_open(victim), 0, 0)
attempt('attach', lambda: call('ptrace', 16, victim, None, None))
attempt('seize', lambda: call('ptrace', 0x4206, victim, None, None))
place = ctypes.create_string_buffer(8)
vector = struct.pack('PN', ctypes.addressof(place), 8)
raw('read memory', 'readv', victim, vector, 1, vector, 1, 0)
raw('write memory', 'writev', victim, vector, 1, vector, 1, 0)
raw('compare', 'kcmp', os.getpid(), victim, 1, 0, 0)
raw('pages', 'move', victim, 1, struct.pack('P', 0), None, struct.pack('i', 0), 0)
attempt('advise', lambda: call('syscall', 440, os.pidfd_open(victim), vector, 1, 4, 0))
for entry in ('environ', 'mem', 'maps', 'fd/0'):
    attempt('/proc ' + entry, lambda: os.open(f'/proc/{victim}/{entry}', 0))
raw('shared memory', 'shmget', given['key'], 4096, 0o1666)
raw('that of another', 'shmat', 0, None, 0)
raw('semaphores', 'semget', given['key'], 1, 0o1666)
raw('semaphores of another', 'semop', 0, bytes(6), 1)
raw('queue', 'msgget', given['key'], 0o1666)
raw('send', 'msgsnd', 0, struct.pack('lc', 1, b'x'), 1, 0o4000)
raw('receive', 'msgrcv', 0, bytes(64), 1, 0, 0o4000)
raw('posix queue', 'mq_open', b'agentfs-test', 0o102, 0o666, None)
raw('posix queue of another', 'mq_unlink', b'agentfs-test')
raw('key', 'add_key', b'user', b'agentfs', b'x', 1, -4)
raw('keys', 'keyctl', 0, -4, 1)
raw('keys asked for', 'request', b'user', b'agentfs', None, -4)
raw('io_uring', 425, 8, bytes(120))
raw('userfaultfd', 'userfault', 1)
raw('bpf', 'bpf', 0, bytes(72), 72)
raw('perf', 'perf', struct.pack('II', 1, 128) + bytes(120), victim, -1, -1, 0)
attempt('join', lambda: call('setns', os.open('/proc/self/ns/ipc', 0), 0))
attempt('user name space', lambda: in_child(lambda: call('unshare', 0x10000000)))
attempt('the same by clone', lambda: call('syscall', numbers['clone'], 0x10000011, 0, 0, 0, 0))
raw('handle', 'by_handle', -100, struct.pack('Ii', 8, 1) + bytes(8), 0)
attempt('abstract socket',
    lambda: socket.socket(socket.AF_UNIX).connect('\\0' + given['abstract']))
def by_owner():
    'Have Linux send a signal for a pipe.'
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETSIG, 15)
    fcntl.fcntl(reader, fcntl.F_SETOWN, victim)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(writer, b'x')
    raise OSError(errno.EPERM, 'whether it was sent is for the victim to say')
attempt('owner', by_owner)
"""


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A program of our user that no agent started."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as program:
        yield program
        program.kill()


@pytest.mark.parametrize("held", [NO_NETWORK, NO_WRITE, NO_EXEC])
async def test_a_confined_program_reaches_no_neighbour_of_its_user(
    system: System, held: Confinement, victim: subprocess.Popen[bytes]
) -> None:
    if mechanisms().lacks_signals:
        pytest.skip("Landlock 6 (Linux 6.12) knows signals")
    abstract = f"agentfs-neighbour-{os.getpid()}"
    nice = os.getpriority(os.PRIO_PROCESS, victim.pid)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{abstract}")
        listening.listen()
        given = {"pid": victim.pid, "key": 0x61660000 + os.getpid(), "abstract": abstract}
        noted = await tried(system, NEIGHBOURS, held, given)
    assert len(noted) > 55
    assert victim.poll() is None, "it was ended"
    assert "State:\tS" in Path(f"/proc/{victim.pid}/status").read_text(), "it was stopped"
    assert os.getpriority(os.PRIO_PROCESS, victim.pid) == nice
    refused = {"EPERM", "EACCES"}
    assert {name: said for name, said in noted.items() if said not in refused} == {}


async def test_a_confined_program_does_to_itself_and_its_own_what_it_likes(system: System) -> None:
    script = """
import resource, threading
def ended():
    child = os.fork()
    if child == 0:
        signal.pause()
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
attempt('its own child', ended)
attempt('itself', lambda: os.kill(os.getpid(), 0))
attempt('its group', lambda: os.killpg(0, 0))
attempt('limits', lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
attempt('nice', lambda: os.setpriority(os.PRIO_PROCESS, 0, 19))
attempt('processors', lambda: os.sched_setaffinity(threading.get_native_id(), {
    min(os.sched_getaffinity(0))}))
attempt('thread', lambda: threading.Thread(target=print).start())
attempt('memory file', lambda: os.memfd_create('x'))
attempt('session', lambda: in_child(os.setsid))
import multiprocessing
attempt('semaphore', lambda: multiprocessing.Pool(1).map(abs, [1]) if given else None)
"""
    for held, files in ((NO_NETWORK, True), (NO_WRITE, False), (NO_EXEC, True)):
        noted = await tried(system, script, held, files)
        assert {name: said for name, said in noted.items() if said != "done"} == {}
        system.agents.remove(OPERATOR, "bob")


@pytest.fixture
def another() -> Iterator[subprocess.Popen[bytes]]:
    """A program of another user."""
    with subprocess.Popen(["sleep", "1000"], user=65534) as program:
        yield program
        program.kill()


@ROOT_ONLY
async def test_a_confined_task_of_root_is_not_everybody(
    system: System, tmp_path: Path, another: subprocess.Popen[bytes]
) -> None:
    """It is root by its number only: other users' programs and closed files are not its own."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("secret")
    os.chown(closed / "file", 65534, 65534)
    (closed / "file").chmod(0o600)
    os.chown(closed, 65534, 65534)
    script = """
attempt('user', lambda: in_child(lambda: os.setuid(65534)))
attempt('group', lambda: in_child(lambda: os.setgid(65534)))
attempt('groups', lambda: in_child(lambda: os.setgroups([65534])))
attempt('signal', lambda: os.kill(given['pid'], 0))
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('read', lambda: open(given['file']).read())
attempt('own', lambda: os.chown(given['file'], 0, 0))
attempt('mode', lambda: os.chmod(given['file'], 0o666))
"""
    given = {"pid": another.pid, "file": str(closed / "file")}
    noted = await tried(system, script, NO_WRITE, given)
    assert all_refused(noted), noted
    system.agents.remove(OPERATOR, "bob")
    noted = await tried(system, script, NO_NETWORK, given)
    over_files = {name: noted.pop(name) for name in ("read", "own", "mode")}
    assert set(over_files.values()) == {"done"}, "who may write is root over files still"
    assert all_refused(noted), noted


def test_a_machine_without_scopes_says_that_signals_are_advisory() -> None:
    old = Mechanisms(landlock=5, seccomp=True, listener=True)
    new = Mechanisms(landlock=6, seccomp=True, listener=True)
    assert described(NO_WRITE, ("write",), old) == "write; advisory: signals"
    assert described(NO_WRITE, (), old) == "advisory: write"
    assert described(NO_WRITE, ("write",), new) == "write"


# -- all of them ---------------------------------------------------------------------------------


@ROOT_ONLY
async def test_programs_of_another_user_are_confined_alike(system: System, tmp_path: Path) -> None:
    system.grants.confinement = lambda process: NOTHING
    system.state_dir.chmod(0o755)
    script = (
        "(echo x > /tmp/agentfs-confined) 2>/dev/null || echo read-only; /bin/true || echo alone;"
        " echo x > mine && echo mine; while read -r line; do case $line in"
        " NoNewPrivs*|CapEff*|Uid*) echo $line; esac; done < /proc/self/status"
    )
    process = await system.shell("bob", script, user="nobody", restart="never")
    await system.until(lambda: not process.state.alive)
    said = system.agents.log_path("bob").read_text()
    for words in ("read-only", "alone", "mine", "NoNewPrivs: 1", "CapEff: 0000000000000000"):
        assert words in said, said
    assert f"Uid: {process.uid} " in said


@ROOT_ONLY
async def test_root_keeps_only_the_privileges_that_its_own_files_need(system: System) -> None:
    script = """
attempt('mount', lambda: call('mount', b'tmpfs', b'/mnt', b'tmpfs', 0, None))
attempt('time', lambda: call('clock_settime', 0, struct.pack('qq', 0, 0)))
attempt('reboot', lambda: call('reboot', 0))
attempt('root', lambda: os.chroot('/'))
attempt('host name', lambda: socket.sethostname('x'))
attempt('nice', lambda: os.nice(-1))
"""
    noted = await tried(system, script, NO_NETWORK)
    assert all_refused(noted), {n: s for n, s in noted.items() if s != "EPERM"}


async def test_a_machine_that_cannot_do_it_says_so_and_runs_the_program_all_the_same(
    system: System, tmp_path: Path
) -> None:
    system.programs.mechanisms = Mechanisms(landlock=0, seccomp=True, listener=False)
    system.grants.confinement = lambda process: NOTHING
    process = await system.shell("bob", f"echo x > {tmp_path}/file", restart="never")
    assert process.confined == ()
    assert described(NOTHING, process.confined) == "advisory: network write exec"
    await system.until(lambda: not process.state.alive)
    assert (tmp_path / "file").exists()


def test_what_a_machine_lacks_is_said_in_words() -> None:
    bare = Mechanisms(landlock=0, seccomp=False, listener=False)
    old = Mechanisms(landlock=1, seccomp=True, listener=False)
    new = Mechanisms(landlock=7, seccomp=True, listener=True)
    assert [bool(bare.lacks(name)) for name in ("network", "write", "exec")] == [True] * 3
    assert "libseccomp" in bare.lacks("exec")
    assert old.holds(NOTHING) == NO_NETWORK
    assert "Landlock, version 3" in old.lacks("write")
    assert "listeners" in old.lacks("exec")
    assert new.holds(NOTHING) == NOTHING
    assert new.holds(FREE) == FREE
    assert described(NOTHING, ("network",)) == "network; advisory: write exec"
    assert described(NOTHING, NOTHING.kept_from) == "network write exec"
    assert described(FREE, ()) == "no"


async def test_what_holds_is_kept_with_the_process_and_a_record_of_before_says_nothing(
    system: System,
) -> None:
    have = {"shell_exec", "network_access", "host_read"}
    system.grants.confinement = lambda process: Confinement.of(have.__contains__)
    record = (await system.shell("bob", "exec sleep 1000")).record()
    assert Process.from_record(record).confined == ("write",)
    del record["confined"]
    assert Process.from_record(record).confined == ()


def answering() -> int:
    """How many threads wait to let an exec pass."""
    return sum(thread.name == "one exec" for thread in threading.enumerate())


async def test_nothing_is_left_of_twenty_launches(
    system: System, descriptors: Callable[[], int]
) -> None:
    system.grants.confinement = lambda process: NOTHING
    first = await system.shell("first", ":", restart="never")
    await system.until(lambda: not first.state.alive)
    before = descriptors()
    for number in range(20):
        process = await system.shell(f"a{number}", ":", restart="never")
        await system.until(lambda process=process: not process.state.alive)
    await system.all_reaped()
    assert (descriptors(), answering()) == (before, 0)


async def test_one_that_is_killed_while_it_starts_leaves_nothing(system: System) -> None:
    system.grants.confinement = lambda process: NO_EXEC
    process = await system.shell("bob", "while :; do :; done", restart="never")
    ospid = process.ospid
    assert ospid is not None
    os.kill(ospid, signal.SIGKILL)
    await system.until(lambda: not process.state.alive)
    await gone(ospid)

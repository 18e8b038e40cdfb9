"""What programs read of a machine that is closed to them: nothing, tried by programs that try hard;
and that they run all the same."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import venv
from pathlib import Path

import pytest

from agentfs.base.errors import KernelError
from agentfs.machine.confine import Confinement, mechanisms
from agentfs.machine.readable import covers, named_files, of_program
from tests.process.test_confine import all_refused, tried
from tests.process.world import PYTHON, System, as_agent

NO_READ = Confinement(read=False)
NOTHING = Confinement(network=False, write=False, execute=False, read=False)

pytestmark = pytest.mark.skipif(
    bool(mechanisms().lacks("read")), reason="advisory on this machine: `agentfs doctor` says why"
)

LOOKS = """
victim, folder, tool = given['victim'], given['folder'], given['tool']
attempt('open', lambda: open(victim).read())
attempt('open for both', lambda: os.open(victim, os.O_RDWR))
attempt('list', lambda: os.listdir(folder))
attempt('walk', lambda: [os.listdir(each) for each in ('/', '/home', '/root', '/tmp', '/var')])
for place in given['places']:
    attempt(place, lambda: os.listdir(place) if os.path.isdir(place) else open(place).read(1))
attempt('through ..', lambda: open(os.path.relpath(victim)))
os.symlink(victim, 'soft')
os.symlink(folder, 'softly')
attempt('through a symlink', lambda: open('soft'))
attempt('through a folder', lambda: open('softly/victim'))
attempt('hard link', lambda: (os.link(victim, 'hard'), open('hard')))
attempt('hard link beside', lambda: (os.link(victim, folder + '/two'), open(folder + '/two')))
attempt('rename', lambda: (os.rename(victim, 'taken'), open('taken')))
attempt('exchange', lambda: call('renameat2', -100, victim.encode(), -100, b'soft', 2))
path = os.open(victim, os.O_PATH)
attempt('/proc/self/fd', lambda: os.open(f'/proc/self/fd/{path}', 0))
attempt('/proc/self/root', lambda: open('/proc/self/root' + victim))
attempt('/proc/self/cwd', lambda: open('/proc/self/cwd/' + os.path.relpath(victim)))
attempt('/proc/thread-self/root', lambda: os.listdir('/proc/thread-self/root' + folder))
there = os.open(folder, os.O_PATH)
attempt('by a descriptor of the folder', lambda: os.open('victim', 0, dir_fd=there))
attempt('listing by descriptor', lambda: os.listdir(there))
attempt('openat2', lambda: call('syscall', 437, there, b'victim', bytes(24), 24))
attempt('file handle', lambda: call('syscall', 304, there, bytes(16), 0))
attempt('execute', lambda: subprocess.run([tool], check=True))
attempt('execute by descriptor', lambda: in_child(lambda: os.execve(os.open(tool, os.O_PATH),
    [tool], {})))
attempt('by the loader', lambda: other_program(given['loader'], tool))
attempt('a script', lambda: other_program('sh', victim))
attempt('other program', lambda: other_program('cat', victim))
attempt('copy', lambda: other_program('cp', victim, 'copy'))
attempt('double fork', lambda: in_child(lambda: os.open(victim, 0), twice=True))
attempt('io_uring', lambda: call('syscall', 425, 8, bytes(120)))
attempt('bind mount', lambda: call('mount', folder.encode(), b'.', None, 4096, None))
attempt('namespace', lambda: in_child(lambda: call('unshare', 0x10020000)))
attempt('root', lambda: os.chroot(folder))
attempt('trace', lambda: call('ptrace', 16, given['pid'], None, None))
for name in ('environ', 'mem', 'maps', 'root' + victim, 'cwd/pyproject.toml', 'fd/0'):
    attempt('the daemon: ' + name, lambda: open(f"/proc/{given['pid']}/{name}", 'rb').read(1))
"""


async def test_a_program_that_is_denied_the_machine_reads_nothing_of_it(
    system: System, tmp_path: Path
) -> None:
    folder = tmp_path / "host"
    folder.mkdir()
    victim, tool = folder / "victim", folder / "tool"
    victim.write_text("echo secret\n")
    shutil.copy("/bin/true", tool)
    await system.spawn("neighbour")
    places = ["/etc/shadow", "/etc/ssl/private", "/var/log", "/opt", "/srv", "/mnt", "/boot"]
    places += ["/dev/shm", "/sys/kernel", "/sys/fs", "/run", "/etc", "/etc/crontab"]
    places += [entry.path for entry in os.scandir("/dev") if stat.S_ISBLK(entry.stat().st_mode)]
    state = [system.state_dir, system.state_dir / "store.db", system.state_dir / "logs"]
    state += [system.agents.log_path("neighbour"), system.agents.memory_dir("neighbour")]
    loaders = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
    given = {
        "victim": str(victim),
        "folder": str(folder),
        "tool": str(tool),
        "places": [each for each in [*places, *map(str, state)] if os.path.exists(each)],
        "loader": next(filter(os.path.exists, loaders), "/bin/sh"),
        "pid": os.getpid(),
    }
    noted = await tried(system, LOOKS, NO_READ, given)
    loose = {name: said for name, said in noted.items() if not all_refused({name: said})}
    # A program that cannot be opened ends with a code of its own.
    for name in ("a script", "by the loader", "execute by descriptor", "listing by descriptor"):
        assert loose.pop(name, "") != "done"
    assert loose == {}
    assert len(noted) > 50
    assert sorted(os.listdir(folder)) == ["tool", "two", "victim"], "it may write as before"


RUNS = """
import compileall, getpass, hashlib, locale, sqlite3, ssl, tempfile, zoneinfo, random, xml.dom
attempt('memory', lambda: open('mine', 'w').write('x') and open('mine').read())
attempt('listing', lambda: os.listdir('.'))
os.mkdir('below')
attempt('rename in it', lambda: os.rename('mine', 'below/mine'))
attempt('temporary', lambda: tempfile.TemporaryFile().write(b'x'))
assert os.environ['TMPDIR'] == os.environ['HOME'], os.environ
attempt('null', lambda: open('/dev/null', 'r+b', 0).write(b'x'))
attempt('random', lambda: open('/dev/urandom', 'rb').read(1))
attempt('certificates', lambda: ssl.create_default_context().load_default_certs())
attempt('zones', lambda: zoneinfo.ZoneInfo('Europe/Berlin'))
attempt('locale', lambda: locale.setlocale(locale.LC_ALL, 'C.UTF-8'))
attempt('users', lambda: getpass.getuser())
attempt('hosts', lambda: socket.getaddrinfo('localhost', 80))
attempt('itself', lambda: open('/proc/self/status').read())
attempt('its descriptors', lambda: os.listdir('/proc/self/fd'))
attempt('processors', lambda: os.cpu_count())
attempt('programs', lambda: subprocess.run(['sh', '-c', 'ls /usr/bin > list; sort list | head -1'],
    check=True, stdout=subprocess.DEVNULL))
attempt('child', lambda: in_child(lambda: open('/proc/self/stat').read()))
attempt('standard input', lambda: subprocess.run(['cat', '/dev/stdin'], input=b'x', check=True,
    stdout=subprocess.DEVNULL))
attempt('named', lambda: open(given).read())
"""


async def test_it_runs_all_the_same(system: System, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("named by its definition")
    noted = await tried(system, RUNS, NO_READ, str(data / "file"), read=[str(data)])
    assert set(noted.values()) == {"done"}, noted


async def test_a_shell_script_runs_with_its_interpreter_and_reads_no_other_file_of_its_folder(
    system: System, tmp_path: Path
) -> None:
    system.grants.confinement = lambda process: NOTHING
    (tmp_path / "other").write_text("secret")
    script = tmp_path / "script"
    script.write_text(f"#!/usr/bin/env sh\nread x < {tmp_path}/other || echo alone\necho $0\n")
    script.chmod(0o755)
    process = await system.spawn("bob", exec=[str(script)], restart="never")
    assert process.confined == ("network", "write", "exec", "read")
    await system.until(lambda: not process.state.alive)
    said = system.agents.log_path("bob").read_text()
    assert "alone" in said
    assert said.endswith(f"{script}\n")


async def test_a_script_among_its_arguments_is_its_own_a_folder_is_not(
    system: System, tmp_path: Path
) -> None:
    system.grants.confinement = lambda process: NO_READ
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "try: print(os.listdir(sys.argv[1]))\n"
        "except PermissionError: print('closed')\n"
    )
    process = await system.spawn("bob", exec=[PYTHON, str(script), str(tmp_path)], restart="never")
    await system.until(lambda: not process.state.alive)
    assert process.output == "closed\n"


async def test_no_script_that_it_can_write_opens_a_file_to_it(
    system: System, tmp_path: Path
) -> None:
    """What interprets a script is read with it; but not by the word of who is kept from reading."""
    system.grants.confinement = lambda process: NO_READ
    secret = tmp_path / "secret"
    secret.write_text("word\n")
    secret.chmod(0o755)
    memory = system.agents.memory_dir("bob")
    memory.mkdir(parents=True)
    shown = f"#!{secret}\ncat {secret}\n"
    for script in (memory / "script", tmp_path / "script"):
        script.write_text(shown)
        script.chmod(0o755)
    os.symlink(secret, memory / "link")
    for command in (
        ["sh", "script"],
        ["sh", str(tmp_path / "script")],
        ["sh", "-c", "cat link", "link", "./link"],
        ["sh", "-c", f"cat {secret}", "script"],
    ):
        process = await system.spawn("bob", exec=command, restart="never")
        await system.until(lambda process=process: not process.state.alive)
        assert "word" not in process.output, command
        assert "Permission denied" in process.output, command
        system.supervisor.reap(process)


C_PROGRAM = r"""
#include <stdio.h>
#include <time.h>
int main(int count, char **words) {
    time_t now = 0;
    FILE *file = fopen(words[1], "r");
    puts(file ? "open" : "closed");
    puts(localtime(&now) ? "time" : "no time");
    return 0;
}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Of that, compiled."""
    source = tmp_path / "program.c"
    source.write_text(C_PROGRAM)
    subprocess.run(["cc", "-o", str(tmp_path / "program"), str(source)], check=True)
    return tmp_path / "program"


async def test_a_program_in_c_runs_from_where_it_lies(
    system: System, program: Path, tmp_path: Path
) -> None:
    system.grants.confinement = lambda process: NO_READ
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("x")
    command = [str(program), f"{tmp_path}/secret/../secret/./file"]
    process = await system.spawn("bob", exec=command, restart="never")
    await system.until(lambda: not process.state.alive)
    assert process.output == "open\ntime\n", "a file among its words is its own, however written"
    process = await system.spawn("bob", exec=[command[0], "/etc/../etc"], restart="never")
    await system.until(lambda: not process.state.alive)
    assert process.output == "closed\ntime\n"


async def test_an_environment_of_python_is_read_whole(system: System, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    (packages / "ours.py").write_text("word = 'imported'\n")
    system.grants.confinement = lambda process: NO_READ
    command = [str(tmp_path / "env/bin/python"), "-c", "import ours; print(ours.word)"]
    process = await system.spawn("bob", exec=command, restart="never")
    await system.until(lambda: not process.state.alive)
    assert process.output == "imported\n"


async def test_who_may_not_read_cannot_have_a_child_read(system: System, tmp_path: Path) -> None:
    system.grants.confinement = lambda process: Confinement.of(
        system.policy.capabilities(process).allows
    )
    secret, given = tmp_path / "secret", tmp_path / "given"
    for file in (secret, given):
        file.write_text("word\n")
    parent = await system.shell(
        "parent", "sleep 1000", deny=["host_read"], read=[str(given)], tier="tactical"
    )
    assert parent.confined == ("read",)

    async def said(name: str, **spec: object) -> str:
        child = await system.processes.spawn(
            as_agent(parent),
            parent.pid,
            system.spec(name=name, restart="never", **spec),
        )
        await system.until(lambda: not child.state.alive)
        return child.output

    for path in (str(secret), "/", str(tmp_path), f"{given}x"):
        with pytest.raises(KernelError) as refused:
            await said("no", exec=["true"], read=[path])
        assert refused.value.errno == errno.EPERM
        assert refused.value.rule == "capability host_read"
    assert "Permission denied" in await said("one", exec=["cat", str(secret)])
    assert "Permission denied" in await said("two", exec=["cat", secret.name], cwd=str(tmp_path))
    assert await said("three", exec=["cat", str(given)], read=[str(given)]) == "word\n"
    assert await said("four", exec=["cat", str(given)]) == "word\n", "it was given that"


def test_which_paths_are_covered_and_named() -> None:
    assert covers("/a/b", ["/a"])
    assert covers("/a", ["/a"])
    assert covers("/a", ["/"])
    assert not covers("/ab", ["/a"])
    assert not covers("/a", ["/a/b"])
    words = ["python3", "bot.py", "/opt/x/../y", "-v", "\0"]
    assert named_files(words, "") == ("/opt/y",)
    assert named_files(words[:3], "/srv") == ("/srv/python3", "/srv/bot.py", "/opt/y")


def test_what_it_takes_to_execute_a_file(tmp_path: Path) -> None:
    for folder in ("tools/bin", "tools/lib", "env/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    real = tmp_path / "tools/bin/python"
    real.write_bytes(b"\x7fELF")
    real.chmod(0o755)
    python = tmp_path / "env/bin/python"
    python.symlink_to(real)
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/env -S python -u\n")
    found = list(of_program(str(script), str(python.parent), lambda file: True))
    assert found == [
        *(str(script), str(python), str(tmp_path / "env")),
        *(str(tmp_path / "tools/lib"), str(tmp_path / "tools/lib64")),
    ]
    script.write_text(f"#!{script}\n")
    assert list(of_program(str(script), "", lambda file: True)) == [str(script)] * 5, (
        "as Linux, it gives up"
    )
    assert list(of_program("nowhere", str(tmp_path), lambda file: True)) == []
    assert list(of_program(str(script), "", lambda file: False)) == [], "not looked at"

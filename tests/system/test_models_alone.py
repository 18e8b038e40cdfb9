"""Programs without the network, in a real tree: they find the gateway of models at its address, by
the variables of the SDKs, and are who they are."""

from __future__ import annotations

import json
import os
import urllib.parse
from collections.abc import Callable
from contextlib import closing

import pytest

from agentfs.machine import network
from tests.puppet import Puppet
from tests.system.test_across_users import interpreter
from tests.tree import Tree, eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not (network.made_by_us() or network.made_by_children()),
        reason=f"no program can have a network of its own here: needs {network.NEEDED}",
    ),
]

MODELS = (
    "__import__('urllib.request').request.urlopen("
    "os.environ['OPENAI_BASE_URL'] + '/models', timeout=60).read().decode()"
)

CATALOGUE = {
    "providers": {"script": {"scripted": "hello.yaml", "speaks": ["chat"]}},
    "models": {"hello": {"tier": "operational", "provider": "script"}},
}


def offer(tree: Tree) -> None:
    """Have one model that can be called."""
    (tree.state / "tapes").mkdir(exist_ok=True)
    (tree.state / "tapes" / "hello.yaml").write_text("answers: [{text: hello}]\n")
    tree.write("etc/models.yaml", json.dumps(CATALOGUE))


def offered(puppet: Puppet) -> list[str]:
    return [model["id"] for model in json.loads(puppet.do(MODELS))["data"]]


def test_the_models_are_at_the_usual_address_and_no_door_of_the_host_is(tree: Tree) -> None:
    offer(tree)
    facts = dict(line.split(":\t", 1) for line in tree.read("sys/gateway").splitlines())
    port = urllib.parse.urlsplit(facts["Address"]).port
    with closing(Puppet(tree, "bob", deny=["network_access"])) as bob:
        assert "Confined:\tmodels\n" in bob.read("proc/self/status")
        assert bob.do("os.environ['ANTHROPIC_BASE_URL']") == "http://127.0.0.1:4100"
        assert offered(bob) == ["hello"]
        assert "Name:\tbob\n" in bob.read("proc/self/status"), "it is an agent all the same"
        assert bob.do("os.getuid()") == os.getuid()
        if port != network.PORT:
            with pytest.raises(OSError, match="Connection refused"):
                bob.do(f"socket.create_connection(('127.0.0.1', {port}))")
    with closing(Puppet(tree, "ann")) as ann:
        assert ann.do("os.environ['ANTHROPIC_BASE_URL']") == f"http://127.0.0.1:{port}"
        assert offered(ann) == ["hello"]


def test_they_are_there_again_after_a_crash_of_the_daemon(trees: Callable[..., Tree]) -> None:
    tree = trees()
    tree.mount()
    offer(tree)
    with closing(Puppet(tree, "bob", deny=["network_access"])) as bob:
        ospid = bob.do("os.getpid()")
        assert offered(bob) == ["hello"]
        tree.crash()
        tree.mount()

        def found() -> bool:
            try:
                return offered(bob) == ["hello"]
            except OSError:
                return False

        eventually(found)
        assert bob.do("os.getpid()") == ospid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user of the machine")
def test_programs_of_other_users_find_them_too(tree: Tree) -> None:
    for folder in tree.path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    offer(tree)
    script = (
        "import os, urllib.request as r\n"
        "print(r.urlopen(os.environ['OPENAI_BASE_URL'] + '/models').read().decode(), os.getuid())"
    )
    tree.spawn(
        "of-nobody",
        exec=[interpreter(), "-c", script],
        user="nobody",
        deny=["network_access"],
        restart="never",
    )
    eventually(lambda: tree.read("agents/of-nobody/log").endswith(" 65534\n"))
    assert '"hello"' in tree.read("agents/of-nobody/log")

"""Loops over `recv` as people write them in their shells: each message once, whole, in order."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

BODIES = ["one\n", "two\nlines\n", "no line end", "", "last\n"]

WHOLE = """
while m=$(cat "$AGENTFS/agents/self/recv"; echo .); do
    m=${m%.}
    printf '<%s>' "${m#*

}"
done
"""

LINES = """
while :; do
    printf '<'
    head=yes
    while IFS= read -r line || [ -n "$line" ]; do
        [ -n "$head" ] || printf '%s|' "$line"
        [ -n "$line" ] || head=
    done < "$AGENTFS/agents/self/recv"
    printf '>'
done
"""

MAPPED = """
while mapfile -t lines < "$AGENTFS/agents/self/recv"; do
    printf '<'
    head=yes
    for line in "${lines[@]}"; do
        [ -n "$head" ] || printf '%s|' "$line"
        [ -n "$line" ] || head=
    done
    printf '>'
done
"""

KEPT = """
exec 3< "$AGENTFS/agents/self/recv"
while m=$(cat <&3; echo .); do
    m=${m%.}
    printf '<%s>' "${m#*

}"
done
"""

PIPED = """
while :; do
    cat "$AGENTFS/agents/self/recv" | sed '1,/^$/d' | { printf '<'; cat; printf '>'; }
done
"""

FISH = """
while true
    printf '<'
    set head yes
    cat $AGENTFS/agents/self/recv | while read line
        test -n "$head"; or printf '%s|' $line
        test -n "$line"; or set head
    end
    printf '>'
end
"""

FISH_REDIRECTED = """
while true
    printf '<'
    set head yes
    while read line
        test -n "$head"; or printf '%s|' $line
        test -n "$line"; or set head
    end < $AGENTFS/agents/self/recv
    printf '>'
end
"""

BY_BYTE = "".join(f"<{body}>" for body in BODIES)
BY_LINE = "".join("<" + "".join(f"{line}|" for line in body.splitlines()) + ">" for body in BODIES)

SHELLS = {"bash": ["bash"], "dash": ["dash"], "ash": ["busybox", "ash"], "zsh": ["zsh", "-f"]}

LOOPS = [
    *((shell, "whole", WHOLE, BY_BYTE) for shell in SHELLS),
    *((shell, "lines", LINES, BY_LINE) for shell in SHELLS),
    *((shell, "kept", KEPT, BY_BYTE) for shell in SHELLS),
    *((shell, "piped", PIPED, BY_BYTE) for shell in SHELLS),
    ("bash", "mapfile", MAPPED, BY_LINE),
    ("fish", "piped", FISH, BY_LINE),
    ("fish", "redirected", FISH_REDIRECTED, BY_LINE),
]


@pytest.mark.parametrize(
    ("shell", "form", "script", "wanted"), LOOPS, ids=[f"{each[0]}-{each[1]}" for each in LOOPS]
)
def test_each_message_is_read_once_and_whole(
    zoo: Tree, shell: str, form: str, script: str, wanted: str
) -> None:
    words = SHELLS.get(shell, [shell])
    if shutil.which(words[0]) is None:
        pytest.skip(f"not installed: {words[0]}")
    name = f"{shell}-{form}"
    pid = zoo.spawn(name, exec=[*words, "-c", script], restart="never")
    try:
        for body in BODIES:
            zoo.write(f"agents/init/outbox/{name}", f"Priority: normal\n\n{body}")
        eventually(
            lambda: len(zoo.read(f"agents/{name}/log")) >= len(wanted),
            f"it said {zoo.read(f'agents/{name}/log')!r}",
        )
        eventually(lambda: os.listdir(zoo / f"agents/{name}/inbox/cur") == [])
        assert zoo.read(f"agents/{name}/log").removesuffix("<") == wanted
        assert os.listdir(zoo / f"agents/{name}/inbox/new") == []
    finally:
        zoo.write(f"proc/{pid}/ctl", "KILL\n")

"""Mail programs work on an inbox as on any Maildir."""

from __future__ import annotations

import mailbox
import os
import sys
from pathlib import Path

import pytest

from tests.tree import Tree, eventually
from tests.zoo.programs import needs, run, waiting

pytestmark = pytest.mark.mount


def test_pythons_maildir_delivers_lists_reads_flags_and_removes(zoo: Tree) -> None:
    zoo.spawn("alice")
    box = mailbox.Maildir(str(zoo / "agents/alice/inbox"), create=False)
    key = box.add(mailbox.MaildirMessage("Subject: hello\nTo: alice\n\nthe body\n"))
    assert list(box.keys()) == [key]
    message = box[key]
    assert message["From"] == "init"
    assert message["Subject"] == "hello"
    assert message.get_payload() == "the body\n"
    message.set_subdir("cur")
    message.add_flag("SF")
    box[key] = message
    assert [path.name for path in (zoo / "agents/alice/inbox/cur").iterdir()] == [f"{key}:2,FS"]
    assert mailbox.Maildir(str(zoo / "agents/alice/inbox"))[key].get_flags() == "FS"
    box.remove(key)
    assert len(box) == 0
    box.close()


def test_pythons_maildir_works_for_an_agent_that_writes_to_another(zoo: Tree) -> None:
    zoo.spawn("bob")
    script = (
        "import mailbox, os;"
        " box = mailbox.Maildir(os.environ['AGENTFS'] + '/agents/bob/inbox', create=False);"
        " box.add(mailbox.MaildirMessage('To: bob\\n\\nfrom a maildir client'))"
    )
    pid = zoo.spawn("writer", exec=[sys.executable, "-c", script], restart="never")
    (zoo / f"proc/{pid}/wait").read_text()
    text = zoo.read("agents/bob/recv")
    assert "\nFrom: writer\n" in text, zoo.read("agents/writer/log")
    assert text.endswith("\n\nfrom a maildir client")


@needs("mlist", "mshow", "mflag", "mscan")
def test_mblaze_reads_an_inbox(zoo: Tree, tmp_path: Path) -> None:
    zoo.spawn("mblazer")
    zoo.write("agents/init/outbox/mblazer", "Subject: for mblaze\n\nthe body of it\n")
    inbox = zoo / "agents/mblazer/inbox"
    env = {"HOME": str(tmp_path)}
    moved = run("minc", inbox, env=env).split()
    assert len(moved) == 1
    assert "cur" in moved[0]
    assert "for mblaze" in run("mscan", *moved, env=env)
    assert "the body of it" in run("mshow", *moved, env=env)
    (flagged,) = run("mflag", "-S", *moved, env=env).split()
    assert flagged.endswith(":2,S")
    assert run("mlist", inbox, env=env).split() == [flagged]


@needs("mutt")
def test_mutt_reads_an_inbox(zoo: Tree, tmp_path: Path) -> None:
    zoo.spawn("mutter")
    zoo.write("agents/init/outbox/mutter", "Subject: for mutt\n\nthe body of it\n")
    saved = tmp_path / "saved"
    config = tmp_path / "muttrc"
    config.write_text(
        "set folder=/nonexistent\nset mbox_type=mbox\nset confirmappend=no\n"
        "set confirmcreate=no\nset delete=yes\n"
        "set quit=yes\nset copy=no\nset resolve=no\nset wait_key=no\nset save_empty=no\n"
        f'push "<copy-message>{saved}<enter><delete-message><quit>"\n'
    )
    run(
        "script",
        "-qec",
        f"mutt -n -F {config} -f '{zoo / 'agents/mutter/inbox'}'",
        "/dev/null",
        env={"TERM": "vt100", "HOME": str(tmp_path)},
    )
    assert "the body of it" in saved.read_text()
    assert list((zoo / "agents/mutter/inbox/new").iterdir()) == []
    assert list((zoo / "agents/mutter/inbox/cur").iterdir()) == []


@needs("notmuch")
def test_notmuch_indexes_an_inbox_and_takes_nothing(zoo: Tree, tmp_path: Path) -> None:
    zoo.spawn("indexed")
    zoo.write("agents/init/outbox/indexed", "Subject: about bees\n\nthey hum\n")
    mail = tmp_path / "mail"
    mail.mkdir()
    (mail / "indexed").symlink_to(zoo / "agents/indexed/inbox")
    config = tmp_path / "notmuch"
    config.write_text(
        f"[database]\npath={mail}\n[user]\nname=A\nprimary_email=a@example.org\n"
        "[new]\ntags=unread\n[search]\n[maildir]\nsynchronize_flags=false\n"
    )
    env = {"NOTMUCH_CONFIG": str(config), "HOME": str(tmp_path)}
    assert "Added 1 new message" in run("notmuch", "new", env=env)
    assert "about bees" in run("notmuch", "search", "hum", env=env)
    assert waiting(zoo / "agents/indexed") == ["they hum\n"]


def test_a_message_that_is_forwarded_from_a_mail_program_arrives_as_it_is(zoo: Tree) -> None:
    zoo.spawn("reader")
    forwarded = (
        "From: Ann <ann@example.org>\nDate: Fri, 27 Nov 2026 17:00:00 +0100\n"
        "To: ben@example.org\nSubject: parcels\n\nThree have come.\n"
    )
    zoo.write("agents/init/outbox/reader", forwarded)
    eventually(lambda: os.listdir(zoo / "agents/reader/inbox/new"))
    assert zoo.read("agents/reader/recv").endswith(f"\n\n{forwarded}")

"""Consumes with agentfs.agent: `client.py NOTES RECV SEED`. Goes on through crashes of the daemon;
one handler in fifty fails."""

import random
import sys

from notes import Notes

from agentfs.agent import Agent, Message

path, recv, seed = sys.argv[1:]
notes, agent, chance = Notes(path), Agent(), random.Random(seed)
notes.write("life")
before = ""


def handle(message: Message) -> None:
    global before
    if before and before != message.id:
        notes.write("ack", before)
    before = ""
    if message.type:  # a notice of the kernel
        return
    notes.got(message.id, message.attempt, message.text)
    notes.asks()  # when this returns
    if message.attempt == 1 and chance.random() < 0.02:
        raise ValueError("one in fifty")
    before = message.id


if "/queues/" in recv:
    agent.on_queue(recv.split("/")[-2])(handle)
else:
    agent.on_message(handle)
agent.run()

"""counter.py: answers every message with how many its sender has sent, across restarts."""

import os

from agentfs.agent import Agent, Message

agent = Agent()


@agent.on_message
def count(message: Message) -> str | None:
    if message.automatic:
        return None  # a notice, or an answer: nobody waits for one to it
    file = f"{agent.home}/memory/{message.sender}"
    number, last = 0, ""
    if os.path.exists(file):
        with open(file, encoding="utf-8") as kept:
            words = kept.read().split()
        number, last = int(words[0]), words[1]
    if message.id != last:  # else it came once more: an answer was under way
        number += 1
        with open(f"{file}.new", "w", encoding="utf-8") as kept:
            kept.write(f"{number} {message.id}\n")
        os.replace(f"{file}.new", file)
    return f"{number} so far\n"  # the reply; then the message is acknowledged


agent.run()

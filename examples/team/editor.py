"""Works with readers, of whom each knows one file of a folder: cuts a question into parts, asks the
reader whose file has most of the words of a part, and answers with what it was told.

Everything is a file: it reads `recv`, it asks through `asks/new`, and where there is no answer,
`sent` says why.
"""

import os
import re
import sys

TREE = os.environ["AGENTFS"]
ME = f"{TREE}/agents/{os.environ['AGENT_NAME']}"
FOLDER = sys.argv[1]
PATIENCE = "2m"


def words(text: str) -> set[str]:
    """The words of a text that say something."""
    return set(re.findall("[a-z]{4,}", text.lower()))


def readers() -> dict[str, set[str]]:
    """What each file has words of; its reader is called as it, without `.txt`."""
    found = {}
    for name in sorted(os.listdir(FOLDER)):
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            found[name] = words(file.read())
    return found


def ask(reader: str, question: str) -> str:
    """The id of the question."""
    file = os.open(f"{ME}/asks/new", os.O_RDWR)
    try:
        os.write(file, f"To: {reader}\nReply-By: {PATIENCE}\n\n{question}".encode())
        return os.read(file, 64).decode().strip()
    finally:
        os.close(file)


def answer(question: str) -> str:
    """The answer to a question, or why there is none."""
    try:
        with open(f"{ME}/asks/{question}/answer", encoding="utf-8") as file:
            return file.read().partition("\n\n")[2].strip()
    except OSError as failed:
        with open(f"{ME}/sent/{question}", encoding="utf-8") as file:
            head = file.read().partition("\n\n")[0].splitlines()
        reason = [line.partition(": ")[2] for line in head if line.startswith("Reason: ")]
        return f"no answer: {(reason or [failed.strerror])[0]}"


def answered(question: str) -> str:
    """The whole answer: every part goes to its reader at once, and each is waited for."""
    files, asked = readers(), []
    for part in re.split(r",\s*(?:and\s+)?", question.strip().rstrip("?.")):
        part = part[:1].upper() + part[1:]
        best = max(files, key=lambda name: len(files[name] & words(part)))
        reader = best.partition(".")[0]
        asked.append((part, reader, ask(reader, f"{part}, by {best}?")))
    return "\n".join(f"{part}? {answer(number)} ({reader})" for part, reader, number in asked)


def main() -> None:
    recv = os.open(f"{ME}/recv", os.O_RDWR | os.O_DIRECT)
    while True:  # the next read acknowledges the message before
        head, _, body = os.read(recv, 1 << 20).decode().partition("\n\n")
        headers = dict(line.split(": ", 1) for line in head.splitlines())
        if "Auto-Submitted" in headers:
            continue
        text = answered(body)
        with open(f"{ME}/outbox/{headers['From']}", "w", encoding="utf-8") as reply:
            reply.write(f"In-Reply-To: {headers['Message-ID']}\n\n{text}\n")


main()

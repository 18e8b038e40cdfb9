"""Works towards goals. A goal comes by mail. Of the pipelines in /etc/pipelines, those whose
description has most of its words are near; a model picks one of them, and the input. The run is
started and watched, and the answer is how it ended.

It has two capabilities: `llm`, and `spawner`, by which it may start runs. So it can do nothing by
itself, and its runs neither: their steps are mail to an agent that may. Everything is a file: it
lists /etc/pipelines, writes to NAME/run, and reads /proc/runs/ID/wait.
"""

import json
import os
import re
import sys

TREE = os.environ["AGENTFS"]
ME = f"{TREE}/agents/{os.environ['AGENT_NAME']}"
MODEL = sys.argv[1] if len(sys.argv) > 1 else "smollm2"


def read(path: str) -> str:
    """A file of the tree."""
    with open(f"{TREE}/{path}", encoding="utf-8") as file:
        return file.read()


def call(path: str, request: str) -> str:
    """Write a request and read its reply, on one open file."""
    file = os.open(f"{TREE}/{path}", os.O_RDWR)
    try:
        os.write(file, request.encode())
        answer = b""
        while piece := os.read(file, 1 << 16):
            answer += piece
        return answer.decode()
    finally:
        os.close(file)


def pipelines() -> dict[str, str]:
    """Name and description of every pipeline that there is."""
    found = {}
    for file in sorted(os.listdir(f"{TREE}/etc/pipelines")):
        name, dot, kind = file.rpartition(".")
        if dot and kind == "yaml":
            path = f"{TREE}/etc/pipelines/{name}"
            found[name] = os.getxattr(path, "user.agentfs.description").decode()
    return found


def words(text: str) -> set[str]:
    """The words of a text that say something."""
    return set(re.findall("[a-z]{4,}", text.lower()))


def decide(question: str, choices: list[str]) -> str:
    """Which of some words the model says: the grammar leaves it nothing else."""
    if len(choices) == 1:
        return choices[0]
    form = {"name": "answer", "schema": {"enum": choices}}
    request = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "response_format": {"type": "json_schema", "json_schema": form},
        "max_tokens": 50,
        "temperature": 0,
    }
    reply = json.loads(call(f"dev/llm/{MODEL}", json.dumps(request)))
    answer: str = json.loads(reply["choices"][0]["message"]["content"])
    return answer


def choose(goal: str) -> tuple[str, dict[str, str]]:
    """The pipeline that serves a goal, and its input: for each text that it needs, a word of the
    goal that fits the pattern in the schema."""
    there = pipelines()
    near = {name: len(words(what) & words(goal)) for name, what in there.items()}
    best = [name for name in there if near[name] == max(near.values())]
    lines = [f"{there[name]}: {name}" for name in best]
    wish = " ".join(word for word in goal.split() if "/" not in word)
    chosen = decide("\n".join([*lines, f"{wish}:"]), best)
    given = {}
    for name, about in json.loads(read(f"etc/pipelines/{chosen}/schema"))["properties"].items():
        said = [word.rstrip(".,;:!?") for word in goal.split()]
        fitting = [word for word in said if re.search(about.get("pattern", ""), word)]
        if not fitting:
            raise ValueError(f"{chosen} needs {about['description']}: the goal does not say it")
        given[name] = decide(f"{goal}\n{about['description']}:", sorted(set(fitting)))
    return chosen, given


def work_on(goal: str) -> str:
    """Start the run that serves a goal, and say how it ended."""
    chosen, given = choose(goal)
    request = f"Ref: goal/{os.environ['AGENT_NAME']}\n\n{json.dumps(given)}"
    run = call(f"etc/pipelines/{chosen}/run", request).strip()
    print(f"run {run}: {chosen} {json.dumps(given)}", flush=True)
    end = json.loads(read(f"proc/runs/{run}/wait"))
    said = json.dumps(end["output"]) if end["state"] == "completed" else end["error"]
    return f"{chosen} {json.dumps(given)}\nrun {run} {end['state']}: {said}\n"


def main() -> None:
    recv = os.open(f"{ME}/recv", os.O_RDWR | os.O_DIRECT)
    while True:  # the next read acknowledges the message before
        head, _, goal = os.read(recv, 1 << 20).decode().partition("\n\n")
        headers = dict(line.split(": ", 1) for line in head.splitlines())
        if "Auto-Submitted" in headers:
            continue
        try:
            text = work_on(goal.strip())
        except (OSError, ValueError, KeyError) as failed:
            text = f"failed: {failed}\n{read('proc/self/error')}"
        with open(f"{ME}/outbox/{headers['From']}", "w", encoding="utf-8") as reply:
            reply.write(f"In-Reply-To: {headers['Message-ID']}\n\n{text}\n")


main()

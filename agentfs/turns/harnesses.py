"""`/etc/harnesses.yaml`: how a program that people talk to on a terminal does one turn by itself.

The kernel keeps the document and makes nothing of it: `agentfs run --serve` reads it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentfs.base.models import read_model
from agentfs.model.spec import seconds
from agentfs.store.live_document import Form

__all__ = ["FORM", "Harness", "Harnesses", "parse_harnesses"]

DEFAULT = """\
# How `agentfs run --serve -- PROGRAM …` has a program do one turn. A valid write takes effect with
# the next `agentfs run`.
#
# turn      the words after the program: {arguments} are those of the command line, {prompt} is the
#           text to be worked on, {file} a file that it is in, {answer} one that the answer is to be
#           written to, {session} what the program calls its session, {home} the agent's memory.
#           Without {prompt} and {file} the text is its standard input.
# resume    the same for every turn after the first (without it: turn)
# drop      words of the command line that these stand for
# options   words that every call of the program gets, on the terminal too; {url} is the address of
#           the models, as in OPENAI_BASE_URL
# model     the same for the model of `agentfs run -m`, which is {model}
# env       variables of every call; one with {model} in it only where -m names one
# answer    the key of a JSON object that it prints, or of one of several, one a line: its text is
#           the answer (without it: all that it prints, or what is in the file {answer})
# file      the file that has the answer
# after     the answer begins after the last line that begins so
# without   lines that begin so are no part of it
# session   the key that names its session
# failed    the key that is true if the turn has failed although the program says 0
# timeout   of one turn
# prompt    mail (headers and text of each message), or text (the texts alone)
harnesses:
  claude:
    turn: [-p, --output-format, json, "{arguments}"]
    resume: [-p, --output-format, json, --resume, "{session}", "{arguments}"]
    drop: [-p, --print]
    model: [--model, "{model}"]
    env: {CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1", DISABLE_AUTOUPDATER: "1"}
    answer: result
    session: session_id
    failed: is_error
  codex:
    options: [-c, 'openai_base_url="{url}"']
    turn: [exec, --json, --skip-git-repo-check, -s, danger-full-access, -o, "{answer}",
           "{arguments}", "-"]
    resume: [exec, resume, "{session}", --json, --skip-git-repo-check, -o, "{answer}",
             "{arguments}", "-"]
    drop: [exec, e]
    model: [-m, "{model}"]
    session: thread_id
  opencode:
    turn: [run, --title, mail, "{arguments}"]
    resume: [run, --continue, "{arguments}"]
    drop: [run]
    model: [-m, "openai/{model}"]
    env:
      NO_COLOR: "1"
      OPENCODE_CONFIG_CONTENT: '{"provider": {"openai": {"models": {"{model}": {}}}},
        "small_model": "openai/{model}", "share": "disabled", "autoupdate": false}'
  aider:
    options: [--no-git, --no-check-update, --no-show-release-notes, --no-show-model-warnings,
              --analytics-disable, --no-detect-urls]
    turn: [--yes-always, --no-pretty, --no-fancy-input, --message-file, "{file}",
           --chat-history-file, "{home}/.aider.chat.history.md", --restore-chat-history,
           "{arguments}"]
    drop: [--message, -m]
    model: [--model, "openai/{model}"]
    env: {LITELLM_LOCAL_MODEL_COST_MAP: "True"}
    file: "{home}/.aider.chat.history.md"
    after: "#### "
    without: "> "
  llm:
    turn: ["{arguments}"]
    resume: [-c, "{arguments}"]
"""

Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
Words = Annotated[list[str], Field(max_length=64)]
Text = Annotated[str, Field(max_length=128)]


class Harness(BaseModel):
    """One program; see the comments of the document."""

    model_config = ConfigDict(extra="forbid", strict=True)

    turn: Words
    resume: Words | None = None
    drop: Words = []
    options: Words = []
    model: Words = []
    env: Annotated[dict[str, str], Field(max_length=64)] = {}
    answer: Text = ""
    file: Text = ""
    after: Text = ""
    without: Text = ""
    session: Text = ""
    failed: Text = ""
    timeout: Duration = 1800.0
    prompt: Literal["mail", "text"] = "mail"


class Harnesses(BaseModel):
    """The whole document."""

    model_config = ConfigDict(extra="forbid")

    harnesses: Annotated[dict[str, Harness], Field(max_length=256)] = {}


def parse_harnesses(text: str) -> Harnesses:
    """Read the document; an empty one describes no program. Raises EINVAL with every fault in the
    reason."""
    return read_model(text, Harnesses, "document") or Harnesses()


FORM: Form[Harnesses] = Form("harnesses.yaml", parse_harnesses, lambda: DEFAULT)

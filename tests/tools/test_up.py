"""`agentfs up` with documents of every kind, on a tree that it mounts itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.tree import AGENTFS

SYSTEM = """\
kind: System
metadata: {name: research}
spec:
  limits: {max_llm_calls: 50}
  processes:
    fetch-it: {exec: ./pipes/fetch.yaml}
    digest: {pipeline: digest, limits: {max_llm_calls: 30}}
    other: {pipeline: fetch}
  pipes:
  - {from: fetch-it, to: digest, mapping: {pages: "{{ fetch-it.output.pages }}"}}
---
kind: Pipeline
metadata: {name: digest}
spec:
  limits: {max_llm_calls: 40}
  nodes:
  - {name: d, program: 'cat /etc/hostname > /dev/null; cat', output: json}
---
kind: Config
metadata: {name: org}
spec: {limits: {max_llm_calls: 100}}
"""
FETCH = """\
kind: Pipeline
metadata: {name: whatever}
spec:
  nodes: [{name: a, data: {pages: [x, {y: 1}]}}]
  output: {pages: a.pages}
"""
FAILING = """\
kind: System
metadata: {name: failing}
spec: {processes: {one: {pipeline: digest, input: {x: "{{ input.nothing }}"}}}}
"""


def up(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "AGENTFS"}
    place = [str(file.parent / "mnt"), "--state", str(file.parent / "state")]
    return subprocess.run(
        [*AGENTFS, "up", str(file), *place, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
        cwd="/",
    )


def test_a_system_with_its_pipelines_is_put_and_run(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "pipes").mkdir()
    (tmp_path / "pipes/fetch.yaml").write_text(FETCH)
    file = tmp_path / "research.yaml"
    file.write_text(SYSTEM)
    done = up(file, "-i", "who=me")
    told = done.stderr.splitlines()
    assert told[:4] == [
        "configs/org: version 1",
        "pipelines/fetch: version 1",
        "pipelines/digest: version 1",
        "systems/research: version 1",
    ], done
    assert told[-1] == "research completed"
    assert {"digest completed", "fetch-it completed", "other completed"} <= set(told)
    assert done.returncode == 0
    file.write_text(FAILING)
    done = up(file)
    assert done.stderr.splitlines()[-1].startswith("failing failed"), done
    assert done.returncode == 1

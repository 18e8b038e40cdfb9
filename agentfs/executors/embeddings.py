"""Vectors of texts, as a model of a provider makes them."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence

from agentfs.base.errors import KernelError
from agentfs.chats.asking import Asking
from agentfs.chats.model_request import ModelRequest
from agentfs.dialects.embeddings import EMBEDDINGS
from agentfs.executors.replying import read_reply

__all__ = ["Embeddings"]

MOST = 32 * 1024 * 1024
"""Bytes of an answer: a number takes some 20."""


class Embeddings:
    """Call it with a process, a model and texts: the process asks the gateway, so that its budget,
    its limits and its capabilities count. Raises KernelError."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def __call__(self, pid: int, model: str, texts: Sequence[str]) -> list[list[float]]:
        body = json.dumps({"model": model, "input": list(texts)}, ensure_ascii=False)
        headers = (("content-type", "application/json"),)
        request = ModelRequest(EMBEDDINGS.path, headers, body.encode("utf-8", "replace"))
        answer = await read_reply(lambda reply: self._asking.begin(pid, request, reply), MOST)
        try:
            rows = sorted(json.loads(answer)["data"], key=lambda row: int(row["index"]))
            vectors = [[float(number) for number in row["embedding"]] for row in rows]
        except (ValueError, TypeError, LookupError, RecursionError):
            raise KernelError(errno.EBADMSG, f"{model} gave no vectors") from None
        if len(vectors) != len(texts) or len({*map(len, vectors)}) != 1 or not vectors[0]:
            raise KernelError(errno.EBADMSG, f"{model} gave other vectors than it was asked for")
        return vectors

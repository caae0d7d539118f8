"""The `Modelfile` with which Ollama makes a model of a released folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.model.config import stated_sampling
from qwq.release.ollama_template import go_template
from qwq.text.sampling import default_sampling
from qwq.text.template import ChatFormat

# generation_config.json's names, and Ollama's for the same.
PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
# Ollama keeps 4,096 tokens where nothing is said, less than a thought may need.
MOST_CONTEXT = 32_768


def modelfile(
    chat: ChatFormat, generation: Mapping[str, Any], *, weights: str, max_positions: int, licence: str = ""
) -> str:
    """Text of a Modelfile: weights, chat template, sampling, context, tokens that end a turn.

    `weights` is a GGUF file's name beside the Modelfile, or "." for the folder's safetensors;
    `licence` is the licence's text.
    """
    lines = ["# ollama create NAME -f Modelfile", f"FROM {'.' if weights == '.' else f'./{weights}'}"]
    template = go_template(chat)
    if template is None or '"""' in template:  # a Modelfile has no way to write three quotes
        lines.append("# Ollama reads the chat template from the weights' own metadata.")
    else:
        lines.append(f'TEMPLATE """{template}"""')
    stated = stated_sampling(generation)
    sampling = default_sampling(chat, generation)
    sampling |= {key: stated[key] for key in PARAMETERS if key in stated}
    lines += [f"PARAMETER {PARAMETERS[key]} {value}" for key, value in sampling.items()]
    lines.append(f"PARAMETER num_ctx {min(max_positions, MOST_CONTEXT)}")
    names = {i: token for token, i in chat.tokenizer.added_tokens.items()}
    lines += [f'PARAMETER stop "{names[i]}"' for i in chat.eos_ids if i in names]
    if licence:
        text = licence.strip().replace('"""', "'''")
        lines.append(f'LICENSE """\n{text}\n"""')
    return "\n".join(lines) + "\n"

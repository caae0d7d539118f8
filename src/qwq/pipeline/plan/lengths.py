"""Lengths of prompts and documents in tokens, guessed from characters: the tokenizer may not exist
yet.

Nothing is downloaded for an estimate: a set that is not here is taken to have prompts of
`ASSUMED_PROMPT` tokens.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qwq.config import Source
from qwq.data.examples import FileUse
from qwq.data.row_files import is_hub_id
from qwq.envs.base import with_environment
from qwq.pipeline.preflight import at_hand
from qwq.tasks.mix import ProblemMix
from qwq.tasks.registry import get
from qwq.tasks.sources import load_source
from qwq.types import Problem

ASSUMED_PROMPT, ASSUMED_DOCUMENT = 256, 512  # tokens, where the data are not at hand
SAMPLE = 64  # problems of a task looked at for their lengths


@dataclass(frozen=True, slots=True)
class Texts:
    """Lengths in characters."""

    longest: int
    mean: float


ASSUMED_TEXTS = Texts(int(ASSUMED_PROMPT * 2.5), ASSUMED_PROMPT * 2.5)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens."""

    longest: int
    mean: float


def to_tokens(characters: float, vocab_size: int) -> int:
    """Tokens of a text in a chat template, on the high side.

    Measured: 2.0 characters a token with a vocabulary of 512 on the procedural families; Qwen2.5's
    gives 4.1 on GSM8K, 2.8 on MBPP, and 2.5 on their longest prompts.
    """
    return math.ceil(characters / (2.0 if vocab_size < 4096 else 2.5)) + 30


def prompt_characters(problem: Problem, environment: str = "") -> int:
    """Of its messages, and of its tools as a template writes them: one JSON line each.

    `environment` is that of a problem that brings none.
    """
    tools = with_environment(problem, environment).tools
    return sum(len(m.content) for m in problem.messages) + sum(len(json.dumps(dict(tool))) + 1 for tool in tools)


def _texts(characters: Sequence[int]) -> Texts:
    return Texts(max(characters), statistics.fmean(characters))


def prompt_texts(name: str, environment: str = "") -> Texts:
    """Prompts of a task, with the tools of `environment` where it brings none.

    Files of one that reads some are left unread: they may have to be downloaded.
    """
    if get(name).reads_files:
        return ASSUMED_TEXTS
    mix = ProblemMix(0, "plan", {name: 1.0})
    return _texts([prompt_characters(mix.problem(i), environment) for i in range(SAMPLE)])


def document_texts(name: str) -> Texts:
    """Demonstrations of a task. ConfigError for one that has none."""
    mix = ProblemMix(0, "plan", {name: 1.0})
    documents = []
    for i in range(SAMPLE):
        problem, turns = mix.demonstration(i, 0.0)
        said = sum(len(m.content) + sum(len(str(c)) for c in m.tool_calls) for m in turns)
        documents.append(prompt_characters(problem) + said)
    return _texts(documents)


def readable_here(source: Source) -> Source | None:
    """The source as far as it can be read here; None where it is not."""
    if source.path and source.kind != "task" and (is_hub_id(source.path) or not at_hand(source.path)):
        return None
    return source.model_copy(
        update={"decontaminate": [benchmark for benchmark in source.decontaminate if at_hand(benchmark)]}
    )


def source_texts(source: Source, environment: str = "") -> Texts:
    """Prompts of a problem set."""
    here = readable_here(source)
    if here is None:
        return ASSUMED_TEXTS
    return _texts([prompt_characters(p, environment) for p in load_source(here)])


def prompt_lengths(
    weights: Mapping[str, float], sources: Sequence[Source], vocab_size: int, environment: str = ""
) -> Lengths:
    """Prompts that are drawn from tasks and sources by their weights, with the tools of
    `environment` where they bring none.
    """
    texts = [(w, prompt_texts(d, environment)) for d, w in weights.items()]
    texts += [(s.weight, source_texts(s, environment)) for s in sources]
    mean = sum(w * t.mean for w, t in texts) / sum(w for w, _ in texts)
    return Lengths(to_tokens(max(t.longest for _, t in texts), vocab_size), to_tokens(mean, vocab_size))


def document_lengths(weights: Mapping[str, float], vocab_size: int) -> Lengths:
    """Demonstrations that are drawn from tasks by their weights."""
    texts = [(w, document_texts(d)) for d, w in weights.items()]
    mean = sum(w * t.mean for w, t in texts) / sum(w for w, _ in texts)
    return Lengths(to_tokens(max(t.longest for _, t in texts), vocab_size), to_tokens(mean, vocab_size))


def file_lengths(use: FileUse | None, max_tokens: int) -> Lengths:
    """Rows of a data file: as they were read, else at most `ASSUMED_DOCUMENT` tokens."""
    if use and use.lengths:
        return Lengths(max(use.lengths), statistics.fmean(use.lengths))
    longest = min(ASSUMED_DOCUMENT, max_tokens)
    return Lengths(longest, longest / 2)


def longest_prompt(tasks: Iterable[str], sources: Sequence[Source], vocab_size: int) -> int:
    """Tokens of the longest prompt of tasks and sources."""
    texts = [prompt_texts(name) for name in tasks] + [source_texts(s) for s in sources]
    return to_tokens(max(t.longest for t in texts), vocab_size)

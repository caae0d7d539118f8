"""Instruction following for training: writing tasks with one to three constraints on the answer,
judged by rules in their reward reading.

Endless and addressable like a procedural family: problem i of a split is a function of (seed,
split, i). A problem is a writing task (a kind of text about a topic), compatible constraints of
`verify.instructions` (IFEval's 25 types and the further ones), and their wording in one prompt.
Canonical form: the task, and every constraint with its parameters; the split follows from the task
alone, so that a test task is never in training with other constraints.

Files in IFEval's layout (`prompt`, `instruction_id_list`, `kwargs`, one JSON object a line) are
problems of the same kind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.downloads import DataFiles
from qwq.tasks.file_task import FileTask
from qwq.tasks.procedural.base import digest, split_of
from qwq.tasks.questions import need
from qwq.types import Message, Problem
from qwq.verify.instructions.constraints import compatible
from qwq.verify.instructions.ifeval import grade
from qwq.verify.instructions.ifeval_requests import CHOICE, REQUESTS, describe

BUILTIN = "builtin"  # the path that stands for the generated problems
BUILTIN_NUM = 2000
MAX_CONSTRAINTS = 3

TASKS = (
    "Explain {topic} to a {reader}.", "Write a short story about {topic}.",
    "Describe {topic} to somebody who has never heard of it.", "Give a {reader} advice on {topic}.",
    "Write an email to a {reader} about {topic}.", "List what a {reader} should know about {topic}.",
    "Write a diary entry about {topic}.", "What are the advantages and drawbacks of {topic}?",
    "Write an advertisement for {topic}.", "Tell a {reader} why {topic} matters.",
    "Write a review of a book about {topic}.", "Plan an afternoon around {topic}.",
    "Write a speech on {topic} for a {reader}.", "Write a dialogue between two friends about {topic}.",
    "Summarise what is known about {topic}.", "Write a letter of complaint that has to do with {topic}.",
)  # fmt: skip
TOPICS = (
    "bee-keeping", "the tides", "public libraries", "learning the piano", "growing tomatoes", "night trains",
    "the printing press", "map making", "winter swimming", "bread baking", "the water cycle", "chess", "volcanoes",
    "working from home", "bird watching", "compound interest", "the history of tea", "sleep", "first aid",
    "open-source software", "bicycle repair", "street photography", "the moon landing", "recycling",
    "small claims courts", "stage fright", "coral reefs", "origami", "city parks", "vaccines", "lighthouses",
    "meteor showers", "saving money", "cheese making", "solar panels", "dialects", "long-distance running",
    "friendship", "the migration of birds", "house plants", "graph theory", "crossword puzzles", "job interviews",
    "desert animals", "glass blowing", "the abacus", "earthquakes", "knitting", "ferry boats", "time zones",
)  # fmt: skip
READERS = (
    "child", "new neighbor", "busy manager", "retired teacher", "tourist", "first-year student", "nervous beginner",
    "grandmother", "town council", "skeptical friend", "football coach", "night-shift nurse",
)  # fmt: skip
YES_NO = (
    "Should a {reader} spend more time on {topic}?", "Would a {reader} enjoy {topic}?",
    "Is {topic} something a {reader} ought to read about?",
)  # fmt: skip


def constraint_problem(seed: int, split: str, index: int) -> Problem:
    """Problem `index` of the endless stream of `split`."""
    rng = random.Random(digest(f"{seed}/constraints/{split}/{index}"))
    while True:
        names = _names(rng)
        forms = YES_NO if CHOICE in names else TASKS
        task = rng.choice(forms).format(topic=rng.choice(TOPICS), reader=rng.choice(READERS))
        if split_of(f"constraints/{task}") == split:
            return _problem(task, names, [REQUESTS[n].draw(rng) for n in names])


def _names(rng: random.Random) -> list[str]:
    """One to three compatible types."""
    wanted = rng.randint(1, MAX_CONSTRAINTS)
    names = [rng.choice(list(REQUESTS))]
    for candidate in rng.sample(list(REQUESTS), len(REQUESTS)):
        if len(names) == wanted:
            break
        if compatible([*names, candidate], REQUESTS):
            names.append(candidate)
    # What is repeated is all that precedes the request to repeat, so that request comes last.
    return sorted(names, key=lambda n: n == "combination:repeat_prompt")


def _problem(task: str, names: list[str], kwargs: list[dict[str, Any]]) -> Problem:
    requests = [describe(n, k) for n, k in zip(names, kwargs, strict=True)]
    if names[-1] == "combination:repeat_prompt":
        kwargs[-1] = {"prompt_to_repeat": " ".join([task, *requests[:-1]])}
    prompt = " ".join([task, *requests])
    return listed_problem(prompt, names, kwargs, f"constraints/{digest(prompt):016x}", "constraints")


def listed_problem(prompt: str, names: list[str], kwargs: list[dict[str, Any]], ident: str, source: str) -> Problem:
    """A prompt with IFEval's list of instructions as a problem."""
    truth = {"instruction_id_list": names, "kwargs": kwargs, "prompt": prompt}
    canonical = f"instructions/{digest(json.dumps([prompt, names, kwargs], sort_keys=True)):016x}"
    return Problem(ident, "instructions", (Message("user", prompt),), truth, canonical, level=len(names), source=source)


class Constraints(FileTask):
    """The generated problems, or those of files in IFEval's layout; judged by the instructions
    verifier.
    """

    name = "constraints"
    domain = "instructions"
    makes_rows = True

    def problems(
        self, split: str, num: int | None = None, *, data: DataFiles | None = None, use: FileUse | None = None
    ) -> list[Problem]:
        if data is None or data.place in (None, BUILTIN):
            return [constraint_problem(0, split, i) for i in range(num or BUILTIN_NUM)]
        return super().problems(split, num, data=data, use=use)

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        return listed_row(row, where, ident)


def listed_row(row: Mapping[str, Any], where: str, ident: str) -> Problem:
    """A row in IFEval's layout.

    DataError if a field is missing or an instruction cannot be checked.
    """
    prompt, names = need(row, "prompt", where), need(row, "instruction_id_list", where, list)
    kwargs = need(row, "kwargs", where, list)
    if not names or len(names) != len(kwargs) or not all(isinstance(k, dict) for k in kwargs):
        raise DataError(f"{where}: field 'kwargs' must hold an object for each of the {len(names)} instructions")
    kwargs = [{k: v for k, v in given.items() if v is not None} for given in kwargs]
    try:
        grade("Two words of English.", names, kwargs, prompt)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return listed_problem(prompt, names, kwargs, ident, "ifeval")

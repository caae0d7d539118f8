r"""Real problem sets as problems: GSM8K, MATH, MBPP, and a user's own, from a file, a folder or the Hugging Face hub.

    gsm8k  {"question", "answer": "... #### 42"}                          Cobbe et al. 2021, arXiv 2110.14168
    math   {"problem" or "question", "answer": "42" or "... #### 42"} or {..., "solution": "... \boxed{42}"}   Hendrycks et al. 2021, arXiv 2103.03874
    code   {"prompt" or "problem", "tests"}, tests in a form of `code_rows`
    mbpp   {"task_id", "text", "test_list", "test_setup_code"}            Austin et al. 2021, arXiv 2108.07732
    constraints  {"prompt", "instruction_id_list", "kwargs"}, IFEval's layout; or the path "builtin": generated ones

Splits. A file of GSM8K or MATH holds one published split, and its name says which. Validation is carved out of the
training file by a hash of the question, so `train` never holds it. MBPP is one file, divided by task id as in its
paper (section 2.1): 1-10 few-shot prompts (unused here), 11-510 test, 511-600 validation, 601-974 train.

Canonical form: a hash of the question's words and numbers, so that a problem is known again with other spacing,
case and punctuation, and in another file.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwq.config import Source
from qwq.data.examples import FileUse
from qwq.data.files import data_files, read_rows, split_in_name
from qwq.data.messages import Malformed, turns_of
from qwq.errors import DataError
from qwq.tasks.code_rows import hint, tests_of
from qwq.tasks.decontaminate import build_index
from qwq.tasks.ifeval_train import BUILTIN, BUILTIN_NUM, constraint_problem, read_row
from qwq.tasks.procedural import arithmetic
from qwq.tasks.procedural.base import digest
from qwq.tasks.registry import get
from qwq.types import CUSTOM, Message, Problem

NO_ANSWER = "without an answer"
VALIDATION_SHARE = 5  # percent of a training file
MBPP_IDS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
# Tasks of MBPP's training split that repeat a test task word for word (217, 248 and 216); training leaves them out.
MBPP_REPEATED = frozenset({602, 704, 872})
HUB_SETS = {"gsm8k": "openai/gsm8k", "mbpp": "google-research-datasets/mbpp", "math": "HuggingFaceH4/MATH-500"}

# The instruction that the Qwen models' cards give for math problems.
MATH_INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
# MBPP shows the tests in the prompt (paper, section 3): they name the function and its arguments.
TESTS_HINT = "\n\nYour code should pass these tests:\n\n"
CODE_INSTRUCTION = "\n\nAnswer with the whole program in one ```python block."

_log = logging.getLogger(__name__)
_said: set[tuple[str, ...]] = set()  # a recipe's plan reads a source several times, and one warning is enough


def load_source(source: Source, use: FileUse | None = None) -> list[Problem]:
    """The problems of one split of a source in the file's order, the first `source.limit` of them; `use` is told what became of each row.

    Rows of MATH whose answer is null or blank cannot be judged; they are left out and counted in a warning. So are problems that share
    words with the benchmarks in `source.decontaminate`. Raises DataError for a file that is missing, empty or of another split, and for a bad row
    (file and line).
    """
    use = FileUse(source.path, noun="problems") if use is None else use
    if source.kind == "arithmetic":
        return arithmetic.problems(source.level, source.split, source.limit)
    if source.kind == "task":
        problems = get(source.path).problems(source.split)
        if not problems:
            raise DataError(f"task {source.path} has no {source.split} rows: its rows({source.split!r}) is empty")
    elif source.kind == "constraints" and source.path == BUILTIN:
        size = BUILTIN_NUM if source.decontaminate else source.limit or BUILTIN_NUM
        problems = [constraint_problem(0, source.split, i) for i in range(size)]
    else:
        problems = _read(source, use)
    if source.decontaminate:
        problems = _decontaminated(source, problems, use)
    if source.limit is not None and len(problems) > source.limit:
        use.beyond, use.limit = len(problems) - source.limit, f"limit = {source.limit:,}"
        problems = problems[: source.limit]
    use.used = len(problems)
    return problems


def _decontaminated(source: Source, problems: Sequence[Problem], use: FileUse) -> list[Problem]:
    """Those that share no words with the benchmarks, as a warning says."""
    index = build_index(source.decontaminate)
    clean, dropped = index.without(problems, question_of)
    for problem, match in dropped:
        use.leave_out(f"in the benchmark {match.benchmark}", problem.id)
    said = (source.path, source.split, *source.decontaminate)
    if dropped and said not in _said:
        _said.add(said)
        problem, match = dropped[0]
        _log.warning(
            "%s: %d problems stand in %s and are left out, such as %s: %r",
            source.path, len(dropped), ", ".join(sorted({m.benchmark for _, m in dropped})), problem.id, match.words,
        )  # fmt: skip
    if not clean:
        raise DataError(
            f"{source.path}: every problem stands in {', '.join(source.decontaminate)}: is it the benchmark itself?"
        )
    return clean


def _read(source: Source, use: FileUse) -> list[Problem]:
    """All problems of a source's split, from its files."""
    give = f"give a JSON-lines file in {source.kind}'s own format, or a hub data set such as {HUB_SETS.get(source.kind, 'org/name')}"
    files = data_files(source.path, source.split, give=give)
    if Path(source.path).expanduser().is_file():
        _check_split(files[0], source)
    problems: list[Problem] = []
    for path in files:
        named = split_in_name(path.name)
        # The parts of one set have one name for their split: their rows are told apart by the part's own name.
        label = named if named and len(files) == 1 else path.stem
        for row in read_rows(path):
            use.rows += 1
            use.shapes[source.kind] += 1
            try:
                problem = _READERS[source.kind](row.fields, row.where, f"{source.kind}/{label}/{row.number}")
            except Malformed as reason:
                raise DataError(f"{row.where}: {reason}") from None
            if problem is None:
                use.leave_out(NO_ANSWER, row.where)
            elif _in_split(problem, source, named):
                problems.append(problem)
            else:
                held_back = source.split == "train" and source.kind != "mbpp"
                use.leave_out(
                    "held back for validation" if held_back else f"not of the {source.split} split", row.where
                )
    if unanswered := use.left_out[NO_ANSWER]:
        _log.warning("%s: %d rows without an answer are left out", source.path, unanswered)
    if not problems:
        raise DataError(
            f"{source.path} holds no {source.split} problems of {source.kind}{_why_none(source, use.rows - unanswered)}: name another file or split"
        )
    return problems


def _why_none(source: Source, rows: int) -> str:
    """In brackets, how the rows of a file are divided, where that leaves none."""
    if source.kind == "mbpp":
        return (
            f' ({rows} rows; a task\'s id decides its split: train is 601 to 974; tasks of your own are kind = "code")'
        )
    if source.split == "test" or not rows:
        return ""
    return f" ({rows} rows; about {VALIDATION_SHARE} in a hundred, by a hash of the question, are validation and the rest train)"


# -- canonical forms and contamination --------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation but what changes a sum: + - * / = < > ^ % ( ) and decimal points."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.+\-*/=<>^%()]|_", " ", text)
    return " ".join(re.sub(r"([+\-*/=<>^%()])", r" \1 ", text).split())


def canonical(domain: str, question: str) -> str:
    """Names a problem by its question: equal for two texts that differ only in spacing, case and punctuation."""
    words = hashlib.blake2b(normalise(question).encode(), digest_size=12).hexdigest()
    return f"{domain}/text/{words}"


def question_of(problem: Problem) -> str:
    """The question as the set has it, without the instructions this module adds."""
    text = problem.messages[-1].content
    return text.removesuffix(MATH_INSTRUCTION).removesuffix(CODE_INSTRUCTION).split(TESTS_HINT)[0]


def contaminated(texts: Iterable[str], problems: Sequence[Problem]) -> list[Problem]:
    """Those of `problems` whose question stands in one of `texts`, up to spacing, case and punctuation."""
    # A question is looked up by its first words, then compared whole.
    by_length: dict[int, dict[tuple[str, ...], list[tuple[list[str], Problem]]]] = {}
    for problem in problems:
        words = normalise(question_of(problem)).split()
        head = tuple(words[:8])
        by_length.setdefault(len(head), {}).setdefault(head, []).append((words, problem))
    found: set[int] = set()
    for text in texts:
        words = normalise(text).split()
        for length, heads in by_length.items():
            for at in range(len(words) - length + 1):
                for wanted, problem in heads.get(tuple(words[at : at + length]), ()):
                    if words[at : at + len(wanted)] == wanted:
                        found.add(id(problem))
    return [p for p in problems if id(p) in found]


# -- splits -----------------------------------------------------------------------------------------------------------


def _check_split(path: Path, source: Source) -> None:
    named = split_in_name(path.name)
    serves = {None: ("train", "validation", "test"), "train": ("train", "validation")}.get(named, (named,))
    if source.split not in serves:
        raise DataError(
            f"{path} holds {named} rows by its name, split {source.split!r} is asked for: "
            f"name the {source.split} file or set split = {named!r}"
        )


def _in_split(problem: Problem, source: Source, named: str | None) -> bool:
    if source.kind == "mbpp":
        task = int(problem.id.removeprefix("mbpp/"))
        return task in MBPP_IDS[source.split] and not (source.split == "train" and task in MBPP_REPEATED)
    if source.split == "test" or named == "validation":
        return True
    held_out = digest(f"validation/{problem.canonical}") % 100 < VALIDATION_SHARE
    return held_out == (source.split == "validation")


# -- rows -------------------------------------------------------------------------------------------------------------


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where}: needs a text {key!r}, found {str(value)[:40]!r} "
            f"(the row has {', '.join(map(str, row)) or 'no keys'})"
        )
    return value.replace("\r\n", "\n").strip()


def _math_problem(question: str, gold: str, ident: str, source: str) -> Problem:
    message = Message("user", question + MATH_INSTRUCTION)
    return Problem(ident, "math", (message,), {"gold": gold}, canonical("math", question), source=source)


def _gsm8k(row: Mapping[str, Any], where: str, ident: str) -> Problem:
    question, answer = _text(row, "question", where), _text(row, "answer", where)
    gold = _after_mark(answer)
    if not gold:
        raise DataError(f"{where}: the answer has no '#### RESULT' at its end: bare answers are kind = \"math\"")
    return _math_problem(question, gold, ident, "gsm8k")


def _after_mark(answer: str) -> str:
    """The result behind GSM8K's mark, without thousands commas; empty where there is none."""
    _, mark, gold = answer.rpartition("####")
    return gold.strip().replace(",", "") if mark else ""


def _math(row: Mapping[str, Any], where: str, ident: str) -> Problem | None:
    question = _text(row, "question" if row.get("problem") is None and "question" in row else "problem", where)
    if "answer" in row:
        answer = row["answer"]
        if answer is None or not str(answer).strip():
            return None
        if (
            isinstance(answer, bool)
            or not isinstance(answer, str | int | float)
            or (isinstance(answer, float) and not math.isfinite(answer))
        ):
            raise DataError(f"{where}: needs an answer as text or number, found {str(answer)[:40]!r}")
        return _math_problem(question, _after_mark(str(answer)) or str(answer).strip(), ident, "math")
    solution = _text(row, "solution", where)
    if "\\boxed" not in solution:
        raise DataError(f"{where}: no `answer`, and the solution has no \\boxed{{}} to read one from")
    return _math_problem(question, solution, ident, "math")


def _code(row: Mapping[str, Any], where: str, ident: str) -> Problem:
    key = next((k for k in ("prompt", "problem", "question", "text") if row.get(k) is not None), "prompt")
    tests = tests_of(row)
    if isinstance(row.get(key), str):
        text = _text(row, key, where)
        messages: tuple[Message, ...] = (Message("user", text + hint(text, tests, TESTS_HINT) + CODE_INSTRUCTION),)
    else:  # messages say themselves in which form they want the answer
        messages = turns_of(row.get(key), key).messages
        text = "\n".join(m.content for m in messages)
    return Problem(ident, "code", messages, {"tests": tests}, canonical("code", text), source="code")


def _mbpp(row: Mapping[str, Any], where: str, ident: str) -> Problem:
    task, tests = row.get("task_id"), row.get("test_list")
    if not isinstance(task, int) or isinstance(task, bool):
        raise DataError(f"{where}: needs a whole number 'task_id', found {task!r}: it decides the split")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) and t.strip() for t in tests):
        raise DataError(f"{where}: needs 'test_list', a list of at least one assert")
    question = _text(row, "text", where)
    asserts = [t.replace("\r\n", "\n").strip() for t in tests]
    setup = str(row.get("test_setup_code") or "").replace("\r\n", "\n")
    message = Message("user", question + TESTS_HINT + "\n".join(asserts) + CODE_INSTRUCTION)
    truth = {"tests": {"kind": "asserts", "setup": setup, "asserts": asserts}}
    return Problem(f"mbpp/{task}", "code", (message,), truth, canonical("code", question), source="mbpp")


def _prompts(row: Mapping[str, Any], where: str, ident: str) -> Problem:
    """A prompt as TRL and verl keep it: a text or a list of messages, and any other columns for the reward functions.

    A conversation (`messages` without `prompt`) is its turns up to the last one of the user.
    """
    prompt = row.get("prompt")
    if prompt is None and isinstance(row.get("messages"), list):
        prompt = list(row["messages"])
        while prompt and isinstance(prompt[-1], dict) and prompt[-1].get("role") != "user":
            prompt.pop()
    if not isinstance(prompt, str | list) or not prompt:
        raise DataError(
            f"{where}: needs `prompt`, a text or a list of messages with role and content, found {str(prompt)[:40]!r}"
        )
    messages = (Message("user", prompt),) if isinstance(prompt, str) else turns_of(prompt, "prompt").messages
    truth = {k: v for k, v in row.items() if k != ("prompt" if "prompt" in row else "messages")}
    if isinstance(marked := truth.get("reward_model"), dict) and "ground_truth" in marked:  # verl's own place for it
        truth["ground_truth"] = marked["ground_truth"]
    question = "\n".join(m.content for m in messages)
    return Problem(
        ident, CUSTOM, messages, truth, canonical(CUSTOM, question), source=str(row.get("data_source", "prompts"))
    )


_READERS: dict[str, Callable[[Mapping[str, Any], str, str], Problem | None]] = {
    "gsm8k": _gsm8k,
    "math": _math,
    "code": _code,
    "mbpp": _mbpp,
    "prompts": _prompts,
    "constraints": read_row,
}

r"""Real problem sets as problems: GSM8K, MATH and MBPP, from a file, a folder or the Hugging Face hub.

    gsm8k  {"question", "answer": "... #### 42"}                          Cobbe et al. 2021, arXiv 2110.14168
    math   {"problem", "answer"} or {"problem", "solution": "... \boxed{42}"}   Hendrycks et al. 2021, arXiv 2103.03874
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
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from qwq.config import Source
from qwq.errors import DataError
from qwq.problems import arithmetic
from qwq.problems.base import digest
from qwq.problems.constraints import BUILTIN, BUILTIN_NUM, constraint_problem, read_row
from qwq.problems.decontaminate import build_index
from qwq.types import CUSTOM, Message, Problem

VALIDATION_SHARE = 5  # percent of a training file
MBPP_IDS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
# Tasks of MBPP's training split that repeat a test task word for word (217, 248 and 216); training leaves them out.
MBPP_REPEATED = frozenset({602, 704, 872})
HUB_SETS = {"gsm8k": "openai/gsm8k", "mbpp": "google-research-datasets/mbpp", "math": "HuggingFaceH4/MATH-500"}
HUB_FOLDERS = ("main", "full", "default", "data", "")  # where a data set has several forms, the first of these
SUFFIXES = (".jsonl", ".parquet")

# The instruction that the Qwen models' cards give for math problems.
MATH_INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
# MBPP shows the tests in the prompt (paper, section 3): they name the function and its arguments.
TESTS_HINT = "\n\nYour code should pass these tests:\n\n"
CODE_INSTRUCTION = "\n\nAnswer with the whole program in one ```python block."

_log = logging.getLogger(__name__)
_said: set[tuple[str, ...]] = set()  # a recipe's plan reads a source several times, and one warning is enough


def load_source(source: Source) -> list[Problem]:
    """The problems of a source, without those that share words with the benchmarks in `source.decontaminate`, as a warning says."""
    if not source.decontaminate:
        return _load(source)
    index = build_index(source.decontaminate)
    problems, dropped = index.without(_load(source.model_copy(update={"limit": None})), question_of)
    said = (source.path, source.split, *source.decontaminate)
    if dropped and said not in _said:
        _said.add(said)
        problem, match = dropped[0]
        _log.warning(
            "%s: %d problems stand in %s and are left out, such as %s: %r",
            source.path, len(dropped), ", ".join(sorted({m.benchmark for _, m in dropped})), problem.id, match.words,
        )  # fmt: skip
    if not problems:
        raise DataError(f"{source.path}: every problem stands in {', '.join(source.decontaminate)}: is it the benchmark itself?")
    return problems[: source.limit]


def _load(source: Source) -> list[Problem]:
    """The problems of one split of a real set, in the file's order, the first `source.limit` of them.

    Rows of MATH whose answer is null or blank cannot be judged; they are left out and counted in a warning. Raises
    DataError for a file that is missing, empty or of another split, and for a bad row (file and line).
    """
    if source.kind == "arithmetic":
        return arithmetic.problems(source.level, source.split, source.limit)
    if source.kind == "constraints" and source.path == BUILTIN:
        return [constraint_problem(0, source.split, i) for i in range(source.limit or BUILTIN_NUM)]
    files = _files(source)
    problems: list[Problem] = []
    unanswered = 0
    for path in files:
        named = split_in_name(path.name)
        for number, row in read_rows(path):
            problem = _READERS[source.kind](
                row, f"{path}, line {number}", f"{source.kind}/{named or path.stem}/{number}"
            )
            if problem is None:
                unanswered += 1
            elif _in_split(problem, source, named):
                problems.append(problem)
    if unanswered:
        _log.warning("%s: %d rows without an answer are left out", source.path, unanswered)
    if not problems:
        raise DataError(f"{source.path} holds no {source.split} problems of {source.kind}: name another file or split")
    return problems[: source.limit]


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
    return text.removesuffix(MATH_INSTRUCTION).split(TESTS_HINT)[0]


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


def split_in_name(name: str) -> str | None:
    """The split that a file's name claims: `train.jsonl`, `test-00000-of-00001.parquet`; None where it claims none."""
    for split, words in {"train": "train", "test": "test", "validation": "validation|valid|val|dev"}.items():
        if re.search(rf"(?<![a-z])({words})(?![a-z])", name.lower()):
            return split
    return None


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
    _, mark, gold = answer.rpartition("####")
    if not mark or not gold.strip():
        raise DataError(f"{where}: the answer has no '#### RESULT' at its end")
    return _math_problem(question, gold.strip().replace(",", ""), ident, "gsm8k")


def _math(row: Mapping[str, Any], where: str, ident: str) -> Problem | None:
    question = _text(row, "problem", where)
    if "answer" in row:
        answer = row["answer"]
        if answer is None or not str(answer).strip():
            return None
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            raise DataError(f"{where}: needs an answer as text or number, found {str(answer)[:40]!r}")
        return _math_problem(question, str(answer).strip(), ident, "math")
    solution = _text(row, "solution", where)
    if "\\boxed" not in solution:
        raise DataError(f"{where}: no `answer`, and the solution has no \\boxed{{}} to read one from")
    return _math_problem(question, solution, ident, "math")


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
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) and isinstance(t.get("content"), str) for t in turns):
        raise DataError(f"{where}: needs `prompt`, a text or a list of messages with role and content, found {str(prompt)[:40]!r}")
    messages = tuple(Message(str(t.get("role", "user")), t["content"]) for t in turns)
    truth = {k: v for k, v in row.items() if k != ("prompt" if "prompt" in row else "messages")}
    if isinstance(marked := truth.get("reward_model"), dict) and "ground_truth" in marked:  # verl's own place for it
        truth["ground_truth"] = marked["ground_truth"]
    question = "\n".join(m.content for m in messages)
    return Problem(ident, CUSTOM, messages, truth, canonical(CUSTOM, question), source=str(row.get("data_source", "prompts")))


_READERS: dict[str, Callable[[Mapping[str, Any], str, str], Problem | None]] = {
    "gsm8k": _gsm8k,
    "math": _math,
    "mbpp": _mbpp,
    "prompts": _prompts,
    "constraints": read_row,
}


# -- files ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and object of each row of a JSON-lines or parquet file. Blank lines are skipped."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), 1)
        return
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}): mend or remove the line") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: holds a {type(row).__name__}, an object is needed")
            yield number, row
    if empty:
        raise DataError(f"{path} is empty: it needs one JSON object a line")


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(
            f"{path} is a parquet file, and pyarrow is not installed: `pip install pyarrow`, or give JSON lines"
        ) from None
    rows = parquet.read_table(path).to_pylist()
    if not rows:
        raise DataError(f"{path} is empty: it needs at least one row")
    return rows


def is_hub_id(path: str) -> bool:
    """Whether `path` names a data set of the hub: `org/name`, no path here, and not the name of a data file."""
    form = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", path)
    return bool(form) and Path(path).suffix not in (*SUFFIXES, ".json") and not Path(path).exists()


def _files(source: Source) -> list[Path]:
    """The local files of a source: the path itself, the fitting files of a folder, or those of a hub data set."""
    path = Path(source.path).expanduser()
    if path.is_file():
        _check_split(path, source)
        return [path]
    if path.is_dir():
        names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
        return [path / name for name in choose_files(names, source.split, str(path))]
    if is_hub_id(source.path):
        return _hub_files(source)
    raise DataError(
        f"no data file at {path}: give a JSON-lines file in {source.kind}'s own format, "
        f"or a hub data set such as {HUB_SETS.get(source.kind, 'org/name')}"
    )


def choose_files(names: Sequence[str], split: str, where: str) -> list[str]:
    """The data files of `split` among the file names of a folder or data set, in order.

    Validation comes from a file of its own where there is one, else from the training file. DataError where none fits.
    """
    data = [n for n in names if n.endswith(SUFFIXES)]
    folders = {n.rpartition("/")[0] for n in data}
    folder = next((f for f in HUB_FOLDERS if f in folders), next(iter(folders)) if len(folders) == 1 else None)
    if folder is None:
        found = f"files in {', '.join(sorted(folders))}" if folders else "no JSON-lines or parquet file"
        raise DataError(f"{where} has {found}: give the path of one data file")
    here = [n for n in data if n.rpartition("/")[0] == folder]
    for wanted in (split, "train" if split == "validation" else None, None):
        fitting = sorted(n for n in here if split_in_name(n.rpartition("/")[2]) == wanted)
        lines = [n for n in fitting if n.endswith(".jsonl")]
        if fitting:
            return lines or fitting
    raise DataError(
        f"{where} has no {split} file, only {', '.join(sorted(here)[:6])}: give another split or the path of a file"
    )


def _hub_files(source: Source) -> list[Path]:
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        names = HfApi().list_repo_files(source.path, repo_type="dataset")
        chosen = choose_files(names, source.split, f"the data set {source.path}")
        return [Path(hf_hub_download(source.path, name, repo_type="dataset")) for name in chosen]
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"no data file at {source.path}, and the hub gives no such data set ({type(error).__name__}: {reason}): "
            "check the name and the network, or give a local JSON-lines file"
        ) from None

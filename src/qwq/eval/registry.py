"""The benchmarks by name; `NAME:PART` takes a part of one, such as bfcl:simple_python or livebench:math."""

from __future__ import annotations

from qwq.common.imports import is_reference
from qwq.errors import ConfigError, nearest
from qwq.eval.families import FAMILIES
from qwq.eval.tasks import TaskBenchmark
from qwq.tasks.benchmark import Benchmark
from qwq.tasks.bfcl.task import Bfcl
from qwq.tasks.code_sets import HumanEval, Mbpp
from qwq.tasks.ifeval import IfEval
from qwq.tasks.livebench.task import LiveBench
from qwq.tasks.livecodebench import LiveCodeBench
from qwq.tasks.math_sets import Aime24, Aime25, Gsm8k, Math500
from qwq.tasks.registry import TASKS, get

PUBLISHED = (Aime24, Aime25, LiveCodeBench, LiveBench, IfEval, Bfcl, Gsm8k, Math500, HumanEval, Mbpp)
BENCHMARKS: dict[str, type[Benchmark]] = {b.name: b for b in PUBLISHED} | FAMILIES


def benchmark(name: str, *, native_tools: bool = True) -> Benchmark:
    """ConfigError for a name or a part that there is not."""
    kind, colon, part = name.partition(":")
    if kind not in BENCHMARKS and (name in TASKS or (is_reference(name) and "." in kind)):
        return TaskBenchmark(get(name), native_tools=native_tools)
    if kind not in BENCHMARKS:
        raise ConfigError(f"no benchmark {kind!r}: {nearest(kind, BENCHMARKS)}")
    made = BENCHMARKS[kind]
    if colon and part not in made.parts:
        raise ConfigError(
            f"benchmark {kind} has no part {part!r}: {nearest(part, made.parts) if made.parts else 'it is one whole'}"
        )
    return made(part, native_tools=native_tools)

"""Who may import whom. A package imports only what stands above it in the table, so an upward
import fails here.

Imports are read from the source text, those inside functions too: nothing is imported, and nothing
can hide. `docs/architecture.md` says the same in words.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "qwq"

# Each line may name only lines above it (a test holds that), so there are no cycles.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": set(),
    "common": {"errors"},
    "config": {"errors", "types", "common"},
    "model": {"errors", "common"},
    "cluster": {"errors", "common", "config", "model"},
    "text": {"errors", "types", "common", "model"},  # of the model, config and folder only: TEXT_MAY_READ
    "sandbox": {"errors"},
    "endpoint": {"errors", "types", "text"},
    "engine": {"errors", "types", "common", "model", "text"},
    "envs": {"errors", "types", "common", "sandbox"},
    "verify": {"errors", "types", "common", "text", "sandbox", "envs"},
    "data": {"errors", "types", "common", "text"},
    "tasks": {"errors", "types", "common", "config", "text", "data", "envs", "verify"},
    "rollout": {"errors", "types", "common", "model", "text", "engine", "endpoint", "envs", "tasks"},
    "reward": {"errors", "types", "common", "model", "cluster", "text", "data", "tasks", "verify"},
    "train": {
        "errors",
        "types",
        "common",
        "config",
        "model",
        "cluster",
        "text",
        "data",
        "engine",
        "envs",
        "tasks",
        "rollout",
        "reward",
    },
    "distill": {
        "errors",
        "types",
        "common",
        "config",
        "text",
        "endpoint",
        "data",
        "engine",
        "tasks",
        "rollout",
        "verify",
    },
    "report": {"errors", "types", "common", "config", "text"},
    "look": {"errors", "types", "common", "text", "report"},
    "eval": {
        "errors",
        "types",
        "common",
        "config",
        "model",
        "text",
        "data",
        "engine",
        "envs",
        "tasks",
        "rollout",
        "verify",
        "report",
    },
    "agent": {"errors", "types", "common", "text", "sandbox", "engine", "envs", "rollout", "report"},
    "serve": {"errors", "types", "common", "text", "sandbox", "engine", "envs", "verify", "rollout", "agent"},
    "pipeline": {
        "errors",
        "types",
        "common",
        "config",
        "model",
        "cluster",
        "text",
        "data",
        "engine",
        "envs",
        "tasks",
        "rollout",
        "reward",
        "train",
        "eval",
        "report",
        "serve",
    },
    "api": {"errors", "types", "common", "config", "text", "engine", "tasks", "rollout", "eval", "report", "pipeline"},
    "chat": {"errors", "types", "common", "model", "text", "engine", "tasks", "envs", "rollout"},
    "release": {
        "errors",
        "types",
        "common",
        "config",
        "model",
        "text",
        "engine",
        "tasks",
        "rollout",
        "eval",
        "report",
        "pipeline",
    },
    "cli": {
        "errors",
        "types",
        "common",
        "config",
        "model",
        "cluster",
        "text",
        "sandbox",
        "engine",
        "verify",
        "data",
        "tasks",
        "rollout",
        "reward",
        "train",
        "distill",
        "report",
        "look",
        "eval",
        "pipeline",
        "api",
        "chat",
        "agent",
        "serve",
        "release",
    },
}

TEXT_MAY_READ = {"qwq.model.config", "qwq.model.model_folder"}
# Read before a command is known, inside the jail's side of things, or by tools without a model:
# they do without torch.
TORCH_FREE = (
    "errors", "types", "common", "config", "text", "endpoint", "data", "sandbox", "verify", "envs", "tasks", "report",
    "look", "cli", "api",
)  # fmt: skip


# These import torch inside a function, when somebody asks for what only torch knows.
ON_DEMAND = {"common/memory.py", "cli/env.py"}

# Modules that a string names, to be imported when it is used, and that lie above the file. Each has
# its reason.
BY_NAME = {
    ("config/above.py", "qwq.pipeline.stages"),  # a recipe is read by its stages' own keys, in any process
    ("config/above.py", "qwq.tasks.registry"),  # and the names of its tasks are checked
    ("train/__init__.py", "qwq.api:train"),  # `qwq.train(recipe)`: a call of the package (common/callables.py)
}


def package_of(file: Path, source: Path) -> str:
    return file.relative_to(source).parts[0].removesuffix(".py")


def imported(file: Path, source: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file; `from a import b` gives a.b."""
    here = ["qwq", *file.relative_to(source).with_suffix("").parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(here[: -node.level]) + "." if node.level else ""
            base = f"{start}{node.module or ''}".rstrip(".")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def upward(source: Path) -> list[str]:
    """Every import under `source` that the table does not allow, as `file:line: what`."""
    found = []
    for file in sorted(source.rglob("*.py")):
        package = package_of(file, source)
        if package == "__init__":
            continue
        for line, name in imported(file, source):
            parts = name.split(".")
            if parts[0] != "qwq":
                continue
            target = parts[1] if len(parts) > 1 else "the whole package"
            if target != package and target not in ALLOWED.get(package, set()):
                found.append(f"{file.relative_to(source)}:{line}: {package} may not import {target}")
            elif package == "text" and target == "model" and ".".join(parts[:3]) not in TEXT_MAY_READ:
                found.append(
                    f"{file.relative_to(source)}:{line}: text may read only {', '.join(sorted(TEXT_MAY_READ))}"
                )
    return found


def test_no_upward_import() -> None:
    assert upward(SOURCE) == []


def named_upward(source: Path) -> set[tuple[str, str]]:
    """(file, text) of every string that names a module which the table does not let the file
    import.
    """
    out = set()
    for file in source.rglob("*.py"):
        package = package_of(file, source)
        if package == "__init__":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            target = re.match(r"qwq\.([a-z]+)[a-z_.]*(:\w+)?$", text)
            if target and target[1] in ALLOWED and target[1] not in {package, *ALLOWED[package]}:
                out.add((str(file.relative_to(source)), text))
    return out


def test_modules_that_are_imported_by_name_are_named_here() -> None:
    assert named_upward(SOURCE) == BY_NAME


def test_an_upward_import_by_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x.py").write_text(
        'PLACE = "qwq.pipeline.stages"\nOWN = "qwq.common.files"\n', encoding="utf-8"
    )
    assert named_upward(tmp_path) == {("model/x.py", "qwq.pipeline.stages")}


def test_the_table_names_every_package_and_only_what_stands_above() -> None:
    packages = {package_of(f, SOURCE) for f in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert packages == set(ALLOWED)
    names = list(ALLOWED)
    for i, (name, allowed) in enumerate(ALLOWED.items()):
        assert allowed <= set(names[:i]), f"{name} names something below itself: {allowed - set(names[:i])}"


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a package's own file stands for the
    package.
    """
    names = {}
    for file in source.rglob("*.py"):
        parts = file.relative_to(source).with_suffix("").parts
        names[".".join(("qwq", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return names


def file_cycles(source: Path) -> list[list[str]]:
    """Groups of modules that import each other, directly or around; imports for annotations alone
    count too.
    """
    files = modules(source)
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        graph[name] = set()
        for _, target in imported(file, source):
            while target and target not in files:
                target = target.rpartition(".")[0]
            if target and target not in (name, "qwq"):
                graph[name].add(target)
    graph.pop("qwq", None)  # the public API, which imports on demand what asks for nothing of it
    return [cycle for cycle in components(graph) if len(cycle) > 1]


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components: two nodes share one when each reaches the other."""

    def reached(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            for node in graph.get(todo.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
        return seen

    reach = {node: reached(node) for node in graph}
    cyclic = {node for node in graph if node in reach[node]}
    groups = {frozenset(other for other in cyclic if other in reach[node] and node in reach[other]) for node in cyclic}
    return [sorted(group) for group in groups]


def missing_modules(folder: Path, files: dict[str, Path]) -> list[str]:
    """Imports of a module of the package that is not there, as `file:line: name`."""
    return [
        f"{file.relative_to(folder)}:{line}: {name}"
        for file in sorted(folder.rglob("*.py"))
        for line, name in imported(file, folder)
        if name.split(".")[0] == "qwq" and name not in files and name.rpartition(".")[0] not in files
    ]


@pytest.mark.parametrize("folder", ["src/qwq", "tests", "benchmarks", "tools"])
def test_every_module_that_is_imported_is_there(folder: str) -> None:
    assert missing_modules(ROOT / folder, modules(SOURCE)) == []


def test_no_file_imports_itself_around() -> None:
    assert file_cycles(SOURCE) == []


def test_a_cycle_of_files_is_found(tmp_path: Path) -> None:
    for name, text in {
        "a": "import qwq.b\n",
        "b": "from qwq import c\n",
        "c": "def f():\n    from qwq.a import x\n",
        "d": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    assert file_cycles(tmp_path) == [["qwq.a", "qwq.b", "qwq.c"]]


def test_neither_of_train_and_eval_imports_the_other() -> None:
    assert "eval" not in ALLOWED["train"]
    assert "train" not in ALLOWED["eval"]


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("train/rl.py", "from qwq.eval.run import evaluate\n", "train/rl.py:1: train may not import eval"),
        ("errors.py", "def f():\n    import qwq.config\n", "errors.py:2: errors may not import config"),
        ("model/weights.py", "from qwq import engine\n", "model/weights.py:1: model may not import engine"),
        ("agent/loop.py", "from ..pipeline import run\n", "agent/loop.py:1: agent may not import pipeline"),
        ("text/parse.py", "from qwq.model.weights import load_model\n", "text/parse.py:1: text may read only"),
        ("novel/part.py", "import qwq.types\n", "novel/part.py:1: novel may not import types"),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, path: str, text: str, fault: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    (found,) = upward(tmp_path)
    assert found.startswith(fault)


def test_relative_imports_inside_a_package_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "math.py").write_text("from . import worker\nfrom .worker import Pool\n", encoding="utf-8")
    assert upward(tmp_path) == []


@pytest.mark.parametrize("package", TORCH_FREE)
def test_what_does_without_torch_does_not_import_it(package: str) -> None:
    files = [
        f
        for f in SOURCE.rglob("*.py")
        if package_of(f, SOURCE) == package and str(f.relative_to(SOURCE)) not in ON_DEMAND
    ]
    assert files
    assert [str(f) for f in files if any(n.split(".")[0] == "torch" for _, n in imported(f, SOURCE))] == []


@pytest.mark.parametrize("path", sorted(ON_DEMAND))
def test_torch_on_demand_is_imported_in_functions_only(path: str) -> None:
    tree = ast.parse((SOURCE / path).read_text(encoding="utf-8"))
    assert not [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) and "torch" in ast.unparse(n)]


def test_every_dependency_has_its_line_in_contributing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", d).group() for group in groups for d in group}  # type: ignore[union-attr]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^- `([\w.-]+)`: \S", text, re.MULTILINE))


def test_unit_tests_lie_in_the_folder_of_what_they_test() -> None:
    """`tests/unit` mirrors the packages; what is no package's own lies beside them."""
    packages = {package_of(f, SOURCE) for f in SOURCE.rglob("*.py")}
    assert {p.name for p in (ROOT / "tests" / "unit").iterdir() if p.is_dir() and p.name != "__pycache__"} <= packages

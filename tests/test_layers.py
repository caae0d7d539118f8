"""Who may import whom. A package imports only what stands above it in the table, so an upward import fails here.

Imports are read from the source text, those inside functions too: nothing is imported, and nothing can hide.
`docs/architecture.md` says the same in words.
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
    "common": {"errors"},
    "types": set(),
    "stats": set(),
    "memory": {"errors"},
    "cpu": set(),
    "config": {"errors", "types", "cpu"},
    "model": {"errors", "common", "memory", "cpu"},
    "text": {"errors", "common", "types", "model"},  # of the model, config and folder only: TEXT_MAY_READ
    "endpoint": {"errors", "types", "text"},
    "engine": {"errors", "types", "memory", "model", "text"},
    "data": {"errors", "common", "types", "text"},
    "sandbox": {"errors"},
    "verify": {"errors", "common", "types", "text", "sandbox"},
    "envs": {"errors", "common", "types"},
    "tasks": {"errors", "common", "types", "text", "envs", "verify"},
    "problems": {"errors", "common", "types", "config", "text", "data", "verify", "tasks"},
    "rollout": {"types", "model", "text", "engine", "envs"},
    "reward": {"errors", "common", "types", "stats", "model", "text", "data", "problems", "verify"},
    "train": {
        "errors", "common", "types", "stats", "config", "model", "text", "data", "engine", "problems", "rollout", "reward",
    },
    "preview": {"errors", "types", "config", "model", "text", "data", "problems"},
    "run_folder": {"errors", "common", "config"},
    "preflight": {"errors", "config", "model", "text", "data", "problems", "preview"},
    "plan": {"errors", "memory", "stats", "config", "model", "data", "problems", "preflight"},
    "plan_cluster": {"config", "memory", "model", "plan"},
    "distill": {"errors", "common", "types", "config", "text", "endpoint", "data", "engine", "problems", "verify"},
    "report": {"errors", "common", "types", "stats", "config", "text"},
    "eval": {
        "errors", "common", "types", "stats", "config", "model", "text", "endpoint", "data", "engine", "problems", "envs", "tasks",
        "rollout", "verify", "plan", "memory", "report",
    },
    "env": {"sandbox"},
    "chat": {"errors", "common", "types", "model", "text", "engine", "problems", "envs", "rollout"},
    "serve": {"errors", "common", "types", "text", "engine"},
    "progress": {"train"},
    "run_inputs": {"errors", "types", "memory", "config", "model", "text", "data", "problems", "reward", "train", "preflight", "plan"},
    "runner": {
        "errors", "common", "types", "cpu", "stats", "config", "model", "text", "engine", "problems", "reward", "train", "run_folder",
        "preflight", "plan", "eval", "run_inputs",
    },
    "export": {"errors", "common", "model", "text"},
    "cli_models": {"errors", "common", "config"},
    "api": {"errors", "common", "types", "config", "text", "engine", "tasks", "cli_models", "eval", "report", "runner"},
    "cli_train": {"errors", "common", "config", "train", "report", "progress", "runner"},
    "bench": {"errors", "engine"},
    "cli_foreign": {"errors"},
    "cli_engine": {"errors", "cli_models", "engine", "serve", "chat", "bench"},
    "cli_sandbox": {"errors", "sandbox", "verify"},
    "cli_eval": {"errors", "types", "cli_models", "eval"},
    "cli_reward": {"errors", "common", "reward"},
    "cli_data": {"errors", "common", "types", "model", "text", "data", "engine", "problems", "distill", "cli_models", "preview"},
    "cli": {
        "errors", "config", "model", "verify", "plan_cluster", "report", "env", "export", "cli_models",
        "cli_train", "cli_sandbox", "cli_foreign", "cli_engine", "cli_data", "cli_reward", "cli_eval",
    },
}  # fmt: skip

TEXT_MAY_READ = {"qwq.model.config", "qwq.model.folder"}
# Read before a command is known, inside the jail's side of things, or by tools without a model: they do without torch.
TORCH_FREE = (
    "errors", "common", "types", "stats", "config", "text", "endpoint", "data", "problems", "sandbox", "verify", "envs",
    "report", "cli", "tasks", "api",
)  # fmt: skip


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


def test_the_table_names_every_package_and_only_what_stands_above() -> None:
    packages = {package_of(f, SOURCE) for f in SOURCE.rglob("*.py")} - {"__init__", "__main__"}
    assert packages == set(ALLOWED)
    names = list(ALLOWED)
    for i, (name, allowed) in enumerate(ALLOWED.items()):
        assert allowed <= set(names[:i]), f"{name} names something below itself: {allowed - set(names[:i])}"


def test_neither_of_train_and_eval_imports_the_other() -> None:
    assert "eval" not in ALLOWED["train"]
    assert "train" not in ALLOWED["eval"]


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("train/rl.py", "from qwq.eval.runner import evaluate\n", "train/rl.py:1: train may not import eval"),
        ("errors.py", "def f():\n    import qwq.config\n", "errors.py:2: errors may not import config"),
        ("model/weights.py", "from qwq import engine\n", "model/weights.py:1: model may not import engine"),
        ("agent/loop.py", "from ..rollout import collect\n", "agent/loop.py:1: agent may not import rollout"),
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
    files = [f for f in SOURCE.rglob("*.py") if package_of(f, SOURCE) == package]
    assert files
    assert [str(f) for f in files if any(n.split(".")[0] == "torch" for _, n in imported(f, SOURCE))] == []


def test_every_dependency_has_its_line_in_contributing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.match(r"[\w.-]+", d).group() for group in groups for d in group}  # type: ignore[union-attr]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert names <= set(re.findall(r"^- `([\w.-]+)`: \S", text, re.MULTILINE))

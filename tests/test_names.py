"""One name, one meaning: no two classes of one name, and no file name that means two things.

Names in `SAME` mean the same thing wherever they are.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "qwq"

# File names that say one thing in every package.
SAME_FILES = {
    "audit.py",  # what a set of problems makes of its verifier
    "base.py",  # what the others of the package build on
    "command.py",  # what a command does
    "constraints.py", "ifeval.py", "livecodebench.py",  # a task, and the verifier of that task
    "errors.py",  # the faults that the package tells of
    "folder.py",  # the paths of a folder on disk
    "grade.py",  # from a response to a verdict
    "load.py",  # reads what the package is about
    "options.py",  # the options of a command
    "page.py",  # a page's HTML
    "registry.py",
    "run.py",  # carries a run of the package out
    "server.py",  # an HTTP server
    "task.py",  # the task of a benchmark that has a folder of its own
}  # fmt: skip
SAME_CLASSES: set[str] = set()

# What has two meanings today. A line may only be taken out.
CLASSES: set[str] = set()
FILES: set[str] = set()


def repeated_classes(source: Path) -> dict[str, list[str]]:
    """Files by the name of a class that more than one of them defines."""
    files = defaultdict(list)
    for file in sorted(source.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                files[node.name].append(file.relative_to(source).as_posix())
    return {name: where for name, where in files.items() if len(where) > 1}


def repeated_files(source: Path) -> dict[str, list[str]]:
    folders = defaultdict(list)
    for file in sorted(source.rglob("*.py")):
        if file.name != "__init__.py":
            folders[file.name].append(file.parent.relative_to(source).as_posix())
    return {name: where for name, where in folders.items() if len(where) > 1}


def test_no_class_name_more_has_two_meanings() -> None:
    repeated = repeated_classes(SOURCE)
    assert {name: where for name, where in repeated.items() if name not in CLASSES | SAME_CLASSES} == {}


def test_no_file_name_more_has_two_meanings() -> None:
    repeated = repeated_files(SOURCE)
    assert {name: where for name, where in repeated.items() if name not in FILES | SAME_FILES} == {}


def test_the_lists_name_only_what_is_repeated() -> None:
    assert repeated_classes(SOURCE).keys() >= CLASSES
    assert repeated_files(SOURCE).keys() >= FILES


def test_no_two_test_files_share_a_name() -> None:
    """Outside packages pytest imports a test file by its basename: it cannot collect two of one
    name together.
    """
    folders = defaultdict(list)
    for file in sorted(Path(__file__).parent.rglob("test_*.py")):
        folders[file.name].append(file.parent.name)
    assert {name: where for name, where in folders.items() if len(where) > 1} == {}


def test_a_second_meaning_is_found(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text("class Thing:\n    pass\n", encoding="utf-8")
        (tmp_path / folder / "__init__.py").write_text("", encoding="utf-8")
    assert repeated_classes(tmp_path) == {"Thing": ["a/one.py", "b/one.py"]}
    assert repeated_files(tmp_path) == {"one.py": ["a", "b"]}

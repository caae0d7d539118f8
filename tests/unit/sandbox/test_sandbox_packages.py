"""Packages that programs may import: added from wheels, pinned, shown in the jail, and nothing
beside them.
"""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

import pytest

from qwq.errors import UsageError
from qwq.sandbox import Level, Sandbox, limits, packages
from qwq.sandbox.doctor import doctor

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed here")


def wheel(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> None:
    """A wheel of pure Python as pip reads it."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in place of the package index, and an empty folder for packages."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(
        wheels,
        "sorted-things",
        "1.0",
        {"sorted_things/__init__.py": "from helper_of_things import word\nloaded = True\n"},
        needs="helper-of-things",
    )
    wheel(
        wheels,
        "sorted-things",
        "2.0",
        {"sorted_things/__init__.py": "from helper_of_things import word\nloaded = 2\n"},
        needs="helper-of-things",
    )
    wheel(wheels, "helper-of-things", "0.5", {"helper_of_things.py": "word = 'well'\n"})
    wheel(
        wheels,
        "evil",
        "1",
        {"evil/__init__.py": f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).write_text('x')\n"},
    )
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        packages.FOLDER_VARIABLE: str(tmp_path / "kept"),
    }.items():
        monkeypatch.setenv(name, value)
    limits.interpreter_files.cache_clear()
    yield wheels
    limits.interpreter_files.cache_clear()


def run(program: str, level: Level | None = None):
    limits.interpreter_files.cache_clear()
    with Sandbox(slots=1, level=level) as box:
        return box.run(program)


def test_an_added_package_is_importable_in_the_jail_and_listed(index):
    assert packages.versions() == {} and run("import sorted_things").exit_code == 1
    added = packages.add(["sorted-things==1.0"])
    assert {p.name: p.version for p in added} == {"helper-of-things": "0.5", "sorted-things": "1.0"}
    assert {p.name: p.modules for p in added} == {
        "helper-of-things": ("helper_of_things",),
        "sorted-things": ("sorted_things",),
    }
    program = (
        "import sorted_things, numpy, sys\nprint(sorted_things.word, sorted_things.loaded, int(numpy.arange(4).sum()))"
    )
    assert run(program).stdout == b"well True 6\n"
    assert run(program, Level.LANDLOCK).stdout == b"well True 6\n"
    assert run("import pip").exit_code == 1
    assert doctor()["packages"] == {"helper-of-things": "0.5", "sorted-things": "1.0"}


def test_what_is_there_keeps_its_version_until_it_is_named(index):
    packages.add(["sorted-things==1.0"])
    packages.add(["evil"])
    assert packages.versions() == {"evil": "1", "helper-of-things": "0.5", "sorted-things": "1.0"}
    packages.add(["Sorted_Things"])
    assert packages.versions()["sorted-things"] == "2.0"
    packages.remove(["sorted_things"])
    assert packages.versions() == {"evil": "1", "helper-of-things": "0.5"}
    assert run("import helper_of_things\nprint(helper_of_things.word)").stdout == b"well\n"
    with pytest.raises(UsageError, match="did you mean 'helper-of-things'"):
        packages.remove(["helper-of-thing"])


def test_no_package_runs_while_it_is_added_and_none_is_imported_unasked(index, tmp_path):
    packages.add(["evil"])
    assert run("import sys\nprint('evil' in sys.modules)").stdout == b"False\n"
    assert not (tmp_path / "ran").exists()
    assert run("import evil").exit_code == 1  # in the jail there is nowhere to write to
    assert not (tmp_path / "ran").exists()


def test_preimport(index):
    packages.add(["sorted-things"], preimport=True)
    assert (
        run("import sys\nprint('sorted_things' in sys.modules, 'helper_of_things' in sys.modules)").stdout
        == b"True True\n"
    )


def test_a_program_cannot_change_a_package(index):
    packages.add(["helper-of-things"])
    write = "import helper_of_things as h\ntry: open(h.__file__, 'w')\nexcept OSError: print('no')"
    assert run(write).stdout == b"no\n" and run(write, Level.LANDLOCK).stdout == b"no\n"
    assert (packages.site() / "helper_of_things.py").read_text() == "word = 'well'\n"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["no-such-package"], "pip download failed: No matching distribution"),
        (["../x"], "is no package"),
        (["--index-url=x"], "is no package"),
        ([], "no package is named"),
        (["helper-of-things==9"], "No matching distribution"),
    ],
)
def test_what_cannot_be_added_says_why_and_changes_nothing(index, names, words):
    packages.add(["helper-of-things"])
    with pytest.raises(UsageError, match=words):
        packages.add(names)
    assert packages.versions() == {"helper-of-things": "0.5"}


def test_the_set_for_rl_is_what_it_says():
    assert set(packages.SETS["rl"]) == {
        "sortedcontainers",
        "numpy",
        "scipy",
        "pandas",
        "sympy",
        "networkx",
        "more-itertools",
        "pytest",
    }

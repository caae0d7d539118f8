"""What a user installs: recipes by name, hints that work without the project's name on an index, a
wheel that holds its data.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qwq import cli
from qwq.cli.recipes import first_sentence
from qwq.config import find_recipe, load_recipe, shipped_recipes
from qwq.errors import ConfigError, install_hint

ROOT = Path(__file__).resolve().parents[2]


def setuptools_version() -> int:
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def test_every_recipe_of_the_clone_ships_and_loads_by_name():
    assert set(shipped_recipes()) == {p.stem for p in (ROOT / "recipes").glob("*.toml")}
    assert load_recipe("tiny") == load_recipe(ROOT / "recipes" / "tiny.toml")


def test_a_file_is_taken_before_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").write_text("not TOML")
    assert find_recipe("tiny") == Path("tiny")


def test_an_unknown_recipe_lists_what_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no recipe at recipes/tiny\.toml: by name: .*\btiny\b.*`qwq recipes`"):
        find_recipe("recipes/tiny.toml")


def test_recipes_are_listed_with_a_sentence_each(capsys):
    assert cli.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped_recipes())
    assert all(len(line.split()) > 4 and line.endswith(".") for line in lines)


def test_a_recipe_s_sentence_goes_on_over_lines_to_its_end():
    recipe = "# A model of 0.5B: shown\n# `x.toml` first. Then RL.\n#\n# More.\nname = 1\n"
    assert first_sentence(recipe) == "A model of 0.5B: shown `x.toml` first."


@pytest.mark.parametrize(
    ("extra", "package"), [("serve", "fastapi"), ("eval", "langdetect"), ("gguf", "llama-cpp-python")]
)
def test_a_hint_names_packages_not_the_project(extra, package):
    hint = install_hint(extra)
    assert re.search(rf"pip install .*'{package}[><=]", hint)
    assert "qwq" not in hint


def test_no_advice_installs_the_project_from_an_index():
    texts = {
        p: p.read_text(encoding="utf-8")
        for p in [*(ROOT / "src").rglob("*.py"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    }
    assert not [str(p) for p, text in texts.items() if re.search(r"pip install '?qwq\[", text)]


def test_a_built_wheel_holds_recipes_and_trains_by_name(tmp_path):
    # Without isolation: the build needs no index, only the setuptools that is here.
    # Asked of its metadata: its import fails where the standard library's distutils is loaded.
    if setuptools_version() < 77:
        pytest.skip("the wheel is built by setuptools 77 or later")
    build = f"from setuptools import build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"
    clone = tmp_path / "clone"
    for name in ("src", "recipes"):
        shutil.copytree(
            ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone / name)
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=clone, check=True, capture_output=True)
    wheel = next(tmp_path.glob("qwq-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"qwq/recipes/{p.name}" for p in (ROOT / "recipes").glob("*.toml")} <= set(names)
    assert "qwq/recipes/examples/rewards.py" in names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-c", "from qwq.cli import main; raise SystemExit(main(['train', 'tiny', '--dry-run']))"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout

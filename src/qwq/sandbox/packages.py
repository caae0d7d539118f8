"""Python packages that programs may import beyond the standard library and numpy.

    qwq sandbox packages add sortedcontainers            # newest version that fits, pinned from then on
    qwq sandbox packages add rl --preimport              # the set that RL and contest programs expect

Wheels are downloaded by pip, kept, and unpacked into one folder per interpreter, which slots show
read-only; nothing of a package runs while it is added, and nothing else of the host's Python is
visible in a jail. Where numpy is among them it takes the place of the host's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from qwq.errors import UsageError, nearest

FOLDER_VARIABLE = "QWQ_SANDBOX_PACKAGES"
SETS = {
    "rl": ("sortedcontainers", "numpy", "scipy", "pandas", "sympy", "networkx", "more-itertools", "pytest"),
    "agent": ("numpy", "pandas", "matplotlib", "scipy", "openpyxl"),
}
IMPORTED_AS = {"matplotlib": "matplotlib.pyplot"}  # what to import beforehand where the package itself holds little
_NAME = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)((?:\[[\w,-]+\])?(?:[=<>!~]=?=?[\w.*+!,<>=~-]+)?)")
_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WHEEL = re.compile(r"([^-]+)-([^-]+)-.*\.whl")
PIP_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Package:
    """One that was added, or came along with one; `modules` are what it is imported as."""

    name: str
    version: str
    modules: tuple[str, ...]
    preimport: bool


def folder() -> Path:
    """Where packages for this interpreter are kept; it need not be there."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}"
    return (Path(chosen) if chosen else data / "qwq" / "packages") / tag


def site() -> Path:
    """The folder that slots show."""
    return folder() / "site"


def installed() -> list[Package]:
    """What was added, by name. Raises UsageError where the list of it cannot be read."""
    listed = folder() / "packages.json"
    if not listed.is_file():
        return []
    try:
        rows = json.loads(listed.read_text(encoding="utf-8"))
        return [Package(r["name"], r["version"], tuple(r["modules"]), r["preimport"]) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{listed} cannot be read ({error}): remove the folder and add the packages again") from None


def versions() -> dict[str, str]:
    return {package.name: package.version for package in installed()}


@dataclass(frozen=True, slots=True)
class HostPackage:
    """A package of the interpreter that runs us: the files and folders to show, and what it is
    imported as.
    """

    name: str
    paths: tuple[str, ...]
    modules: tuple[str, ...]


def of_host(names: Sequence[str], without: Collection[str] = ()) -> list[HostPackage]:
    """Those of `names` that are installed beside us, with what they need; the rest is left out, as
    are `without`.
    """
    found: dict[str, HostPackage] = {}
    waiting = [_canonical(name) for name in names]
    while waiting:
        name = waiting.pop(0)
        if name in found or name in without:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):
            distribution = metadata.distribution(name)
            found[name] = _host_package(name, distribution)
            waiting += _required(distribution)
    return list(found.values())


def _host_package(name: str, distribution: metadata.Distribution) -> HostPackage:
    tops = sorted({file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"})
    paths = {top: os.path.realpath(str(distribution.locate_file(top))) for top in tops}
    modules = [top.removesuffix(".py") for top, path in paths.items() if _is_module(path)]
    modules = [module for module in modules if _canonical(module) == name] or modules
    return HostPackage(name, tuple(path for path in paths.values() if os.path.exists(path)), tuple(modules))


def _required(distribution: metadata.Distribution) -> list[str]:
    """Names of what a distribution needs without any extra; what its markers exclude here is not
    installed.
    """
    lines = (line for line in distribution.requires or () if "extra ==" not in line)
    return [_canonical(match[0]) for match in map(_REQUIRED.match, lines) if match]


def _is_module(path: str) -> bool:
    return path.endswith(".py") or os.path.isfile(os.path.join(path, "__init__.py"))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(names: Sequence[str]) -> list[str]:
    """Names of sets taken apart, each checked. Raises UsageError for what is no package name."""
    wanted = [member for name in names for member in SETS.get(name, (name,))]
    for name in wanted:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no package: give a name, name==version, or one of the sets {', '.join(SETS)}"
            )
    return wanted


def add(names: Sequence[str], *, preimport: bool = False) -> list[Package]:
    """Download and unpack packages with what they need; those that are there keep their version
    unless they are named.

    Raises UsageError where pip finds no wheel for this interpreter, or is not there.
    """
    wanted = _requirements(names)
    if not wanted:
        raise UsageError(f"no package is named: give names, or one of the sets {', '.join(SETS)}")
    bare = {_canonical(_NAME.fullmatch(name)[1]) for name in wanted}  # type: ignore[index]
    before = {p.name: p for p in installed()}
    kept = [f"{p.name}=={p.version}" for p in before.values() if p.name not in bare]
    with _workspace() as work:
        wheels = work / "wheels"
        old = folder() / "wheels"
        links = ["--find-links", str(old)] if old.is_dir() else []
        _pip("download", "--only-binary", ":all:", "--dest", str(wheels), *links, *kept, *wanted)
        eager = bare if preimport else set()
        _unpack(work, {name for name, p in before.items() if p.preimport} | eager)
    return installed()


def remove(names: Sequence[str]) -> list[Package]:
    """Take packages away; what they needed stays. Raises UsageError for one that is not there."""
    left = {p.name: p for p in installed()}
    for name in (_canonical(n) for n in _requirements(names)):
        if name not in left:
            raise UsageError(f"{name} is not among the packages: {nearest(name, left) if left else 'there are none'}")
        del left[name]
    with _workspace() as work:
        (work / "wheels").mkdir()
        for wheel in (folder() / "wheels").glob("*.whl"):
            if _canonical(_WHEEL.fullmatch(wheel.name)[1]) in left:  # type: ignore[index]
                shutil.copy2(wheel, work / "wheels")
        _unpack(work, {p.name for p in left.values() if p.preimport})
    return installed()


@contextlib.contextmanager
def _workspace() -> Any:
    """A folder beside the real one, which is put in its place at the end."""
    parent = folder().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


def _unpack(work: Path, preimported: set[str]) -> None:
    """Install the wheels of a workspace and put it in place of what was there."""
    made = work / "made"
    made.mkdir()
    shutil.move(work / "wheels", made / "wheels")
    wheels = sorted((made / "wheels").glob("*.whl"))
    (made / "site").mkdir()
    if wheels:
        target = str(made / "site")
        _pip("install", "--no-index", "--no-deps", "--no-compile", "--target", target, *map(str, wheels))
    rows = []
    for wheel in wheels:
        match = _WHEEL.fullmatch(wheel.name)
        assert match is not None
        name = _canonical(match[1])
        rows.append(
            {
                "name": name,
                "version": match[2],
                "modules": _modules(made / "site", match[1], match[2]),
                "preimport": name in preimported,
            }
        )
    (made / "packages.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for path in (made, *made.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    target_folder = folder()
    if target_folder.exists():
        target_folder.rename(work / "old")
    made.rename(target_folder)


def _modules(site: Path, name: str, version: str) -> list[str]:
    """What a package is imported as, by the list of its files."""
    record = site / f"{name}-{version}.dist-info" / "RECORD"
    if not record.is_file():
        return []
    tops = {line.split(",")[0].split("/")[0] for line in record.read_text(encoding="utf-8").splitlines()}
    found = {top.removesuffix(".py") for top in tops if top.endswith(".py") or (site / top / "__init__.py").is_file()}
    return sorted(module for module in found if module.isidentifier())


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UsageError(f"pip did not end within {PIP_TIMEOUT_S} s: try again, or fewer packages at a time") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UsageError(f"pip {arguments[0]} failed: {lines[-1].removeprefix('ERROR: ') if lines else 'no message'}")

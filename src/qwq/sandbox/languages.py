"""Languages other than Python: which tools they need, how a program is compiled and started.

Compilers and programs run in a slot of their own kind (`JailSlot(tools=True)`), which shows
/usr/bin and /usr/include read-only beside what a Python slot shows. The compiler is as hostile as
its input: it runs under the same limits as the program, and what it built is only ever run in the
jail again. SQL is Python's own SQLite and runs in Python's slots.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwq.errors import UsageError
from qwq.sandbox.limits import cache_folder

PROGRAM = "program"  # the name of what a compiler builds
CACHE_BYTES = 256 << 20
_DEFINES = "-DONLINE_JUDGE"  # contest programs leave their `freopen("input.txt")` out where it is defined


@dataclass(frozen=True, slots=True)
class Language:
    """`builds` and `start` are argument lists; {tool}, {folder} (the tool's), {memory_mb} and
    {main} are filled in. The first of `builds` that compiles the program is taken; there is none
    for scripts.

    `reserves_mb`: the runtime reserves far more address space than it uses, so its data is limited
    instead, with so much more for its own threads and heaps before a program has done anything.
    `shown` are host paths that its tools read, `main` finds the class to start.
    """

    name: str
    tool: str
    source_name: str
    start: tuple[str, ...]
    builds: tuple[tuple[str, ...], ...] = ()
    reserves_mb: int = 0
    shown: tuple[str, ...] = ()
    main: Callable[[str], str] | None = None


def _cpp(name: str, *standards: str) -> Language:
    builds = tuple(("{tool}", "-O2", f"-std={s}", _DEFINES, "main.cpp", "-o", PROGRAM) for s in standards)
    return Language(name, "g++", "main.cpp", (f"./{PROGRAM}",), builds)


def _main_class(source: str) -> str:
    """The class of a Java program that has `main`: the public one, else the one that the method
    stands in.
    """
    public = re.search(r"\bpublic\s+(?:final\s+|abstract\s+)*class\s+(\w+)", source)
    if public:
        return public[1]
    before, _, _ = source.partition("void main")
    classes = re.findall(r"\bclass\s+(\w+)", before)
    return classes[-1] if classes else "Main"


_LIBRARIES = "LD_LIBRARY_PATH={folder}/../lib"  # which the loader would find itself, were there a /proc
_JAVA_BUILD = (
    "{folder}/javac -encoding UTF-8 -nowarn -d classes {main}.java && {folder}/jar cfe program {main} -C classes ."
)
_JAVA_START = (
    "env",
    _LIBRARIES,
    "{tool}",
    "-Xss64m",
    "-Xms16m",
    "-Xmx{memory_mb}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=4",
    "-jar",
    PROGRAM,
)

_LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "c",
            "gcc",
            "main.c",
            (f"./{PROGRAM}",),
            (("{tool}", "-O2", "-std=gnu17", _DEFINES, "main.c", "-o", PROGRAM, "-lm"),),
        ),
        _cpp("cpp", "gnu++17", "gnu++20"),  # a program that one of the two takes is a right program
        _cpp("cpp17", "gnu++17"),
        _cpp("cpp20", "gnu++20"),
        _cpp("cpp23", "gnu++23"),
        Language(
            "javascript", "node", "main.js", ("{tool}", "--max-old-space-size={memory_mb}", "main.js"), reserves_mb=256
        ),
        Language(
            "typescript",
            "tsc",
            "main.ts",
            ("node", "--max-old-space-size={memory_mb}", "main.js"),
            (("sh", "-c", "{tool} --target es2020 --module commonjs --outFile main.js main.ts; cp main.js program"),),
            reserves_mb=256,
        ),
        Language(
            "java",
            "java",
            "{main}.java",
            _JAVA_START,
            (("env", _LIBRARIES, "sh", "-c", _JAVA_BUILD),),
            reserves_mb=2048,
            shown=("/etc/java*",),
            main=_main_class,
        ),
        Language(
            "rust",
            "rustc",
            "main.rs",
            (f"./{PROGRAM}",),
            (
                (
                    "env",
                    _LIBRARIES,
                    "{tool}",
                    "-O",
                    "--edition=2021",
                    "-Clink-arg=-fuse-ld=bfd",
                    "main.rs",
                    "-o",
                    PROGRAM,
                ),
            ),
        ),
        Language(
            "go",
            "go",
            "main.go",
            (f"./{PROGRAM}",),
            (
                (
                    "sh",
                    "-c",
                    "HOME=/box GOCACHE=/box/.cache GOTMPDIR=/box GOFLAGS=-mod=mod {tool} build -o program main.go",
                ),
            ),
            reserves_mb=1024,
            shown=("/usr/share/go-*",),  # where Debian keeps the standard library
        ),
        Language("bash", "bash", "main.sh", ("{tool}", "main.sh")),
        Language("perl", "perl", "main.pl", ("{tool}", "main.pl")),
        Language("ruby", "ruby", "main.rb", ("{tool}", "main.rb"), reserves_mb=256),
        Language("php", "php", "main.php", ("{tool}", "main.php")),
        Language("lua", "lua", "main.lua", ("{tool}", "main.lua")),
    )
}
SQL = "sql"
_ALIASES = {
    "python3": "python", "py": "python", "c++": "cpp", "cxx": "cpp", "g++": "cpp", "c++17": "cpp17", "c++20": "cpp20",
    "c++23": "cpp23", "nodejs": "javascript", "node": "javascript", "js": "javascript", "ts": "typescript",
    "sh": "bash", "shell": "bash", "golang": "go", "rs": "rust", "rb": "ruby", "pl": "perl", "sqlite": "sql",
    "sqlite3": "sql",
}  # fmt: skip
LANGUAGES = ("python", SQL, *_LANGUAGES)
SUFFIXES = {
    ".c": "c", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".js": "javascript", ".mjs": "javascript",
    ".ts": "typescript", ".java": "java", ".rs": "rust", ".go": "go", ".sh": "bash", ".pl": "perl", ".rb": "ruby",
    ".php": "php", ".lua": "lua", ".sql": "sql",
}  # fmt: skip

# A script of SQL, over what standard input has made before it; rows as the command-line tool of
# SQLite prints them.
SQL_RUNNER = r"""
import sqlite3, sys
database = sqlite3.connect(":memory:")
database.executescript(sys.stdin.read())
def shown(value):
    if value is None: return ""
    if isinstance(value, bytes): return value.decode("utf-8", "replace")
    return format(value, ".15g") if isinstance(value, float) and value != int(value) else str(value)
statement = ""
with open("main.sql", encoding="utf-8") as script:
    parts = script.read().split(";")
for part in parts:
    statement += part + ";"
    if sqlite3.complete_statement(statement):
        for row in database.execute(statement):
            print("|".join(map(shown, row)))
        statement = ""
if statement.strip(" \n\t;"):
    database.execute(statement)
"""


def canonical(name: str) -> str:
    """The project's name of a language. Raises UsageError for one that is not known."""
    known = _ALIASES.get(name.lower(), name.lower())
    if known not in LANGUAGES:
        raise UsageError(f"language {name!r} is not supported: supported are {', '.join(LANGUAGES)}")
    return known


def installed(name: str) -> tuple[Language, str]:
    """A language of other slots than Python's and the path of its tool.

    Raises UsageError where the tool is missing.
    """
    language = _LANGUAGES[canonical(name)]
    path = shutil.which(language.tool, path="/usr/local/bin:/usr/bin:/bin:" + os.environ.get("PATH", ""))
    if path is None:
        raise UsageError(f"language {language.name} needs {language.tool}, which is not installed here: install it")
    return language, _rustc() if language.tool == "rustc" else os.path.realpath(path)


@functools.cache
def _rustc() -> str:
    """The compiler behind rustup's stand-in, which picks one by files in the home folder."""
    path = shutil.which("rustc") or "/usr/bin/rustc"
    try:
        asked = subprocess.run([path, "--print", "sysroot"], capture_output=True, text=True, timeout=60, check=True)
        own = os.path.join(asked.stdout.strip(), "bin/rustc")
    except (OSError, subprocess.SubprocessError):
        own = path
    return os.path.realpath(own if os.path.exists(own) else path)


def available() -> dict[str, str]:
    """Each language with the path of its tool, or what is missing."""
    found = {}
    for name in _LANGUAGES:
        try:
            found[name] = installed(name)[1]
        except UsageError as error:
            found[name] = str(error)
    return found


@functools.cache
def precompiled_headers(standard: str) -> str | None:
    """A folder with bits/stdc++.h precompiled for a standard, made once a machine; None where that
    is not possible.

    The compiler's input here is its own header, so this runs outside the jail. It turns a second of
    compiling into a quarter (about 100 MB on disk); the folder is shown read-only in the jail and
    searched first.
    """
    try:
        language, tool = installed("cpp")
        build = next(b for b in language.builds if f"-std={standard}" in b)
        options = [part for part in build if part.startswith(("-O", "-std", "-D"))]
        stat = os.stat(tool)
        key = hashlib.sha256(repr((tool, stat.st_size, stat.st_mtime_ns, options)).encode()).hexdigest()[:16]
        folder = cache_folder() / f"cpp-{key}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                made = Path(work) / "made"
                (made / "bits").mkdir(parents=True)
                (made / "bits/stdc++.h").write_text("#include_next <bits/stdc++.h>\n")
                command = [tool, *options, "-x", "c++-header", "bits/stdc++.h", "-o", "bits/stdc++.h.gch"]
                subprocess.run(command, cwd=made, check=True, capture_output=True, timeout=120)
                for path in (made, made / "bits"):
                    path.chmod(0o755)
                with contextlib.suppress(OSError):  # another process was first
                    made.rename(folder)
        return str(folder) if folder.is_dir() else None
    except (UsageError, OSError, RuntimeError, StopIteration, subprocess.SubprocessError):
        return None  # slower, and nothing else


@functools.cache
def tool_files() -> tuple[list[str], dict[str, str]]:
    """What a tools slot sees beyond a Python slot: paths to show read-only, and links to remake."""
    read_only = [
        p
        for p in (
            "/usr/bin",
            "/usr/include",
            "/usr/libexec",
            "/usr/share/nodejs",
            "/usr/share/perl",
            "/etc/alternatives",
        )
        if os.path.isdir(p)
    ]
    links = {}
    if os.path.islink("/bin"):
        links["/bin"] = os.readlink("/bin")
    elif os.path.isdir("/bin"):
        read_only.append("/bin")
    read_only += [
        folder for standard in ("gnu++17", "gnu++20") if (folder := precompiled_headers(standard)) is not None
    ]
    for name, path in available().items():
        if not os.path.isabs(path):
            continue
        language = _LANGUAGES[name]
        paths = [str(found) for pattern in language.shown for found in sorted(Path("/").glob(pattern.lstrip("/")))]
        paths.append(
            str(Path(path).parents[1]) if name in ("rust", "go") and not path.startswith("/usr/bin/") else path
        )
        read_only += [p for p in paths if not any(p == f or p.startswith(f"{f}/") for f in (*read_only, "/usr/lib"))]
    return read_only, links


def source_name(language: Language, source: str) -> str:
    return language.source_name.format(main=language.main(source) if language.main else "")


def build_commands(language: Language, tool: str, source: str) -> list[list[str]]:
    """Commands to try in this order until one builds the program."""
    return [_filled(build, language, tool, source, 0) for build in language.builds]


def start_command(language: Language, tool: str, source: str, memory_mb: int) -> list[str]:
    return _filled(language.start, language, tool, source, memory_mb)


def _filled(parts: tuple[str, ...], language: Language, tool: str, source: str, memory_mb: int) -> list[str]:
    main = language.main(source) if language.main else ""
    command = [p.format(tool=tool, folder=os.path.dirname(tool), memory_mb=memory_mb, main=main) for p in parts]
    if command[0] in ("sh", "node", "env"):
        command[0] = os.path.realpath(shutil.which(command[0]) or f"/usr/bin/{command[0]}")
    standard = next((p.removeprefix("-std=") for p in parts if p.startswith("-std=gnu++")), None)
    headers = precompiled_headers(standard) if standard else None
    return command if headers is None else [command[0], f"-I{headers}", *command[1:]]


def cache_key(language: Language, tool: str, source: str, files: dict[str, str]) -> bytes:
    """Stands for everything that decides what a compiler builds: its file, its options, all that it
    can read.
    """
    stat = os.stat(tool)
    parts = [
        language.name,
        tool,
        stat.st_size,
        stat.st_mtime_ns,
        build_commands(language, tool, source),
        source,
        sorted(files.items()),
    ]
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).digest()


class ArtefactCache:
    """What was compiled, by hash, up to a number of bytes; the longest unused goes first.

    Threads may share one.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES):
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, str] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> str | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: bytes, artefact: str) -> None:
        with self._lock:
            if key not in self._entries and len(artefact) <= self.limit_bytes:
                self._entries[key] = artefact
                self._bytes += len(artefact)
            while self._bytes > self.limit_bytes:
                self._bytes -= len(self._entries.popitem(last=False)[1])

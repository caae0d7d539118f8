"""Languages other than Python: which tools they need, how a program is compiled and started.

Compilers and programs run in a slot of their own kind (`Slot(tools=True)`), which shows /usr/bin and /usr/include
read-only beside what a Python slot shows. The compiler is as hostile as its input: it runs under the same limits as the
program, and what it built is only ever run in the jail again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass

from qwq.errors import UsageError, nearest

PROGRAM = "program"  # the name of what a compiler builds
CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Language:
    """`build` and `start` are argument lists; {tool} and {memory_mb} are filled in. `build` is empty for scripts.

    `reserves_memory`: the runtime reserves far more address space than it uses, so its data is limited instead.
    """

    name: str
    tool: str
    source_name: str
    start: tuple[str, ...]
    build: tuple[str, ...] = ()
    reserves_memory: bool = False


_LANGUAGES = {
    language.name: language
    for language in (
        Language("c", "gcc", "main.c", (f"./{PROGRAM}",), ("{tool}", "-O2", "-std=gnu17", "main.c", "-o", PROGRAM, "-lm")),
        Language("cpp", "g++", "main.cpp", (f"./{PROGRAM}",), ("{tool}", "-O2", "-std=gnu++17", "main.cpp", "-o", PROGRAM)),
        Language(
            "javascript", "node", "main.js", ("{tool}", "--max-old-space-size={memory_mb}", "main.js"), reserves_memory=True
        ),
        Language("bash", "bash", "main.sh", ("{tool}", "main.sh")),
    )
}  # fmt: skip
_ALIASES = {
    "python3": "python", "py": "python", "c++": "cpp", "cxx": "cpp", "cpp17": "cpp", "nodejs": "javascript",
    "node": "javascript", "js": "javascript", "sh": "bash",
}  # fmt: skip
LANGUAGES = ("python", *_LANGUAGES)


def canonical(name: str) -> str:
    """The project's name of a language. Raises UsageError for one that is not known."""
    known = _ALIASES.get(name, name)
    if known not in LANGUAGES:
        raise UsageError(f"language {name!r} is not supported: {nearest(name, [*LANGUAGES, *_ALIASES])}")
    return known


def installed(name: str) -> tuple[Language, str]:
    """A language other than Python and the path of its tool. Raises UsageError where the tool is missing."""
    language = _LANGUAGES[canonical(name)]
    path = shutil.which(language.tool, path="/usr/local/bin:/usr/bin:/bin:" + os.environ.get("PATH", ""))
    if path is None:
        raise UsageError(f"language {language.name} needs {language.tool}, which is not installed here: install it")
    return language, os.path.realpath(path)


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
def tool_files() -> tuple[list[str], dict[str, str]]:
    """What a tools slot sees beyond a Python slot: paths to show read-only, and links to remake."""
    read_only = [
        p
        for p in ("/usr/bin", "/usr/include", "/usr/libexec", "/usr/share/nodejs", "/etc/alternatives")
        if os.path.isdir(p)
    ]
    links = {}
    if os.path.islink("/bin"):
        links["/bin"] = os.readlink("/bin")
    elif os.path.isdir("/bin"):
        read_only.append("/bin")
    for path in available().values():
        if os.path.isabs(path) and not any(path.startswith(folder + "/") for folder in read_only):
            read_only.append(path)
    return read_only, links


def build_command(language: Language, tool: str) -> list[str]:
    return [part.format(tool=tool) for part in language.build]


def start_command(language: Language, tool: str, memory_mb: int) -> list[str]:
    return [part.format(tool=tool, memory_mb=memory_mb) for part in language.start]


def cache_key(language: Language, tool: str, source: str, files: dict[str, str]) -> bytes:
    """Stands for everything that decides what a compiler builds: its file, its options, all that it can read."""
    stat = os.stat(tool)
    parts = [
        language.name,
        tool,
        stat.st_size,
        stat.st_mtime_ns,
        build_command(language, tool),
        source,
        sorted(files.items()),
    ]
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).digest()


class ArtefactCache:
    """What was compiled, by hash, up to a number of bytes; the longest unused goes first. Threads may share one."""

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

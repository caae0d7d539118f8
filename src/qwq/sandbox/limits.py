"""What a run may use, how it can end, and how strong the jail around it is."""

from __future__ import annotations

import functools
import glob
import os
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from qwq.errors import UsageError
from qwq.sandbox import packages

# What every slot has imported. Slots that are not bare (see `SlotPool`) have MORE_PREIMPORT and the
# packages too: the more is imported, the longer a fork and its exit take.
PREIMPORT = (
    "math cmath re json collections itertools functools heapq bisect string random datetime typing fractions decimal "
    "statistics operator copy io array queue enum abc contextlib numbers time types warnings struct threading ctypes"
).split()
MORE_PREIMPORT = (
    "asyncio textwrap dataclasses calendar hashlib timeit unicodedata zlib base64 binascii secrets uuid pprint inspect "
    "subprocess tempfile pathlib zoneinfo"
).split()
MIN_MEMORY_MB = 32
ZYGOTE_MB = 96  # what the slot's own processes may take of its memory group
RESULT_LIMIT_BYTES = 32 << 20
STACK_MB = 256  # how far the main thread's stack may grow
RESERVED_MB = 576  # address space beyond the memory limit: stacks of threads are reserved in full and used in part
RECORDS_FACTOR = 10  # all cases of a run together may take this many times what each may


class Level(StrEnum):
    """How strong the jail is, strongest first. docs/sandbox.md lists what each covers."""

    NAMESPACES = "namespaces"  # own user, mount, PID, network, IPC, UTS namespaces; seccomp; rlimits
    LANDLOCK = "landlock"  # Landlock for files, TCP and signals; seccomp; rlimits
    RLIMITS = "rlimits"  # seccomp where known, and rlimits; host files are readable: only with unsafe=True


class RunStatus(StrEnum):
    """Every way a run can end."""

    OK = "ok"  # exit status 0
    ERROR = "error"  # another exit status, an uncaught exception, or a signal
    TIMEOUT = "timeout"  # the wall (or CPU) limit
    MEMORY = "memory"  # MemoryError, or killed for memory
    OUTPUT_LIMIT = "output_limit"  # more output, or more files, than allowed
    COMPILE_ERROR = "compile_error"  # the compiler refused the program


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one run. `timeout_s` is time of the run's own: see `clock.py`. `each_record` makes
    it hold for each case of a run, and RECORDS_FACTOR times it for all of them.
    """

    timeout_s: float = 5.0
    memory_mb: int = 512
    output_limit_bytes: int = 1 << 20
    processes: int = 32
    files: int = 64
    box_mb: int = 64
    box_files: int = 1024
    reserves_mb: int = 0  # a runtime that reserves address space it does not use: its data is limited, with this beside
    supervises: bool = False  # the request starts a program beside itself and holds the result channel
    each_record: bool = False
    total_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 3600:
            raise UsageError(f"timeout_s is {self.timeout_s}: give seconds above 0 and up to 3600")
        if self.memory_mb < MIN_MEMORY_MB:
            raise UsageError(f"memory_mb is {self.memory_mb}: the least that a program can start in is {MIN_MEMORY_MB}")
        if self.output_limit_bytes < 1:
            raise UsageError(f"output_limit_bytes is {self.output_limit_bytes}: give at least 1")

    @property
    def total_s(self) -> float:
        """What the whole run may take."""
        return self.total_timeout_s or self.timeout_s * (RECORDS_FACTOR if self.each_record else 1)

    @property
    def cpu_limit_s(self) -> int:
        """RLIMIT_CPU of each process, a last resort beyond what the clock allows."""
        return int(self.total_s) + 2

    def packet(self) -> dict[str, int]:
        """The numbers that the slot's process needs."""
        return {
            "memory_bytes": self.memory_mb << 20,
            "runtime_bytes": self.reserves_mb << 20,
            "supervises": int(self.supervises),
            "file_bytes": self.box_mb << 20,
            "box_bytes": self.box_mb << 20,
            "box_files": self.box_files,
            "files": self.files,
            "processes": self.processes
            + 3,  # the zygote, its parent and the run's first process belong to the same user
            "stack_bytes": STACK_MB << 20,
            "reserved_bytes": RESERVED_MB << 20,
            "cpu_s": self.cpu_limit_s,
        }


@dataclass(frozen=True, slots=True)
class InterpreterFiles:
    """What the interpreter needs to see inside the jail. `hidden` folders lie below `read_only`
    ones and are covered: the host's installed packages; what of `read_only` lies below a hidden
    folder is shown again.
    """

    executable: str
    read_only: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    search_path: list[str] = field(default_factory=list)  # beyond the standard library
    preimport: tuple[str, ...] = ()  # numpy, and packages that ask for it

    def are_named_in(self, request: bytes) -> bool:
        """Whether a request names a module that slots have imported unless they are bare."""
        modules = (*MORE_PREIMPORT, *self.preimport)
        return b"async" in request or any(module.partition(".")[0].encode() in request for module in modules)


def readable_by_all(paths: list[str]) -> bool:
    """Whether any user may pass through the folders above all `paths`."""
    parents = {str(parent) for path in paths for parent in Path(path).parents}
    return all(os.stat(parent).st_mode & 0o001 for parent in parents)


def _package_folders(libraries: list[str]) -> list[str]:
    """Where installed packages lie below folders of libraries: of this interpreter and of any
    other.
    """
    names = ("site-packages", "dist-packages")
    return sorted(
        path for folder in libraries for name in names for path in glob.glob(f"{glob.escape(folder)}/python*/{name}")
    )


@functools.cache
def interpreter_files(host_packages: tuple[str, ...] = ()) -> InterpreterFiles:
    """The real interpreter (not a version manager's shim or a venv link), its library, the system's
    libraries, numpy, the packages that were added, and those of the host's own that are named.
    """
    executable = os.path.realpath(sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    read_only = [executable, *dict.fromkeys([f"{prefix}/lib", f"{prefix}/{sys.platlibdir}"])]
    links = {}
    for path in ("/usr/lib", "/lib", "/usr/lib64", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"):
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.exists(path) and path not in read_only:
            read_only.append(path)
    hidden = _package_folders([path for path in read_only if os.path.isdir(path)])
    shown, search_path, preimport = _shown_packages(host_packages)
    for folder in shown:
        above = [path for path in (*read_only, *hidden) if folder.startswith(path + "/")]
        if not above or max(above, key=len) in hidden:
            read_only.append(folder)
    return InterpreterFiles(executable, read_only, hidden, links, search_path, preimport)


def _shown_packages(host_packages: tuple[str, ...]) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Paths of packages to show, the folders to find them in, and the modules to import
    beforehand.
    """
    added = packages.installed()
    host = packages.of_host(("numpy", *host_packages), without={p.name for p in added})
    shown = sorted({path for package in host for path in package.paths})
    search_path = sorted({os.path.dirname(path) for path in shown})
    if added:
        shown.append(os.path.realpath(packages.site()))
        search_path.insert(0, shown[-1])
    eager = [p.modules for p in added if p.preimport or p.name in host_packages]
    eager += [p.modules for p in host if p.name in host_packages]
    modules = [module for group in eager for module in group if module[:1] != "_"]
    preimport = dict.fromkeys(["numpy", *(packages.IMPORTED_AS.get(module, module) for module in modules)])
    return shown, search_path, tuple(preimport)


def cache_folder() -> Path:
    """Where this user's caches are kept; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwq"


def environment() -> dict[str, str]:
    """All that a program sees of the environment; hashes are fixed, so that verdicts repeat."""
    return {
        "HOME": "/box",
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
    }

"""How much memory there is, and what a plan that does not fit says. Imports without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qwq.errors import CapacityError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak, by part, and which option shrinks which part."""

    parts: dict[str, int]
    repairs: dict[str, str]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def describe(self) -> str:
        """Parts in GiB, largest first; those under a twentieth of the whole are left out."""
        shown = sorted(self.parts.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in shown if size > self.total / 20)

    def repair(self, free: int) -> str:
        """What to change so that it fits: the options behind the largest parts, else the
        machine.
        """
        order = sorted(self.repairs, key=lambda name: -self.parts.get(name, 0))
        fixed = self.total - sum(self.parts.get(name, 0) for name in order)
        helpful = list(dict.fromkeys(self.repairs[n] for n in order if self.parts.get(n, 0) > self.total / 20))
        if fixed > free or not helpful:
            return "use a smaller model or a machine with more memory"
        return f"lower {' or '.join(helpful[:2])}"


def on_cuda(device: str) -> bool:
    return device.split(":")[0] == "cuda"


def _read_int(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None  # another cgroup version, or none
    return int(text) if text.isdigit() else None


def _cgroup_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left under every memory limit this process is under (cgroup v2 and v1); file cache
    counts as free.
    """
    pairs = [(root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")]
    lines = own.read_text().splitlines() if own.exists() else []
    inside = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    pairs += [
        (folder, "memory.max", "memory.current")
        for folder in (root / inside, *(root / inside).parents)
        if folder.is_relative_to(root)
    ]
    free = []
    for folder, limit_name, used_name in pairs:
        limit, used = _read_int(folder / limit_name), _read_int(folder / used_name)
        if limit is None or used is None:
            continue
        stat = folder / "memory.stat"
        fields = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
        free.append(limit - used + int(fields.get("inactive_file", 0)))
    return free


def _proc_kib(path: str, key: str) -> int | None:
    """A field of a /proc file of the form `Key:  123 kB`, in bytes; None where there is no such
    file or field.
    """
    if not Path(path).exists():
        return None
    line = next((line for line in Path(path).read_text().splitlines() if line.startswith(f"{key}:")), None)
    return None if line is None else int(line.split()[1]) * 1024


def check_device(device: str) -> None:
    """CapacityError where torch has no such device here."""
    if device == "cpu":
        return
    import torch

    free_memory(device)
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CapacityError(f"device {device!r} cannot be used here ({reason}): use cpu or another machine") from None


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process may have in all: what is free, and on a CPU what it holds already."""
    if on_cuda(device):
        import torch

        if not torch.cuda.is_available():
            raise CapacityError(
                f"device {device!r} is asked for, and there is no CUDA device here: use cpu or another machine"
            )
        number, count = torch.device(device).index or 0, torch.cuda.device_count()
        if number >= count:
            raise CapacityError(
                f"device {device!r} is asked for, and there are {count} CUDA devices here, cuda:0 to "
                f"cuda:{count - 1}: use one of these"
            )
        return int(torch.cuda.mem_get_info(number)[0])
    available = _proc_kib("/proc/meminfo", "MemAvailable")
    if available is None:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    held = _proc_kib("/proc/self/status", "VmRSS") or 0
    return min([available, *_cgroup_free()]) + held


def require(memory: Memory, free: int, what: str) -> None:
    """Raise CapacityError unless `memory` fits into `free` bytes."""
    if memory.total > free:
        raise CapacityError(
            f"{what} needs about {memory.total / GIB:.1f} GiB ({memory.describe()}), "
            f"{free / GIB:.1f} GiB are free: {memory.repair(free)}"
        )

"""What a bug report needs to know about the machine: `qwq env`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Name and value of each fact, in the order in which they are printed."""
    import torch

    from qwq.sandbox.doctor import doctor

    jail = doctor()
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "qwq": importlib.metadata.version("qwq"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "tokenizers": _version("tokenizers"),
        "math-verify": _version("math-verify"),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} usable",
        "torch threads": str(torch.get_num_threads()),
        "cuda": cuda,
        "memory": _memory(),
        "sandbox": f"level {jail['level']}" if jail["level"] else f"no safe level here: {jail['advice']}",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> str:
    path = Path("/proc/meminfo")
    if not path.exists():
        return "unknown"
    rows = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    total, free = (int(rows[key].split()[0]) / 2**20 for key in ("MemTotal", "MemAvailable"))
    return f"{total:.1f} GiB, {free:.1f} GiB free"

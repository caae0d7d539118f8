"""What this machine's CPU can multiply. Imports without torch."""

from __future__ import annotations

from pathlib import Path

FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86-64, and bf16 of Arm


def has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16. Without them float32 is several times faster, with them slower."""
    if not FLAGS.is_file():
        return False
    lines = [line.partition(":")[2].split() for line in FLAGS.read_text().splitlines() if line.lower().startswith(("flags", "features"))]
    return bool(lines) and bool(BFLOAT16 & set(lines[0]))

"""What this machine's CPU can multiply. Imports without torch."""

from __future__ import annotations

from pathlib import Path

INFO = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86-64, and bf16 of Arm


def _read() -> tuple[str, set[str]]:
    """The first CPU's maker and flags; nothing where the system does not tell them in Linux's
    way.
    """
    lines = INFO.read_text().splitlines() if INFO.is_file() else []
    fields = {k.strip().lower(): v for k, _, v in reversed([line.partition(":") for line in lines])}
    return fields.get("vendor_id", "").strip(), set(fields.get("flags", fields.get("features", "")).split())


def has_bfloat16() -> bool:
    """Whether the CPU is known to have instructions for products of bfloat16.

    Without them float32 is several times faster, with them slower.
    """
    return bool(BFLOAT16 & _read()[1])


def mkl_is_slow() -> bool:
    """Whether the CPU is AMD's with AVX-512, which torch's MKL leaves unused in float32 products,
    and oneDNN does not.
    """
    maker, flags = _read()
    return maker == "AuthenticAMD" and "avx512f" in flags


def mkl_is_fast() -> bool:
    """Whether the CPU is Intel's with AVX-512: torch's MKL reads a float32 weight at memory's rate
    for one to three rows.
    """
    maker, flags = _read()
    return maker == "GenuineIntel" and "avx512f" in flags


def has_tiles() -> bool:
    """Whether the CPU multiplies tiles of bfloat16 (AMX)."""
    return "amx_bf16" in _read()[1]

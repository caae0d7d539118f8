"""Resolve constraints.txt against the public package index alone, for every supported Python that
is on this machine.

    make check-pins

A pin that only a local wheel folder can satisfy installs here and nowhere else, so folders and
configuration files of pip are switched off. Nothing is installed. What is not checked is said: an
interpreter that is not here, extras that need a compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
EXTRAS = "dev,serve,eval,gpu,page,docs"


def interpreter(version: str) -> str | None:
    """A Python of this version: on PATH, or among pyenv's."""
    on_path = shutil.which(f"python{version}")
    pyenv = sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python"))
    for candidate in ([on_path] if on_path else []) + [str(path) for path in reversed(pyenv)]:
        asked = subprocess.run(
            [candidate, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return candidate
    return None


def resolve(python: str) -> subprocess.CompletedProcess[str]:
    """pip's dry run for this interpreter, without local wheels or configuration."""
    import tempfile

    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")}
    environment |= {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        command = [
            f"{folder}/bin/python",
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--quiet",
            "--constraint",
            "constraints.txt",
            f".[{EXTRAS}]",
        ]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    failed = checked = 0
    for version in VERSIONS:
        python = interpreter(version)
        if python is None:
            print(f"Python {version}: not on this machine, not checked", flush=True)
            continue
        started = time.perf_counter()
        result = resolve(python)
        checked += 1
        failed += result.returncode != 0
        print(
            f"Python {version}: {'resolves' if result.returncode == 0 else 'FAILS'} "
            f"({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
        if result.returncode:
            print(result.stderr.strip(), flush=True)
    if not checked:
        print(f"none of Python {', '.join(VERSIONS)} is here: nothing was checked", file=sys.stderr)
    return 1 if failed or not checked else 0


if __name__ == "__main__":
    sys.exit(main())

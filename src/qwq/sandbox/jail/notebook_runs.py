"""Runs of cells: a notebook whose cells are all there, and a session whose cells are to come.

Not imported in bare slots, see `slot_pool.py`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from . import cell_loop, desk, notebook
from .box_files import read_files, write_files
from .results import exit_code_of, flush, record


def run_session(space: dict[str, Any], own_pid_namespace: bool) -> int:
    """Cells in `space` until the parent ends the session."""
    desk.set_workspace(os.getcwd())
    return cell_loop.serve(notebook.Notebook(space, with_report=True), end_left=own_pid_namespace)


def run(request: dict[str, Any], space: dict[str, Any]) -> int:
    """The cells of one request; each is a record, the files that are asked for are the last."""
    book = notebook.Notebook(space)
    here = os.getcwd()
    try:
        write_files(request["files"], here)
        for index, source in enumerate(request["cells"]):
            record({"i": index, "cell": book.run_captured(source, index + 1)})
    except SystemExit as error:
        return exit_code_of(error)
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        flush()
        record({"files": read_files(request["fetch"], here)})
    return 0

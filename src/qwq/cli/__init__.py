"""The command line: one file per command. It computes nothing."""

from qwq.cli.commands import main, run

__all__ = ["main", "run"]

"""Families of problems that are made, not read; `tasks.registry` has them by name."""

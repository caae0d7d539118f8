"""Verifiers: math, code, instructions, tools. Each takes a response and what is true, and gives a `Verdict` with its reason.

Import the one you need (`from qwq.verify import math`); importing this package alone loads nothing.
"""

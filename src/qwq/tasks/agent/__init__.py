"""Evaluation sets for agents: data analysis, SQL, tables, repairing and writing programs, each with
tools and without, one module a set.

base.py has what they share, tries.py the second try after feedback, figures.py their metrics.
"""

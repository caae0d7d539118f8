"""Evaluation: tasks asked, graded and counted, every transcript kept. One path for `qwq eval` and
for a run's own evaluations.

options.py      what is asked: options, each task with its protocol and problems records.py      a
sample as it is stored, and the response that a verifier sees of it run.py          play, grade,
keep: `run` in a folder (folder.py) that resumes, `evaluate` for a run's stages summarise.py
records to figures; compare.py: two folders, problem by problem page.py         the report, with the
announcement's figures (baselines.py); meter.py: progress
"""

"""Benchmarks: problems in, scores with intervals and every transcript out.

benchmark.py    what a benchmark is; registry.py lists them, a file each: maths, programs, livecodebench, livebench, ifeval, bfcl, families
data.py         where problems come from: a folder, or the published files with their checksums
session.py      `qwq eval` with a results folder: asks what is missing, grades, stores (store.py), counts (estimates.py)
page.py         the report, with the announcement's figures (announced.py); compare.py: two folders, problem by problem
runner.py       a run's own evaluations, sampled by the trainer's model; command.py: scores at once, without a folder
"""

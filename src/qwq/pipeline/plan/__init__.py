"""What a recipe will do and need, before anything runs: `qwq explain`, and the check in front of
every stage. Imports without torch.

counts.py    steps, tokens and FLOPs of a stage    lengths.py   tokens of prompts and documents
shape.py     the model's sizes                     peak.py      bytes at the peak, and whether they fit
cluster.py   the same for several GPUs             simulate.py  steps of an RL stage, second by second
minutes.py   seconds and money on one machine   machine.py   its rates, measured or given
extrapolate.py  other numbers of GPUs              explain.py   the text

Each stage's own numbers are in the module of its kind (`pipeline.stages`).
"""

"""The report of a run as one HTML file.

`pipeline.run_report` reads the run and writes the page; `view.py` is what kinds of stages state.
"""

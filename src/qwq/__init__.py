"""qwq: the open, complete stack behind a QwQ-style reasoning model."""

import os

# Between two small parallel regions torch's OpenMP threads spin while they wait. Beside any other busy process the
# spinning takes the core that the awaited thread needs, and a small model trains an order of magnitude slower
# (benchmarks/busy_neighbour.py). A short spin costs nothing on a quiet machine. Read by libgomp when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

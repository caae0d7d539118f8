"""A disk that fills up while a checkpoint is written: the last good one stays, and the message says
what is needed.
"""

import resource
import subprocess
import sys
import textwrap

import pytest

CHILD = """
import resource, sys
from pathlib import Path
import torch
from qwq.config import Optim
from qwq.errors import CapacityError
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
torch.set_num_threads(1)
folder = Path(sys.argv[1])
model = torch.nn.Linear(300, 300)
optimizer = Optimizer(model, Optim(), 10)
run = StageRun(folder, "rl1", "rl1")
run.save(model, optimizer)
first = model.weight.detach().clone()
model.weight.data += 1
run.state.step = 1
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the next file may have 100 kB, and 360 are wanted
try:
    run.save(model, optimizer)
except CapacityError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print(sorted(p.name for p in run.folder.iterdir()))
other = torch.nn.Linear(300, 300)
again = StageRun(folder, "rl1", "rl1")
again.resume(other, Optimizer(other, Optim(), 10))
print(again.state.step, torch.equal(other.weight, first))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs RLIMIT_FSIZE")
def test_the_last_checkpoint_survives_and_the_message_says_how_much_is_needed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    lines = done.stdout.splitlines()
    assert "a checkpoint of 0.3 MiB could not be written" in lines[0] and "free that much" in lines[0], (
        done.stdout + done.stderr
    )
    assert lines[1] == "['step-000000']"
    assert lines[2] == "0 True"

"""Ten of the 200 kills of `make test-agent-kills`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_killed_run_goes_on_and_does_nothing_twice() -> None:
    program = Path(__file__).parents[1] / "slow" / "agent_kills.py"
    done = subprocess.run(
        [sys.executable, str(program), "--kills", "10", "--seed", "1"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 10

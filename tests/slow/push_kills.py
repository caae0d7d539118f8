"""`qwq push` killed at ten random moments and run again, on a stand-in of each hub.

    python tests/slow/push_kills.py [--kills 10] [--seed 0] [RELEASE]

RELEASE is a folder that `qwq release` wrote; without it a model of random weights is released.
After every kill the repository holds nothing or all of it; at the end it equals the folder by
checksum, and no output of any command holds a token. Ends with a line of JSON for each hub.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "unit" / "release")]

import hub_stand_in
from commands import QWQ
from hub_stand_in import MS_TOKEN, TOKEN, content_of, environment

NAMES = {"huggingface": "me/small", "modelscope": "modelscope/me/small"}


def made(place: Path) -> Path:
    """A release of a model folder of random weights."""
    from conftest import write_model

    from qwq.release.assemble import ReleaseOptions, release

    return release(str(write_model(place / "model")), place / "released", ReleaseOptions())


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def killed(folder: Path, hub: str, kills: int, seed: int) -> dict[str, object]:
    """Push to one hub until nothing kills it; the figures of what happened."""
    draw, output, states = random.Random(seed), "", []
    with tempfile.TemporaryDirectory() as place, hub_stand_in.serving() as (address, hubs):
        hubs.delay_s = 0.02  # so that a kill hits a request as often as what is between two
        env = environment(Path(place), address, HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=MS_TOKEN)
        command = [QWQ, "push", str(folder), "me/small", "--to", hub]
        with hub_stand_in.serving() as (other, first):  # how many requests an undisturbed one makes
            undisturbed = environment(Path(place) / "first", other, HF_TOKEN=TOKEN, MODELSCOPE_API_TOKEN=MS_TOKEN)
            subprocess.run(command, env=undisturbed, check=True, capture_output=True)
            num_requests = len(first.asked)
        whole = digests(content_of(folder))  # the first push puts the repository's name into the card
        for _ in range(kills):
            moment = len(hubs.asked) + draw.randrange(num_requests)
            with subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as push:
                while len(hubs.asked) < moment and push.poll() is None:
                    time.sleep(0.002)
                time.sleep(draw.uniform(0.0, 0.04))
                push.send_signal(signal.SIGKILL)
                output += push.communicate()[0]
            repository = hubs.repositories.get(NAMES[hub])
            held = digests(repository.files) if repository else {}
            assert held in ({}, whole), f"a half release: {sorted(held)}"
            states.append("no repository" if repository is None else "empty" if not held else "complete")
            if held:  # done before the kill: the next ones hit another push from the start
                hubs.repositories.clear()
                hubs.blobs.clear()
                hubs.parts.clear()
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        output += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        repository = hubs.repositories[NAMES[hub]]
        assert digests(repository.files) == whole and repository.private
        assert TOKEN not in output and MS_TOKEN not in output, "a token was printed"
    return {
        "name": f"push_kills_{hub}",
        "kills": kills,
        "after": states,
        "files": len(whole),
        "commits": len(repository.commits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = options.release or made(Path(place))
        for hub in NAMES:
            if hub == "modelscope":
                try:
                    import modelscope_hub  # noqa: F401
                except ImportError:
                    print(
                        "modelscope: its client is not installed (pip install modelscope-hub): left out",
                        file=sys.stderr,
                    )
                    continue
            print(json.dumps(killed(folder, hub, options.kills, options.seed)), flush=True)


if __name__ == "__main__":
    main()

"""Writes a stage's checkpoints: before the next step, or in a thread from a copy in host memory
while the next steps are taken.

A checkpoint is a folder that appears by atomic rename, and only then are older ones removed: a kill
at any moment leaves a whole one. At most one is being written; the next one waits for it, so there
is one copy at a time.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from qwq.common.files import atomic_folder, write_atomic
from qwq.errors import CapacityError

Tensors = Mapping[str, Tensor]


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Refuse before writing when the disk cannot take it."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise CapacityError(
            f"a checkpoint in {folder} needs {needed_bytes / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free: "
            "free some space and run the same command again (the last checkpoint is untouched)"
        )


class CheckpointWriter:
    """The checkpoints of one stage in `folder`. `waited_s` are the seconds that training waited for
    them, `written_s` those of their writing.
    """

    def __init__(self, folder: Path, *, in_background: bool = False) -> None:
        self.folder, self.in_background = folder, in_background
        self.num_written, self.waited_s, self.written_s = 0, 0.0, 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._under_way: Future[None] | None = None

    def taken(self, tensor: Tensor) -> Tensor:
        """What of a tensor that may change is given to `write`: a copy in host memory where a
        thread writes it.
        """
        return tensor.detach().to("cpu", copy=True) if self.in_background else tensor

    def write(self, step: int, files: Mapping[str, Tensors], state: str) -> None:
        """Write the checkpoint of `step`: tensors by file, and `state.json`. In the background they
        are not to change afterwards.

        CapacityError where the disk does not take it, or did not take the one before.
        """
        self.wait()
        started = time.perf_counter()
        size = sum(t.numel() * t.element_size() for tensors in files.values() for t in tensors.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        check_disk(self.folder, size + (1 << 20))
        if self.in_background:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            self._under_way = self._thread.submit(self._write, step, files, state, size)
        else:
            self._write(step, files, state, size)
        self.waited_s += time.perf_counter() - started

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. CapacityError where that failed."""
        started, under_way = time.perf_counter(), self._under_way
        self._under_way = None
        if under_way is not None:
            under_way.result()
            self.waited_s += time.perf_counter() - started

    def _write(self, step: int, files: Mapping[str, Tensors], state: str, size: int) -> None:
        started = time.perf_counter()
        target = self.folder / f"step-{step:06d}"
        try:
            with atomic_folder(target) as partial:
                for name, tensors in files.items():
                    save_file(_distinct(tensors), partial / f"{name}.safetensors")
                write_atomic(partial / "state.json", state)
        except (OSError, SafetensorError) as error:
            # The disk was full after all, or failed: what was half written is gone, the last good
            # checkpoint stays.
            raise CapacityError(
                f"a checkpoint of {size / 2**20:.1f} MiB could not be written to {self.folder} ({error}): free that "
                "much and run the same command again (the last checkpoint is untouched)"
            ) from error
        for old in self.folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old)
        self.num_written += 1
        self.written_s += time.perf_counter() - started

    def account(self) -> str:
        """What the checkpoints cost, in words."""
        return (
            f"{self.num_written} checkpoints were written in {self.written_s:.1f} s beside the training, which waited "
            f"{self.waited_s:.1f} s for them"
        )


def _distinct(tensors: Tensors) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory; tied ones are copied."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        if tensor.data_ptr() in seen and tensor.numel():
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        out[name] = tensor
    return out

"""Saving and resuming: a killed run loses at most the work since its last checkpoint (design
promise 5).

A checkpoint (`checkpoint_writer.py`) is a folder that appears by atomic rename: weights, optimiser
moments and a small JSON state (step, data cursor, seconds). Everything else a step needs (which
documents, which random numbers) is a function of the seed and the step, and rollouts are read back
from their log, so the continued run takes the very steps the undisturbed one would have taken.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qwq.cluster.divide import divide
from qwq.cluster.division import WholeBatch
from qwq.cluster.world import RankWorld
from qwq.common.files import read_record, whole_lines, write_atomic
from qwq.common.heap import settled_heap
from qwq.common.jsonl import without_nonfinite
from qwq.common.run_folder import RunFolder
from qwq.common.signals import ending_signals
from qwq.data.examples import FileUse
from qwq.errors import ConfigError, Interrupted, ModelError
from qwq.train.checkpoint_writer import CheckpointWriter
from qwq.train.optim import Optimizer
from qwq.train.state import StageState

OPTIMIZER = "optimizer"
SAVING_SHARE = 0.04  # of the time, at most
MIN_INTERVAL_S = 5.0  # the default of the recipe's compute.checkpoint_interval_s


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a file that a run has written. ModelError where it is damaged."""
    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is damaged ({error}): delete the folder {path.parent}, and the same command restarts the stage"
        ) from None


class Progress:
    """Where a stage's progress is shown; the command line puts a live display here."""

    def start(self, stage: str, kind: str, total: int, done: int) -> None: ...

    def update(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...

    def end(self) -> None: ...


class StopFlag:
    """Turns Ctrl-C, SIGTERM and a time limit into a flag that the loop reads between steps; a
    second Ctrl-C stops at once.
    """

    def __init__(self, *, after_s: float | None = None) -> None:
        self._raised = False
        self._deadline = math.inf if after_s is None else time.monotonic() + after_s

    @property
    def raised(self) -> bool:
        return self._raised or time.monotonic() > self._deadline

    @raised.setter
    def raised(self, value: bool) -> None:
        self._raised = value

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Hear the signals as long as the block lasts.

        In the main thread alone: Python gives them to no other.
        """

        def handler(number: int, frame: Any) -> None:
            if self._raised and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.raised = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with ending_signals(handler):
            yield


class StageRun:
    """One stage's life on disk: metrics, checkpoints, resuming, stopping.

    `state` travels with every checkpoint; steps keep in it, or in a part of it, whatever the next
    step depends on. A step that puts a sentence in `state.ended` ends the stage early. `tensors`
    travels in the same way, for what is too large for JSON; they are replaced, never changed. With
    `background` a checkpoint is written while the next steps are taken.

    With several processes (`world`) every one calls every method; the first writes the files, and
    all read the same ones.
    """

    def __init__(
        self,
        run_folder: Path,
        name: str,
        kind: str,
        *,
        progress: Progress | None = None,
        stop: StopFlag | None = None,
        resume_hint: str = "run the same command again",
        interval_s: float = MIN_INTERVAL_S,
        background: bool = False,
        world: RankWorld | None = None,
    ) -> None:
        self.name, self.kind, self.world = name, kind, world or RankWorld()
        places = RunFolder(run_folder)
        self.folder, self.rollouts_folder = places.checkpoints(name), places.rollouts(name)
        self.fleet_folder = places.fleet(name)
        self.metrics_path = places.metrics
        self.progress, self.stop = progress or Progress(), stop or StopFlag()
        self.resume_hint, self.interval_s = resume_hint, interval_s
        self.writer = CheckpointWriter(self.folder, in_background=background)
        self.state = StageState()
        self.tensors: dict[str, Tensor] = {}

    def divide(self, model: nn.Module, *, tokens: bool = False) -> WholeBatch:
        """How the stage's batches are divided over the run's processes. `tokens`: the stage divides
        its passes by `division.context` (`PackedBatch.divided`).
        """
        return divide(model, self.world, tokens=tokens)

    def _latest(self) -> Path | None:
        found = sorted(p for p in self.folder.glob("step-*") if (p / "state.json").exists())
        return found[-1] if found else None

    @property
    def saved_step(self) -> int:
        """Steps that the last checkpoint on disk has taken, after the one that is being written; 0
        where there is none.
        """
        self.writer.wait()
        latest = self._latest()
        return int(latest.name.removeprefix("step-")) if latest else 0

    def resume(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Put back the last checkpoint, if there is one, and drop the metrics that came after
        it.
        """
        latest = self._latest()
        if latest:
            self.state.load(read_record(latest / "state.json"))
            load_trained(module, read_tensors(latest / "weights.safetensors", str(next(module.parameters()).device)))
            optimizer.load_state(read_tensors(latest / "optimizer.safetensors"))
            if (latest / "tensors.safetensors").exists():
                self.tensors = read_tensors(latest / "tensors.safetensors")
            self.progress.note(f"{self.name}: resuming from step {self.state.step}")
        # After it, so that no process looks for the last checkpoint while the first writes another.
        self.world.alone(self._drop_later_metrics)

    def _drop_later_metrics(self) -> None:
        if not self.metrics_path.exists():
            return
        kept = []
        for line in whole_lines(self.metrics_path):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # of an earlier kill, which left half a line and another behind it
            if row["stage"] != self.name or row["step"] < self.state.step:
                kept.append(line + b"\n")
        write_atomic(self.metrics_path, b"".join(kept))

    def save(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Keep a checkpoint of whole weights and moments, which any number of processes can resume
        from. CapacityError where the disk does not take it, or did not take the one before.
        """
        self.world.alone(self.writer.wait)
        started = time.perf_counter()
        files: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
        for kind, entries in (("weights", trained_weights(module).items()), ("optimizer", optimizer.entries())):
            for name, value in entries:  # gathered one by one; the first process alone keeps them
                if self.world.leads:
                    files[kind][name] = self.writer.taken(value)
        if self.tensors:
            files["tensors"] = self.tensors
        state = json.dumps(self.state.to_dict())
        self.writer.waited_s += time.perf_counter() - started
        self.world.alone(lambda: self.writer.write(self.state.step, files, state))

    def tell_data(self, use: FileUse) -> None:
        """Say what the stage takes of a data file, and keep it for the stage's record (`data` in
        results.json).
        """
        self.state.data.append(use.to_dict())
        self.progress.note(f"{self.name}: {use.note()}")

    @settled_heap()
    def run(
        self, total: int, module: nn.Module, optimizer: Optimizer, step_fn: Callable[[int], dict[str, Any]]
    ) -> None:
        """Take the steps that are left. `step_fn(step)` does one and returns its metrics."""
        self.progress.start(self.name, self.kind, total, self.state.step)
        try:
            self._take_steps(total, module, optimizer, step_fn)
        finally:
            self.writer.wait()  # nobody is told that the state is saved before it is
        if self.writer.in_background and self.writer.num_written:
            self.progress.note(f"{self.name}: {self.writer.account()}")

    def _take_steps(
        self, total: int, module: nn.Module, optimizer: Optimizer, step_fn: Callable[[int], dict[str, Any]]
    ) -> None:
        last_save, save_seconds = time.perf_counter(), 0.0
        while self.state.step < total and not self.state.ended:
            started = time.perf_counter()
            step = self.state.step
            metrics = step_fn(step)
            seconds = time.perf_counter() - started
            self.state.step = step + 1
            self.state.seconds += seconds
            self._tell({"stage": self.name, "step": step, "seconds": round(seconds, 4)} | metrics)
            if step + 1 == total or self.state.ended:
                self._check_last(metrics, total)
            due = not self.interval_s or time.perf_counter() - last_save > max(
                self.interval_s, save_seconds / SAVING_SHARE
            )
            # Decided by all: clocks differ, and a signal reaches one process before another.
            asked = self.world.gather([self.stop.raised, due])
            stopped, due = any(stop for stop, _ in asked), asked[0][1]
            if stopped or (due and step + 1 < total):
                before = time.perf_counter()
                self.save(module, optimizer)
                last_save = time.perf_counter()
                save_seconds = last_save - before
            if self.state.ended:
                self.progress.note(self.state.ended)
            elif stopped and step + 1 < total:
                raise Interrupted(
                    f"stopped in stage {self.name} after step {step + 1} of {total}, state saved: {self.resume_hint}"
                )

    def _tell(self, row: dict[str, Any]) -> None:
        """Write a step's line of metrics, and show it."""
        if not self.world.leads:
            return
        row, missing = without_nonfinite(row)
        if missing:
            row["alarms"] = [*row.get("alarms", []), f"not finite, written as null: {', '.join(missing)}"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.metrics_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row, allow_nan=False) + "\n")
        self.progress.update(self.name, row["step"] + 1, row)

    def _check_last(self, metrics: Mapping[str, Any], total: int) -> None:
        """A stage whose last loss is NaN or infinite has diverged, although its weights may be
        finite numbers still: no model is made of them.
        """
        loss = metrics.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise ConfigError(
                f"stage {self.name} ends after step {self.state.step} of {total} with loss {loss}: training "
                f"diverged, and no weights of it were handed on; lower stages.{self.name}.optim.lr and start over "
                "with --fresh"
            )

    def clear(self) -> None:
        """Remove the trainer state of a stage that is finished, what a kill has left half written
        included.
        """
        self.world.alone(self._clear)

    def _clear(self) -> None:
        self.writer.wait()
        for old in [*self.folder.glob("step-*"), *self.folder.glob(".step-*"), *self.folder.glob("best-*")]:
            shutil.rmtree(old)


def trained_weights(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: all weights, or the adapters alone where the rest is frozen."""
    names = {n for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {k: v for k, v in module.state_dict().items() if k in names}


@torch.no_grad()
def load_trained(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Put `trained_weights` back, in place."""
    own = trained_weights(module)
    if own.keys() != stored.keys():
        odd = sorted(own.keys() ^ stored.keys())
        raise ModelError(
            f"a checkpoint holds {len(stored)} tensors, {len(own)} are trained here (first difference: {odd[0]}): "
            "start over with --fresh"
        )
    for name, tensor in own.items():
        tensor.copy_(stored[name])


def snapshot(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Copies, on the CPU, of what is trained and of the optimizer's state (moments, step counts,
    float32 copies).

    The optimizer's names have a slash, the weights' have none.
    """
    copies = {**trained_weights(module), **{f"{OPTIMIZER}/{k}": v for k, v in optimizer.state().items()}}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in copies.items()}


def restore(module: nn.Module, optimizer: Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Put a `snapshot` back, in place.

    Moments that it does not hold are cleared: those of before the first step, or of a checkpoint
    that kept weights alone.
    """
    of_optimizer = f"{OPTIMIZER}/"
    load_trained(module, {k: v for k, v in stored.items() if not k.startswith(of_optimizer)})
    optimizer.load_state({k.removeprefix(of_optimizer): v for k, v in stored.items() if k.startswith(of_optimizer)})


def clone_weights(module: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {k: v.detach().clone() for k, v in trained_weights(module).items()}

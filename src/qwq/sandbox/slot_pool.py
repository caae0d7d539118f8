"""The jails of a sandbox: started at the strongest level that works here, used again, replaced."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from dataclasses import replace

from qwq.errors import InfraError, UsageError
from qwq.sandbox.limits import Level, Limits, interpreter_files, readable_by_all
from qwq.sandbox.runner import Execution
from qwq.sandbox.slot import Cancel, Cancelled, JailSlot
from qwq.sandbox.slot_process import Template

_ATTEMPTS = 2
_UID_BASE = 1_900_000_000  # far from any account; a container that maps fewer ids gets _UID_BASE_SMALL
_UID_BASE_SMALL = 61_000
_SLOT_NUMBERS = itertools.count(1)  # over all pools of this process, so that no two slots share a user id


def _own_uid(index: int) -> int | None:
    """An id of its own for a slot, where we are root and may change; else None."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as f:
        highest = max(int(first) + int(count) for first, _, count in (line.split() for line in f))
    if highest > _UID_BASE + (1 << 28):
        return _UID_BASE + (os.getpid() % (1 << 20)) * 64 + index % 64
    return _UID_BASE_SMALL + (os.getpid() * 7 + index) % 4000


class SlotPool:
    """At most `count` runs hold a slot at a time; sessions start slots of their own beside them.

    Slots are of two kinds: bare ones have the standard library imported, the others numpy and
    added packages too. `required` is a level that has to be; else the first slot finds the
    strongest one.
    """

    def __init__(self, count: int, required: Level | None, *, unsafe: bool, tools: bool, cgroups: bool):
        self.required = required
        self.level_in_force: Level | None = None
        self.reason = ""
        self.num_replaced = 0
        self.closed = False
        self.live: set[JailSlot] = set()
        self.pid = os.getpid()
        self._unsafe, self._tools, self._cgroups = unsafe, tools, cgroups
        self._lock = threading.Lock()
        self._templates: dict[tuple[str, ...], Template] = {}
        self._template_lock = threading.Lock()
        self._turns = threading.Semaphore(count)
        self._idle: dict[bool, list[JailSlot]] = {True: [], False: []}  # bare or not

    @property
    def level(self) -> Level:
        """The level in force; a slot is started to find it."""
        if self.level_in_force is None:
            self.put_back(self._take(bare=True))
        assert self.level_in_force is not None
        return self.level_in_force

    def close(self) -> None:
        """End all slots, and the processes that they are forked from."""
        self.closed = True
        with self._lock:
            live, self.live = self.live, set()
        for slot in live:
            slot.close() if os.getpid() == self.pid else slot.abandon()
        with self._template_lock:
            templates, self._templates = list(self._templates.values()), {}
        for template in templates:
            template.close() if os.getpid() == self.pid else template.abandon()

    def start_with(self, packages: tuple[str, ...]) -> JailSlot:
        """A slot in which these packages are imported."""
        return self._start_slot(template=self._template(packages))

    def _start_slot(self, *, bare: bool = False, template: Template | None = None) -> JailSlot:
        index = next(_SLOT_NUMBERS)
        with self._lock:
            if self.level_in_force is None:
                return self._find_level(index, bare, template)
        slot = self._new_slot(self.level_in_force, index, bare, template)
        with self._lock:
            self.live.add(slot)
        return slot

    def _new_slot(self, level: Level, index: int, bare: bool, template: Template | None) -> JailSlot:
        # Below namespaces the interpreter is used where it lies: an id of its own helps only if it
        # may read it there.
        own_uid = (
            _own_uid(index) if level is Level.NAMESPACES or readable_by_all(interpreter_files().read_only) else None
        )
        name = f"qwq-{os.getpid()}-{id(self):x}-{index}"
        return JailSlot(level, own_uid, name, tools=self._tools, bare=bare, cgroups=self._cgroups, template=template)

    def _find_level(self, index: int, bare: bool, template: Template | None) -> JailSlot:
        """Start the first slot at the strongest level that works; called with the lock held."""
        if sys.platform != "linux":
            raise UsageError(f"the sandbox needs Linux, this is {sys.platform}: docs/sandbox.md tells what to do here")
        tried = []
        for level in [self.required] if self.required else list(Level):
            if level is Level.RLIMITS and not self._unsafe:
                break
            try:
                slot = self._new_slot(level, index, bare, template)
            except InfraError as error:
                tried.append(str(error))
                continue
            self.level_in_force = level
            self.reason = "; ".join([*tried, f"{level} works here"])
            self.live.add(slot)
            return slot
        raise UsageError(
            "no safe jail on this machine (" + "; ".join(tried or ["only rlimits was asked for"]) + "): allow user "
            "namespaces or Landlock, or pass unsafe=True (--unsafe) to run programs that can read this user's files"
        )

    def _take(self, *, bare: bool) -> JailSlot:
        if self.closed:
            raise InfraError("the sandbox is closed")
        if os.getpid() != self.pid:
            raise InfraError("this sandbox belongs to the process that made it: make one after the fork")
        self._turns.acquire()
        try:
            if self.closed:
                raise InfraError("the sandbox is closed")
            with self._lock:
                idle = self._idle[bare]
                slot = idle.pop() if idle else None
            return slot if slot is not None and not slot.dead else self._start_slot(bare=bare)
        except BaseException:
            self._turns.release()
            raise

    def put_back(self, slot: JailSlot) -> None:
        if slot.dead:
            self.discard(slot)
            self.num_replaced += 1
        else:
            with self._lock:
                self._idle[slot.bare].append(slot)
        self._turns.release()

    def run(
        self, payload: bytes, stdin: bytes | int, limits: Limits, cancel: Cancel | None, stdout: int | None = None,
        *, bare: bool,
    ) -> Execution:  # fmt: skip
        """Run a request on a free slot, `bare` or not; a slot that dies is replaced and the run
        tried once more, where it can be.
        """
        attempts = _ATTEMPTS if isinstance(stdin, bytes) else 1
        for attempt in range(attempts):
            slot = self._take(bare=bare)
            try:
                done = slot.execute(payload, stdin, limits, cancel, stdout)
                return replace(done, unsafe=True) if slot.level is Level.RLIMITS else done
            except Cancelled:
                raise
            except InfraError:
                if self.closed or attempt == attempts - 1:
                    raise
            finally:
                self.put_back(slot)
        raise AssertionError("unreachable")

    def discard(self, slot: JailSlot) -> None:
        with self._lock:
            known = slot in self.live
            self.live.discard(slot)
        if known and not slot.dead:
            slot.close()

    def _template(self, packages: tuple[str, ...]) -> Template | None:
        """The process that slots with these packages are forked from; one that died is replaced."""
        if not packages:
            return None
        with self._template_lock:
            template = self._templates.get(packages)
            if template is None or not template.is_alive:
                template = self._templates[packages] = Template(packages)
            return template

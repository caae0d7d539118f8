"""The engine's backend on llama.cpp's kernels: quantised GGUF files on CPUs (and Macs), logits out,
our scheduler above.

Covers llama-cpp-python's low-level batch API. llama.cpp keeps keys and values of all slots in one
pool of cells; a shared prefix is the same cells seen by several slots, which `_Cells` counts as
llama.cpp does. YaRN is a property of a context there, so requests that want it live in a second
context over the same weights, made when the first one comes.

Deterministic mode: every chunk is a call of its own, and every slot a stream of cells of its own,
so that neither a product's shape nor the order of cells depends on other slots. Prefixes are then
not copied between slots.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwq.engine.backends.base import Chunk
from qwq.errors import CapacityError, ConfigError, InfraError, ModelError, install_hint

MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ
PROMPT_BLOCK = 64


def llama_cpp() -> Any:
    """The library, with its chatter off. ConfigError where it is not installed."""
    try:
        import llama_cpp as library
    except ImportError:
        raise ConfigError(
            "GGUF files are run by llama.cpp, and llama-cpp-python is not installed: "
            f"{install_hint('gguf')} (needs cmake and a C++ compiler; in a clone `make install-gguf` does it)"
        ) from None
    library.llama_log_set(_quiet(library), ctypes.c_void_p(0))
    return library


def _quiet(library: Any, _kept: list[Any] = []) -> Any:  # noqa: B006  # a callback must outlive its caller
    if not _kept:
        _kept.append(library.llama_log_callback(lambda level, text, data: None))
    return _kept[0]


def _release_pages(path: str | Path) -> None:
    """Give back the file's pages that loading touched. llama.cpp copies most tensors into the
    layout of its fast kernels while the whole file stays mapped, so each would be resident twice;
    what is still read through the mapping comes back page by page.
    """
    if platform.system() != "Linux":
        return
    name, libc = os.path.realpath(path), ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            if line.rstrip("\n").endswith(" " + name):
                begin, end = (int(x, 16) for x in line.split(" ", 1)[0].split("-"))
                libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


class LlamaBackend:
    """See `backend.Backend`. `kv_tokens` bounds the cells over all slots; the file is
    memory-mapped.
    """

    deterministic: bool
    own_threads = True

    def __init__(
        self,
        path: str | Path,
        *,
        kv_tokens: int,
        max_slots: int = 64,
        threads: int | None = None,
        batch_tokens: int = 512,
        deterministic: bool = False,
        yarn: bool = False,
        max_positions: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        L = self.lib = llama_cpp()
        self.max_slots = min(max_slots, MAX_SEQUENCES)
        self.kv_tokens, self.batch_tokens, self.deterministic = kv_tokens, batch_tokens, deterministic
        self.chunk_unit = PROMPT_BLOCK if deterministic else 1
        self.threads = threads or os.cpu_count() or 1
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0 if platform.system() == "Linux" else -1
        if progress is not None:
            report = progress
            self._progress = L.llama_progress_callback(lambda share, _: report(share) or True)
            params.progress_callback = self._progress
        self.model = L.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ModelError(
                f"{path}: llama.cpp cannot load this file: fetch it again, or check that its architecture is supported"
            )
        _release_pages(path)
        vocab = L.llama_model_get_vocab(self.model)
        self.vocab_size = int(L.llama_vocab_n_tokens(vocab))
        trained = int(L.llama_model_n_ctx_train(self.model))
        self.has_yarn = yarn
        # Slots with cells of their own have an equal share of them.
        self.slot_capacity = kv_tokens // self.max_slots if deterministic else kv_tokens
        self.max_positions = min(max_positions or (4 * trained if yarn else trained), self.slot_capacity)
        self.original_positions = trained
        self._contexts: dict[bool, Any] = {False: self._context(False)}
        self._yarn_slots: set[int] = set()
        self._free = list(range(self.max_slots - 1, -1, -1))
        self._cells = _Cells(kv_tokens)
        self._batch = L.llama_batch_init(batch_tokens, 0, 1)

    def close(self) -> None:
        for context in self._contexts.values():
            self.lib.llama_free(context)
        self.lib.llama_batch_free(self._batch)
        self.lib.llama_model_free(self.model)

    def _context(self, yarn: bool) -> Any:
        L = self.lib
        c = L.llama_context_default_params()
        # A stream's share of cells is rounded to 256 by llama.cpp.
        c.n_ctx = (
            self.kv_tokens
            if not self.deterministic
            else self.max_slots * math.ceil(self.kv_tokens / self.max_slots / 256) * 256
        )
        c.n_batch = c.n_ubatch = self.batch_tokens
        c.n_seq_max, c.kv_unified = self.max_slots, not self.deterministic
        c.n_threads = c.n_threads_batch = self.threads
        c.n_outputs_max = min(self.batch_tokens, max(self.max_slots, 64))
        c.n_outputs_max_per_seq = c.n_outputs_max
        if yarn:
            c.rope_scaling_type = L.LLAMA_ROPE_SCALING_TYPE_YARN
            c.rope_freq_scale, c.yarn_orig_ctx = 0.25, self.original_positions
        context = L.llama_init_from_model(self.model, c)
        if not context:
            raise CapacityError(
                f"llama.cpp cannot make a cache of {self.kv_tokens} tokens: lower --kv-tokens or --max-model-len"
            )
        return context

    # -- slots -------------------------------------------------------------------------------------

    def open_slot(self) -> int | None:
        if not self._free:
            return None
        slot = self._free.pop()
        self._cells.open(slot)
        return slot

    def close_slot(self, slot: int) -> None:
        self.lib.llama_memory_seq_rm(self._memory(slot), slot, -1, -1)
        self._yarn_slots.discard(slot)
        self._cells.close(slot)
        self._free.append(slot)

    def reserve(self, slot: int, length: int) -> bool:
        return self._cells.reserve(slot, length)

    def copy_prefix(self, source: int, target: int, length: int) -> bool:
        if self.deterministic:
            return False
        if source in self._yarn_slots:
            self._yarn_slots.add(target)
        self.lib.llama_memory_seq_cp(self._memory(source), source, target, 0, length)
        self._cells.share(source, target, length)
        return True

    def truncate(self, slot: int, length: int) -> None:
        self.lib.llama_memory_seq_rm(self._memory(slot), slot, length, -1)
        self._cells.truncate(slot, length)

    def _memory(self, slot: int) -> Any:
        return self.lib.llama_get_memory(self._contexts[slot in self._yarn_slots])

    # -- one pass ----------------------------------------------------------------------------------

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """See `Backend.forward`. The result is valid until the next pass."""
        for c in chunks:
            if c.yarn:
                self._yarn_slots.add(c.slot)
                if True not in self._contexts:
                    self._contexts[True] = self._context(True)
        if self.deterministic:
            return self._one_by_one(chunks)
        kinds = {c.yarn for c in chunks}
        if len(kinds) == 1:
            return self._decode(chunks, kinds.pop())
        parts = {yarn: self._decode([c for c in chunks if c.yarn is yarn], yarn).clone() for yarn in kinds}
        at, out = {True: 0, False: 0}, []
        for c in chunks:
            out.append(parts[c.yarn][at[c.yarn] : at[c.yarn] + c.num_logits])
            at[c.yarn] += c.num_logits
        return torch.cat(out)

    def _one_by_one(self, chunks: Sequence[Chunk]) -> Tensor:
        out = [torch.zeros(0, self.vocab_size)]
        for c in chunks:
            size = PROMPT_BLOCK if c.prompt else 1
            for at in range(0, len(c.ids), size):
                ids = c.ids[at : at + size]
                wanted = max(0, min(len(ids), at + len(ids) - (len(c.ids) - c.num_logits)))
                piece = Chunk(c.slot, ids, c.start + at, wanted, c.yarn, c.prompt)
                logits = self._decode([piece], c.yarn)
                if wanted:
                    out.append(logits.clone())
        return torch.cat(out)

    def _decode(self, chunks: Sequence[Chunk], yarn: bool) -> Tensor:
        """One llama_decode, or several where the logits asked for are more than llama.cpp hands out
        at once.
        """
        count = sum(len(c.ids) for c in chunks)
        assert count <= self.batch_tokens, f"{count} tokens in a batch made for {self.batch_tokens}"
        batch, at, outputs = self._batch, 0, 0
        for c in chunks:
            first = at + len(c.ids) - c.num_logits
            for i, token in enumerate(c.ids):
                batch.token[at], batch.pos[at] = token, c.start + i
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, c.slot
                batch.logits[at] = at >= first
                at += 1
            outputs += c.num_logits
        batch.n_tokens = count
        context = self._contexts[yarn]
        status = self.lib.llama_decode(context, batch)
        if status != 0:
            what = "found no free cells" if status == 1 else "failed"
            raise InfraError(
                f"llama.cpp {what} (status {status}) on {count} tokens with {self._cells.used} of {self.kv_tokens} "
                "cells in use"
            )
        if not outputs:
            return torch.zeros(0, self.vocab_size)
        pointer = self.lib.llama_get_logits(context)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, shape=(outputs, self.vocab_size)))


class _Segment:
    """Consecutive cells, seen by `refs` slots."""

    __slots__ = ("length", "refs")

    def __init__(self, length: int) -> None:
        self.length, self.refs = length, 1


class _Cells:
    """How many of llama.cpp's cells are taken: a prefix shared by several slots counts once."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._slots: dict[int, list[_Segment]] = {}

    def open(self, slot: int) -> None:
        self._slots[slot] = []

    def length(self, slot: int) -> int:
        return sum(s.length for s in self._slots[slot])

    def reserve(self, slot: int, length: int) -> bool:
        more = length - self.length(slot)
        if more <= 0:
            return True
        if self.used + more > self.capacity:
            return False
        segments = self._slots[slot]
        if segments and segments[-1].refs == 1:
            segments[-1].length += more
        else:
            segments.append(_Segment(more))
        self.used += more
        return True

    def truncate(self, slot: int, length: int) -> None:
        self._split(slot, length)
        at, kept = 0, []
        for s in self._slots[slot]:
            if at < length:
                kept.append(s)
            else:
                self._let_go(s)
            at += s.length
        self._slots[slot] = kept

    def share(self, source: int, target: int, length: int) -> None:
        self._split(source, length)
        at = 0
        for s in self._slots[source]:
            if at >= length:
                break
            s.refs += 1
            self._slots[target].append(s)
            at += s.length

    def close(self, slot: int) -> None:
        for s in self._slots.pop(slot):
            self._let_go(s)

    def _let_go(self, segment: _Segment) -> None:
        segment.refs -= 1
        if not segment.refs:
            self.used -= segment.length

    def _split(self, slot: int, length: int) -> None:
        """Make `length` fall between two segments, in every slot that sees the one it is in."""
        at = 0
        for s in self._slots[slot]:
            if at < length < at + s.length:
                rest = _Segment(at + s.length - length)
                rest.refs = s.refs
                s.length = length - at
                for segments in self._slots.values():
                    if s in segments:
                        segments.insert(segments.index(s) + 1, rest)
                return
            at += s.length

"""Logits of given token ids, for checks of this model from outside: `qwq logits MODEL
FILE.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import torch

from qwq.common.jsonl import name_of, numbered_lines, parse_line
from qwq.errors import DataError
from qwq.model.layouts import Packed
from qwq.model.weights import load_model

NEEDS = 'JSON lines with {"ids": [...]} on each'


def read_ids(path: str | Path, vocab_size: int, max_positions: int) -> Iterator[tuple[int, list[int]]]:
    """Line index from 0, and the ids of each line `{"ids": [...]}`.

    DataError names file and line.
    """
    number = 0
    for number, line in numbered_lines(path, NEEDS):  # a blank line is no row of ids, and would shift the index
        where = f"{name_of(path)}, line {number}"
        row = parse_line(line, where)
        ids = row.get("ids") if isinstance(row, dict) else None
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise DataError(f'{where}: "ids" must be a list of at least one whole number')
        outside = next((i for i in ids if not 0 <= i < vocab_size), None)
        if outside is not None:
            raise DataError(f"{where}: id {outside} is outside the model's vocabulary, 0 to {vocab_size - 1}")
        if len(ids) > max_positions:
            raise DataError(f"{where}: {len(ids)} ids, the model reads at most {max_positions}: split the line")
        yield number - 1, ids
    if not number:
        raise DataError(f"{name_of(path)} is empty: give {NEEDS}")


@torch.inference_mode()
def logits_of_file(model_path: str | Path, jsonl_path: str | Path, *, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """`{"index": line from 0, "logits": float32 array (tokens, V)}` for each line, in order,
    computed in float32.
    """
    model = load_model(model_path, device=device)
    for index, ids in read_ids(jsonl_path, model.config.vocab_size, model.config.max_positions):
        hidden_ND = model(torch.tensor(ids, device=device), Packed([len(ids)], device))
        yield {"index": index, "logits": model.logits(hidden_ND).cpu().numpy()}


def to_line(row: dict[str, Any]) -> bytes:
    """One JSON line; each float is the shortest that reads back as the same float32."""
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)

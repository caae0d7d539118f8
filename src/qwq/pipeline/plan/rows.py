"""What each stage takes of its own data file, with one row rendered, for `qwq explain`."""

from __future__ import annotations

from qwq.common.run_folder import RunFolder
from qwq.config import Recipe
from qwq.data.examples import FileUse
from qwq.data.row_files import is_hub_id
from qwq.errors import ModelError
from qwq.pipeline.preflight import at_hand, chat_format, own_data
from qwq.pipeline.stage import stage_of

SHOWN_CHARACTERS = 1500  # of a rendered row


def read_own_data(recipe: Recipe, folder: RunFolder, max_positions: int) -> tuple[dict[str, FileUse], list[str]]:
    """What each stage takes of its own file, and that in words: one row rendered, what is learnt in
    [[double brackets]], and the account of all rows.

    Files that are not here, or on the hub, are left out, and those of a model whose tokenizer is
    not to be had. DataError as in training.
    """
    uses: dict[str, FileUse] = {}
    lines: list[str] = []
    names = [
        name
        for name in own_data(recipe, recipe.stages)
        if (path := recipe.stages[name].data_file) and at_hand(path) and not is_hub_id(path)
    ]
    try:
        chat = chat_format(recipe, folder.tokenizer) if names else None
    except ModelError as error:
        return {}, [
            f"{name}: {recipe.stages[name].data_file} was not read, as its tokens cannot be counted: {error}"
            for name in names
        ]
    for name in names:
        assert chat is not None
        (summary,) = stage_of(recipe, name).preview(chat, max_positions=max_positions)
        uses[name] = summary.use
        for row in summary.rows:
            label, marked = (f", {row.label}", "scored") if row.label else ("", "learnt")
            lines += [f"{name}: {row.where}{label}, {row.tokens:,} tokens, {marked} is what is in [[double brackets]]:"]
            lines += [f"    {line}" for line in _shortened(row.text()).rstrip("\n").split("\n")]
        lines += [f"{name}: {summary.use.note()}", ""]
    return uses, lines


def _shortened(text: str) -> str:
    """The text without its middle, where it is long."""
    over = len(text) - SHOWN_CHARACTERS
    return (
        text
        if over <= 0
        else f"{text[: SHOWN_CHARACTERS // 2]} ... {over:,} characters ... {text[-(SHOWN_CHARACTERS // 2) :]}"
    )

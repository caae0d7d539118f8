"""Fill in the middle, for models that were trained to (Qwen2.5-Coder, StarCoder's kind): what goes
between a beginning and an end.

The prompt is `<|fim_prefix|>` BEGINNING `<|fim_suffix|>` END `<|fim_middle|>`, the beginning first,
as Qwen2.5-Coder's report has it (arXiv 2409.12186); other files come before it, each behind
`<|file_sep|>` and its name. The caller's text is words: special tokens in it are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwq.serve.errors import RequestRefused
from qwq.text.tokenizer import Tokenizer

KINDS = (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"))
ENDS = ("<|fim_pad|>", "<fim_pad>", "<|file_sep|>", "<file_sep>", "<|repo_name|>", "<repo_name>")
FILES, REPOSITORY = ("<|file_sep|>", "<file_sep>"), ("<|repo_name|>", "<repo_name>")


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens of one vocabulary. `ends` end what is filled in."""

    prefix: int
    suffix: int
    middle: int
    ends: tuple[int, ...]
    file: int | None
    repository: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Infill | None:
        """None where the vocabulary has no such tokens."""
        added = tokenizer.added_tokens

        def first(names: Sequence[str]) -> int | None:
            return next((added[n] for n in names if n in added), None)

        kind = next((k for k in KINDS if all(t in added for t in k)), None)
        if kind is None:
            return None
        ids = [added[t] for t in kind]
        ends = tuple(dict.fromkeys([*ids, *(added[t] for t in ENDS if t in added)]))
        return cls(ids[0], ids[1], ids[2], ends, first(FILES), first(REPOSITORY))

    def ids(
        self,
        tokenizer: Tokenizer,
        beginning: str,
        end: str,
        files: Sequence[tuple[str, str]] = (),
        room: int | None = None,
    ) -> list[int]:
        """The prompt in tokens. `files` are names and texts; the first ones are left out where
        `room` tokens do not hold all.
        """
        own = [self.prefix, *tokenizer.encode(beginning), self.suffix, *tokenizer.encode(end), self.middle]
        if not files or self.file is None:
            return own
        head = [] if self.repository is None else [self.repository, *tokenizer.encode("project\n")]
        pieces: list[list[int]] = []
        left = None if room is None else room - len(own) - len(head) - 1 - len(tokenizer.encode("current\n"))
        for name, text in reversed(files):
            piece = [self.file, *tokenizer.encode(f"{name}\n{text}\n")]
            if left is not None and len(piece) > left:
                break
            left = None if left is None else left - len(piece)
            pieces.insert(0, piece)
        if not pieces:
            return own
        return [*head, *(i for piece in pieces for i in piece), self.file, *tokenizer.encode("current\n"), *own]


def infill_of(tokenizer: Tokenizer, param: str) -> Infill:
    """RequestRefused where the model cannot."""
    infill = Infill.of(tokenizer)
    if infill is None:
        raise RequestRefused(
            f"{param}: this model has no tokens for filling in the middle ({', '.join(KINDS[0])}): use a Coder model",
            param,
        )
    return infill

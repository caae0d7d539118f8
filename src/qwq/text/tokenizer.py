"""Tokenizer: byte-level BPE, trained here or read from a Hugging Face folder.

Special tokens are read from text only where the text is ours: `encode_rendered` is for what a chat
template wrote, `encode` is for anybody else's words, in which `<|im_end|>` is ten ordinary
characters. Covers byte-level BPE (Qwen, Llama 3, SmolLM and what `train_bpe` makes). Does not cover
SentencePiece models, whose tokens depend on where a piece of text begins; they are refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from qwq.errors import ConfigError, ModelError
from qwq.model.config import ModelConfig
from qwq.model.model_folder import eos_ids, read_json

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
# Marked as not special, as in Qwen's vocabularies: text decoded without special tokens keeps them.
MARKUP_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
NUM_BYTES = 256

# Qwen2's split into words before BPE: contractions, words with the one sign before them, single
# digits, runs of signs, line breaks, blanks. Kept as it is so that other programs (llama.cpp) know
# the tokenizer by name.
WORD_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Text to ids and back.

    `eos_ids` end a completion, the usual one first. `chat_template` is the Jinja source that came
    with the tokenizer, if one did. `config` is its tokenizer_config.json, kept so that saving gives
    it back.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        eos_ids: Sequence[int] = (),
        config: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.config = dict(config or {})
        self.chat_template = chat_template
        added = inner.get_added_tokens_decoder()
        self.added_tokens: dict[str, int] = {token.content: i for i, token in sorted(added.items())}
        self.special_tokens: tuple[str, ...] = tuple(
            token.content for _, token in sorted(added.items()) if token.special
        )

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same merges without any added token: what encodes text that may not contain one."""
        data = json.loads(self._inner.to_str())
        return tokenizers.Tokenizer.from_str(json.dumps(data | {"added_tokens": [], "post_processor": None}))

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the highest id plus one."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`, nothing added.

        Special tokens written out in it are ordinary text unless `allow_special`.
        """
        return (self._inner if allow_special else self._plain).encode(text, add_special_tokens=False).ids

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of text that a chat template wrote: special tokens in it are special tokens."""
        return self.encode(text, allow_special=True)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`. Bytes that are no UTF-8 (a character cut in half) become U+FFFD."""
        return self._inner.decode(list(ids), skip_special_tokens=skip_special)

    def token_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; empty for an id without a token.

        Text is these laid end to end, as UTF-8.
        """
        byte_of = {c: b for b, c in enumerate(_byte_alphabet())}
        out = [b""] * self.vocab_size
        for token, i in self._inner.get_vocab(with_added_tokens=False).items():
            out[i] = bytes(byte_of[c] for c in token) if all(c in byte_of for c in token) else token.encode()
        for token, i in self.added_tokens.items():
            out[i] = token.encode()
        return out

    def token(self, id: int) -> str | None:
        """The vocabulary's own spelling of an id, None where it has none."""
        return self._inner.id_to_token(id)

    @property
    def named_specials(self) -> dict[str, str]:
        """The tokens that tokenizer_config.json names (`bos_token`, `eos_token`, ...), as chat
        templates may ask for them.
        """
        named = {}
        for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = self.config.get(key)
            value = value.get("content") if isinstance(value, Mapping) else value
            if value is not None:
                named[key] = value
        return named

    @cached_property
    def adds_bos(self) -> bool:
        """Whether other programs put the beginning token before a plain text: tokenizer.json's
        post-processor does it, or tokenizer_config.json asks for it.
        """
        bos = self.named_specials.get("bos_token")
        if bos is None:
            return False
        plain, whole = (self._inner.encode("x", add_special_tokens=special).ids for special in (False, True))
        return bool(self.config.get("add_bos_token")) or (len(whole) > len(plain) and whole[0] == self.token_id(bos))

    def check_fits(self, config: ModelConfig) -> None:
        """ModelError where an id of this tokenizer has no row in the model's embedding."""
        if self.vocab_size > config.vocab_size:
            raise ModelError(
                f"tokenizer has {self.vocab_size} tokens, model's vocabulary is {config.vocab_size}: "
                "use the tokenizer that the model was trained with"
            )

    def to_json(self) -> dict[str, Any]:
        """The contents of tokenizer.json."""
        return json.loads(self._inner.to_str())

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja; transformers'
        AutoTokenizer reads them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._inner.to_str(pretty=True) + "\n", encoding="utf-8")
        # auto_map would make other programs look for code to run.
        config = {k: v for k, v in self.config.items() if k not in ("chat_template", "auto_map")}
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read a Hugging Face folder.

        ModelError where there is no tokenizer, or one this class does not cover.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"no tokenizer at {path}: `qwq train tiny --until pretrain` writes one for its run, "
                "a downloaded model brings its own"
            )
        data = read_json(path)
        decoder = data.get("decoder") or {}
        if "ByteLevel" not in json.dumps(decoder) or (data.get("model") or {}).get("type") != "BPE":
            raise ModelError(
                f"{path}: not a byte-level BPE tokenizer (decoder {decoder.get('type')}): "
                "use a model of the Qwen or Llama 3 kind"
            )
        try:
            inner = tokenizers.Tokenizer.from_str(json.dumps(data))
        except Exception as error:  # noqa: BLE001  # the library raises nothing narrower
            raise ModelError(f"{path}: not a tokenizer ({error}): fetch or write the folder again") from None
        config_path = folder / "tokenizer_config.json"
        config = read_json(config_path) if config_path.is_file() else {}
        tokenizer = cls(inner, config=config, chat_template=_stored_template(folder, config))
        tokenizer.eos_ids = tuple(dict.fromkeys(_stored_eos(folder, tokenizer)))
        return tokenizer


def _byte_alphabet() -> list[str]:
    """The characters that byte-level BPE writes bytes 0 to 255 as: printable Latin-1 as itself, the
    others from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(NUM_BYTES)]


class TextStream:
    """Token ids in, text out as soon as its characters are whole.

    The parts laid end to end are `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this token completes; empty inside a character.

        An id beyond the vocabulary is no text.
        """
        return self._decoder.decode(self._bytes[id]) if id < len(self._bytes) else ""

    def push_all(self, ids: Iterable[int]) -> str:
        """The text that these tokens complete; the same as pushing them one by one, in one call."""
        return self._decoder.decode(b"".join(self._bytes[i] for i in ids if i < len(self._bytes)))

    def finish(self) -> str:
        """What is left of a character that never got whole, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _stored_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, or the template inside tokenizer_config.json (of several, the one named
    default).
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    stored = config.get("chat_template")
    if isinstance(stored, list):
        named = {entry["name"]: entry["template"] for entry in stored}
        return named.get("default")
    return stored


def _stored_eos(folder: Path, tokenizer: Tokenizer) -> Iterable[int]:
    yield from eos_ids(folder)
    named = tokenizer.named_specials.get("eos_token")
    if named is not None and (i := tokenizer.token_id(named)) is not None:
        yield i


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with `vocab_size` tokens: 256 bytes, then merges, then the special tokens
    last.

    Every text round-trips exactly, as every byte is a token and nothing is normalised; digits stay
    single. The same texts in the same order give the same tokenizer. Special tokens written out in
    the texts (as a chat template writes them) take no part in the merges. There may be fewer tokens
    than asked for where the texts are too few. ConfigError where `vocab_size` leaves no room for
    merges.
    """
    added = (*CONTROL_TOKENS, *MARKUP_TOKENS)
    least = NUM_BYTES + len(added)
    if vocab_size <= least:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: {NUM_BYTES} bytes and {len(added)} special tokens take {least}, "
            f"so give more than {least}"
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORD_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    separator = re.compile("|".join(map(re.escape, added)))
    inner.train_from_iterator((piece for text in texts for piece in separator.split(text) if piece), trainer)
    inner.add_special_tokens([tokenizers.AddedToken(t, normalized=False, special=True) for t in CONTROL_TOKENS])
    inner.add_tokens([tokenizers.AddedToken(t, normalized=False, special=False) for t in MARKUP_TOKENS])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
    }
    eos = [inner.token_to_id(name) for name in (TURN_END, END_OF_TEXT)]
    return Tokenizer(
        inner, eos_ids=[i for i in eos if i is not None], config=config, chat_template=default_template_source()
    )


def default_template_source() -> str:
    """The chat template of the models we train (chatml.jinja)."""
    return files("qwq.text").joinpath("chatml.jinja").read_text(encoding="utf-8")

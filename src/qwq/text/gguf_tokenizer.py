"""The tokenizer and the chat template that a GGUF file carries in its metadata, read and written.

Covers byte-level BPE (`tokenizer.ggml.model` gpt2) with the ways to split words that PRE_TOKENIZERS
names. Does not cover SentencePiece and the others, as tokenizer.py does not. A GGUF file says less
than a tokenizer.json; what is made of that:

1. It names its split into words (`tokenizer.ggml.pre`) and does not give it. The patterns are
   llama.cpp's (src/llama-vocab.cpp) and those of the models' own tokenizer.json. A file without a
   name is refused: a guess would give other tokens.
2. It does not record Unicode normalisation (Qwen's tokenizer.json asks for NFC). There is none
   here, nor in llama.cpp.
3. Control tokens (type 3) are special; user-defined ones (type 4) are added tokens that are not
   special.
4. Unused tokens (type 5) at the end only pad the embedding, and are left out.
5. It names one or two end tokens. END_TOKENS end a turn too where they are control tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from qwq.errors import ModelError, nearest
from qwq.text.template import ChatFormat, ChatTemplate
from qwq.text.tokenizer import END_OF_TEXT, TURN_END, WORD_SPLIT, Tokenizer

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Each pattern cuts the pieces that those before it left.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    "qwen2": (WORD_SPLIT,),
    "deepseek-r1-qwen": (WORD_SPLIT,),
    "llama-bpe": (LLAMA3_SPLIT,),
    "smollm": (r"\p{N}", GPT2_SPLIT),
    "gpt-2": (GPT2_SPLIT,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", "[0-9][0-9][0-9]"),
}
WHOLE_WORDS = ("llama-bpe",)  # a word that is a token is taken whole, whatever its merges say
END_TOKENS = (TURN_END, END_OF_TEXT, "<|eot_id|>")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
TYPES = range(7)
# Special tokens by their name in tokenizer_config.json, and in GGUF.
NAMED = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
# Without these a vocabulary is not of byte-level BPE, and text would be lost without a word.
# Published ones lack rare bytes.
NEEDED = {chr(b) for b in range(0x21, 0x7F)} | {"Ġ", "Ċ"}


class Metadata(Protocol):
    """What is read of a `qwq.model.gguf.GGUFFile`."""

    @property
    def path(self) -> Path: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


def tokenizer_from_gguf(file: Metadata) -> Tokenizer:
    """The tokenizer of an open GGUF file.

    ModelError where it is of a kind not covered here, or its tables do not agree.
    """
    read = _TokenizerMetadata(file)
    if (kind := read.text("model")) != "gpt2":
        raise ModelError(
            f"{file.path}: tokenizer {kind[:40]!r} is no byte-level BPE: use a model of the Qwen or Llama 3 kind"
        )
    if (pre := read.text("pre")) not in PRE_TOKENIZERS:
        raise read.fault(f"pre-tokenizer {pre[:40]!r} is not known here, {nearest(pre[:40], PRE_TOKENIZERS)}")
    tokens, types = read.tokens()
    inner = _byte_level_bpe(read, tokens, types, pre)
    _add_tokens(read, inner, tokens, types)
    ids = {name: read.token_id(f"{key}_token_id", len(tokens)) for name, key in NAMED.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: None if i is None else tokens[i] for name, i in ids.items()}
    eos = [ids["eos_token"], read.token_id("eot_token_id", len(tokens))]
    eos += [i for i in map(inner.token_to_id, END_TOKENS) if i is not None and types[i] == CONTROL]
    return Tokenizer(inner, eos_ids=[i for i in eos if i is not None], config=config, chat_template=read.template())


def _byte_level_bpe(
    read: _TokenizerMetadata, tokens: Sequence[str], types: Sequence[int], pre: str
) -> tokenizers.Tokenizer:
    """Vocabulary, merges and pre-tokenizer, without the added tokens."""
    last = max((i for i, t in enumerate(types) if t not in (CONTROL, USER_DEFINED)), default=-1)
    # Added tokens behind all others stay out of the merges' vocabulary, as in a tokenizer.json: no
    # word can be one.
    vocab = {token: i for i, token in enumerate(tokens[: last + 1])}
    if missing := sorted(NEEDED - vocab.keys()):
        raise read.fault(f"the vocabulary has no token for {missing[0]!r}, byte-level BPE has one for every letter")
    try:
        inner = tokenizers.Tokenizer(models.BPE(vocab, read.merges(), ignore_merges=pre in WHOLE_WORDS))
    except Exception as error:  # noqa: BLE001  # the library raises nothing narrower
        raise read.fault(f"the merges do not go with the vocabulary ({error})") from None
    splits = [pre_tokenizers.Split(tokenizers.Regex(p), "isolated") for p in PRE_TOKENIZERS[pre]]
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    return inner


def _add_tokens(
    read: _TokenizerMetadata, inner: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]
) -> None:
    added = [i for i, t in enumerate(types) if t in (CONTROL, USER_DEFINED)]
    inner.add_tokens([AddedToken(tokens[i], normalized=False, special=types[i] == CONTROL) for i in added])
    for i in added:
        if inner.token_to_id(tokens[i]) != i:
            raise read.fault(f"added token {i} is {tokens[i][:40]!r}, a text of its own is expected")


def chat_format_from_gguf(file: Metadata) -> ChatFormat:
    """Tokenizer and template of an open GGUF file. ModelError where either is missing."""
    tokenizer = tokenizer_from_gguf(file)
    if tokenizer.chat_template is None:
        raise ModelError(f"{file.path}: no chat template (tokenizer.chat_template): use the file of an instruct model")
    return ChatFormat(tokenizer, ChatTemplate(tokenizer.chat_template))


# -- writing ---------------------------------------------------------------------------------------


def tokenizer_metadata(tokenizer: Tokenizer, num_rows: int, where: str) -> dict[str, Any]:
    """The metadata `tokenizer.ggml.*` of a tokenizer, and its chat template, as llama.cpp reads
    them.

    `num_rows` is the number of rows of the embedding; ids without a token are unused ones. `where`
    names the model in messages. ModelError where GGUF cannot say how text is split into words.
    """
    data = tokenizer.to_json()
    added = {entry["id"]: entry for entry in data["added_tokens"]}
    tokens = [f"[PAD{i}]" for i in range(num_rows)]
    types = np.full(num_rows, UNUSED, np.int32)
    for token, i in data["model"]["vocab"].items():
        tokens[i], types[i] = token, NORMAL
    for i, entry in added.items():
        tokens[i], types[i] = entry["content"], CONTROL if entry["special"] else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    out: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split_name(data, where),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": tokenizer.adds_bos,
    }
    for name, token in tokenizer.named_specials.items():
        if (id := tokenizer.token_id(token)) is not None:
            out[f"tokenizer.ggml.{NAMED[name]}_token_id"] = id
    if tokenizer.chat_template is not None:
        out["tokenizer.chat_template"] = tokenizer.chat_template
    return out


def _split_name(data: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name for how a tokenizer.json splits text into words."""
    stages = data["pre_tokenizer"] or {}
    patterns: list[str | None] = []
    for stage in stages.get("pretokenizers", [stages]):
        if stage.get("type") == "Split" and stage["behavior"] == "Isolated" and not stage["invert"]:
            patterns += stage["pattern"].values()
        elif stage.get("type") == "Digits" and stage["individual_digits"]:
            patterns.append(r"\p{N}")
        elif stage.get("type") == "ByteLevel" and not stage["add_prefix_space"]:
            patterns += [GPT2_SPLIT] if stage["use_regex"] else []
        else:
            patterns.append(None)
    name = next((name for name, known in PRE_TOKENIZERS.items() if list(known) == patterns), None)
    normalizer = (data.get("normalizer") or {}).get("type", "NFC")
    whole_words = bool(data["model"].get("ignore_merges"))
    if name is None or normalizer != "NFC" or whole_words != (name in WHOLE_WORDS):
        raise ModelError(
            f"{where}: llama.cpp has no name for how this tokenizer splits text, it knows "
            f"{', '.join(PRE_TOKENIZERS)}: export a folder"
        )
    return name


# -- reading ---------------------------------------------------------------------------------------


class _TokenizerMetadata:
    """The tokenizer's metadata, with types and ranges checked."""

    def __init__(self, file: Metadata) -> None:
        self.file = file

    def fault(self, message: str) -> ModelError:
        return ModelError(f"{self.file.path}: {' '.join(message.split())}: fetch or write it again")

    def get(self, key: str) -> Any:
        value = self.file.metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            raise self.fault(f"no metadata tokenizer.ggml.{key}, a tokenizer needs it")
        return value

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise self.fault(f"tokenizer.ggml.{key} is a {type(value).__name__}, a text is expected")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        if not isinstance(value, list):
            raise self.fault(f"tokenizer.ggml.{key} is a {type(value).__name__}, a list of texts is expected")
        return value

    def tokens(self) -> tuple[list[str], list[int]]:
        """Texts and types by id, without the unused ones at the end."""
        tokens, types = self.texts("tokens"), self.get("token_type")
        if getattr(types, "shape", None) != (len(tokens),):
            num = len(types) if hasattr(types, "__len__") else 1
            raise self.fault(f"{len(tokens)} tokens have {num} token types, one for each is expected")
        types = types.tolist()
        if odd := [t for t in types if t not in TYPES]:
            raise self.fault(f"token type {odd[0]}, whole numbers from 0 to {TYPES[-1]} are expected")
        while types and types[-1] == UNUSED:
            types.pop()
        tokens = tokens[: len(types)]
        if len(set(tokens)) < len(tokens):
            ids = {token: i for i, token in enumerate(tokens)}
            first = next(i for i, token in enumerate(tokens) if ids[token] != i)
            raise self.fault(
                f"tokens {first} and {ids[tokens[first]]} are both {tokens[first][:40]!r}, all differ in a vocabulary"
            )
        return tokens, types

    def merges(self) -> Sequence[tuple[str, str]]:
        merges = self.texts("merges")
        if odd := [merge for merge in merges if merge.count(" ") != 1]:
            raise self.fault(f"merge {odd[0][:40]!r} is not of two tokens, every merge is")
        return [(a, b) for a, _, b in (merge.partition(" ") for merge in merges)]

    def token_id(self, key: str, num_tokens: int) -> int | None:
        value = self.file.metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and (type(value) is not int or not 0 <= value < num_tokens):
            raise self.fault(
                f"tokenizer.ggml.{key} is {str(value)[:40]}, a token from 0 to {num_tokens - 1} is expected"
            )
        return value

    def template(self) -> str | None:
        value = self.file.metadata.get("tokenizer.chat_template")
        if value is not None and not isinstance(value, str):
            raise self.fault(f"tokenizer.chat_template is a {type(value).__name__}, a text is expected")
        return value

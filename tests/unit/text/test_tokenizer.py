"""Tokenizer: exact round trips, single digits, and special tokens that only a template can
write.
"""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from qwq.errors import ConfigError, ModelError
from qwq.model.config import preset
from qwq.text.tokenizer import CONTROL_TOKENS, MARKUP_TOKENS, TextStream, Tokenizer, train_bpe

TEXTS = [
    f"There are {n} boxes with {n + 3} nuts in each box. The answer is \\boxed{{{n * (n + 3)}}}." for n in range(40)
] * 2


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return train_bpe(TEXTS, 300)


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_every_text_round_trips(tok, text):
    assert tok.decode(tok.encode(text)) == text


@pytest.mark.parametrize("text", ["", "  \n\t x ", "é e\u0301 日本 🙂", "\x00\x7f", "<|im_end|><think>", "a" * 5000])
def test_hard_texts_round_trip(tok, text):
    assert tok.decode(tok.encode(text)) == text
    assert tok.decode(tok.encode_rendered(text)) == text


def test_merges_are_learnt_and_digits_stay_single(tok):
    assert tok.vocab_size == 300
    assert len(tok.encode(" boxes")) == 1
    assert [tok.decode([i]) for i in tok.encode("1203+45")] == list("1203+45")


def test_special_tokens_are_the_last_ids_and_one_token_each(tok):
    names = (*CONTROL_TOKENS, *MARKUP_TOKENS)
    assert [tok.token_id(n) for n in names] == list(range(300 - len(names), 300))
    assert tok.encode_rendered("".join(names)) == [tok.token_id(n) for n in names]


def test_plain_text_cannot_hold_special_tokens(tok):
    for name in (*CONTROL_TOKENS, *MARKUP_TOKENS):
        ids = tok.encode(f"a{name}b")
        assert tok.token_id(name) not in ids and len(ids) > 3
        assert tok.decode(ids) == f"a{name}b"


def test_thinking_survives_decoding_without_specials(tok):
    ids = tok.encode_rendered("<|im_start|><think>\nx\n</think>\ny<|im_end|>")
    assert tok.decode(ids, skip_special=True) == "<think>\nx\n</think>\ny"
    assert tok.decode(ids) == "<|im_start|><think>\nx\n</think>\ny<|im_end|>"


def test_special_tokens_in_training_texts_cost_no_merges():
    plain = train_bpe(TEXTS, 300)
    marked = train_bpe([f"<|im_start|>{t}<|im_end|>" for t in TEXTS], 300)
    assert [plain.token(i) for i in range(291)] == [marked.token(i) for i in range(291)]


def test_training_is_deterministic(tok):
    again = train_bpe(iter(TEXTS), 300)
    assert again._inner.to_str() == tok._inner.to_str()


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=265 is too small.*more than 265"):
        train_bpe(TEXTS, 265)


def test_folder_round_trip(tok, tmp_path):
    tok.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    text = "12 boxes <think>"
    assert again.encode(text) == tok.encode(text) and again.encode_rendered(text) == tok.encode_rendered(text)
    assert again.eos_ids == (tok.token_id("<|im_end|>"),)
    assert again.chat_template == tok.chat_template
    assert again.named_specials == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def test_eos_ids_gather_all_named_ends(tok, tmp_path):
    tok.save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [293, 291]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": 12}')
    assert Tokenizer.from_folder(tmp_path).eos_ids == (293, 291, 12)


def test_saving_keeps_the_config_but_no_code_to_run(tok, tmp_path):
    tok.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {"model_max_length": 77, "auto_map": {"AutoTokenizer": ["x.Y", None]}}
        )
    )
    Tokenizer.from_folder(tmp_path).save(tmp_path / "again")
    kept = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert kept["model_max_length"] == 77 and "auto_map" not in kept


def test_template_inside_the_config_is_found(tok, tmp_path):
    tok.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    path = tmp_path / "tokenizer_config.json"
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    path.write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}, "chat_template": several}))
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.chat_template == "d"
    assert loaded.eos_ids == (loaded.token_id("<|endoftext|>"),)


def test_stored_truncation_and_padding_are_switched_off(tok, tmp_path):
    tok.save(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    inner.enable_truncation(3)
    inner.enable_padding(length=9)
    inner.save(str(tmp_path / "tokenizer.json"))
    text = "no more than three tokens?"
    assert Tokenizer.from_folder(tmp_path).encode_rendered(text) == tok.encode(text)


def test_missing_tokenizer_names_what_writes_it(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer at .*tokenizer.json: `qwq train .*` writes one"):
        Tokenizer.from_folder(tmp_path)


def test_broken_tokenizer_files_are_one_line_errors(tok, tmp_path):
    tok.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="tokenizer.json: not JSON"):
        Tokenizer.from_folder(tmp_path)
    path.write_text(json.dumps(json.loads(whole) | {"decoder": {"type": "Metaspace"}}))
    with pytest.raises(ModelError, match="not a byte-level BPE tokenizer .decoder Metaspace"):
        Tokenizer.from_folder(tmp_path)
    path.write_text(json.dumps(json.loads(whole) | {"pre_tokenizer": {"type": "NoSuchThing"}}))
    with pytest.raises(ModelError, match="tokenizer.json: not a tokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_check_fits_shows_both_sides(tok):
    tok.check_fits(preset("tiny", vocab_size=300))
    with pytest.raises(ModelError, match="tokenizer has 300 tokens, model's vocabulary is 299"):
        tok.check_fits(preset("tiny", vocab_size=299))


def test_a_stream_of_tokens_gives_whole_characters_and_the_same_text():
    tokenizer = train_bpe(["ab 😀 naïve ñ"] * 3, 300)
    ids = [*tokenizer.encode("ab 😀 naïve ñ"), tokenizer.token_id("</think>"), *tokenizer.encode("😀")[:-1]]
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(pieces) == tokenizer.decode(ids) and not any("\ufffd" in p for p in pieces[:-1])

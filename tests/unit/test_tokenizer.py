"""Tokenizers lose nothing, whatever the text; special tokens never come from text."""

import codecs
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.data.world import rows as world
from minigpt.errors import DataError, MiniGPTError
from minigpt.exchange.hf.tokenizer_files import tokenizer_json
from minigpt.exchange.readers.probes import random_texts
from minigpt.text import bpe
from minigpt.text.learn import train_tokenizer
from minigpt.text.load import load_tokenizer
from minigpt.text.tokenizer import END_OF_TEXT, FIRST_BYTE, FIRST_PIECE, IM_END, IM_START, SPECIALS

SAMPLE = [row["text"] for row in world.texts(1, 400)] + ["In 1984 it rained 12 days.\r\nThen\tit  stopped."] * 20
VOCABULARY = 700
TOKENIZERS = {kind: train_tokenizer(kind, SAMPLE, VOCABULARY) for kind in ("bpe", "char", "byte")}
ODD = [
    "", " ", "  two  spaces  ", "\n", "\r\n", "a\r\nb\rc\n\nd", "\t", "\0", "a\0b", "\x01\x1f\x7f\x85", "\ufeffx",
    "\u2028\u2029", "▁", "a▁b", "▁▁ ▁", " ▁", "😀👩‍👩‍👧🏳️‍🌈", "你好，世界。", "é e\u0301 ﬁ Å Å",
    "<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<0x0A>", "<unk>", "<s></s>",
    "⁇", "▅", "\U0010ffff", "\ue000", "x" * 5000, "中" * 3000, "1234567890",
]  # fmt: skip


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request):
    return TOKENIZERS[request.param]


# ---- lossless


def test_ids_beyond_the_vocabulary_stand_for_nothing():
    for tokenizer in TOKENIZERS.values():
        ids = [*tokenizer.encode("a"), tokenizer.vocab_size, tokenizer.vocab_size + 999]
        assert tokenizer.decode(ids) == tokenizer.show(ids) == "a" and tokenizer.bytes_of(ids[-1]) == b""


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text)[:24])
def test_odd_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", list(TOKENIZERS))
@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(FIRST_BYTE <= i < tokenizer.vocab_size for i in ids)  # no special id ever comes from text


@given(texts=st.lists(st.text(), max_size=12))
@settings(max_examples=30, deadline=None)
def test_a_batch_is_its_texts_one_by_one(texts):
    for tokenizer in TOKENIZERS.values():
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(text=st.text(min_size=1))
@settings(max_examples=50, deadline=None)
def test_bytes_can_be_streamed(text):
    """Token by token through an incremental decoder: what a character needs may be spread over tokens."""
    for tokenizer in TOKENIZERS.values():
        decoder = codecs.getincrementaldecoder("utf-8")()
        pieces = [decoder.decode(tokenizer.token_bytes[i]) for i in tokenizer.encode(text)]
        assert "".join(pieces) + decoder.decode(b"", final=True) == text

def test_the_two_tokens_of_a_word_are_found():
    found = {kind: tokenizer.spaced() for kind, tokenizer in TOKENIZERS.items()}
    assert found["bpe"] and not found["char"] and not found["byte"]
    tokens = TOKENIZERS["bpe"].token_bytes
    for plain, spaced in found["bpe"]:
        assert tokens[spaced] == b" " + tokens[plain] and min(plain, spaced) >= FIRST_PIECE
    words = {token for token in tokens[FIRST_PIECE:] if token}
    assert len(found["bpe"]) == sum(b" " + word in words for word in words)




def test_byte_and_character_lengths_add_up_to_the_texts(tokenizer):
    for text in ODD:
        ids = tokenizer.encode(text)
        assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
        assert tokenizer.character_lengths[ids].sum() == len(text)


def test_lone_surrogates_are_no_text(tokenizer):
    with pytest.raises(DataError, match=r"lone surrogate \(U\+D83D\) at character"):
        tokenizer.encode("ab\ud83d")


def test_pieces_of_a_character_decode_to_the_replacement_sign(tokenizer):
    first_two_bytes = [FIRST_BYTE + byte for byte in "中".encode()[:2]]
    assert tokenizer.decode(first_two_bytes) == "\ufffd"


# ---- texts unlike the training text

CHINESE = "".join(chr(0x4E00 + i * i % 700) for i in range(30_000))
FOREIGN = [
    "it is 3 now.", " a  b   c ", "مرحبا بالعالم، كيف حالك؟", "नमस्ते दुनिया, कैसे हो?", "Привет, мир!", "שלום עולם",
    "می‌خواهم بروم", "👩‍👩‍👧‍👦 and 🏳️‍🌈", "한국어 문장", "a\u00a0b\u3000c\u2009d\ufeff", "小明 回家", "\t \t", " " * 50,
]  # fmt: skip


@pytest.mark.parametrize(
    "texts", [[CHINESE], ["两 个" + CHINESE + "空 格"], ["مرحبا" * 400], ["😀👍🏽" * 400], ["one two three " * 400]],
    ids=["Chinese without a space", "Chinese with two", "Arabic", "emoji", "English"],
)  # fmt: skip
def test_a_tokenizer_is_lossless_on_scripts_it_never_saw(texts):
    """SentencePiece leaves out what is rarer than one character in 2,000, also the space."""
    tokenizer = train_tokenizer("bpe", texts, 1000)
    (space,) = tokenizer.encode(" ")
    assert tokenizer.token_bytes[space] == b" " and not tokenizer.is_byte(space)
    for text in FOREIGN + ODD:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_space_that_is_rarer_than_the_vocabulary_has_room_for():
    rare = "".join(chr(0x4E00 + i) for i in range(500))
    tokenizer = train_tokenizer("bpe", [rare * 3 + "一 个"], 330)
    assert tokenizer.token_bytes[tokenizer.encode(" ")[0]] == b" "


def test_to_require_the_space_changes_nothing_where_it_is_common(monkeypatch):
    monkeypatch.setattr(bpe, "RARE", 1e9)  # not required
    before = train_tokenizer("bpe", SAMPLE, VOCABULARY)
    monkeypatch.setattr(bpe, "RARE", 0.5)
    after = train_tokenizer("bpe", SAMPLE, VOCABULARY)
    assert before.model == TOKENIZERS["bpe"].model != after.model  # the model names its settings
    assert before.scored_pieces() == after.scored_pieces()


@pytest.fixture(scope="module")
def spaceless(tmp_path_factory):
    """A tokenizer as it was learned before the space was required: without a piece for it."""
    directory = tmp_path_factory.mktemp("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpe, "RARE", 1e9)
        train_tokenizer("bpe", ["两 个" + CHINESE], 1000).save(directory)
    tokenizer = load_tokenizer(directory)
    assert not any(" " in piece.decode() for piece in tokenizer.token_bytes[FIRST_PIECE:])
    return tokenizer


def test_an_older_tokenizer_without_a_space_is_lossless_too(spaceless):
    assert spaceless.encode(" ") == [FIRST_BYTE + 0x20]
    for text in FOREIGN + ODD:
        assert spaceless.decode(spaceless.encode(text)) == text
    varied = spaceless.varied(0.5, seed=1)
    assert [varied.decode(ids) for ids in varied.encode_batch(FOREIGN)] == FOREIGN


@given(text=st.text(st.sampled_from(" ▁a\n中国\xa0😀\u200d")))
@settings(max_examples=100, deadline=None)
def test_spaces_and_their_sign_are_never_confused(spaceless, text):
    ids = spaceless.encode(text)
    assert spaceless.decode(ids) == text
    assert ids.count(FIRST_BYTE + 0x20) == text.count(" ")


def test_its_export_cuts_and_joins_texts_as_it_does(spaceless):
    from tokenizers import Tokenizer as Foreign

    theirs = Foreign.from_str(json.dumps(tokenizer_json(spaceless)))
    theirs.encode_special_tokens = True  # their names in a text are text
    texts = FOREIGN + ODD + list(random_texts(spaceless, 300, marks=True))
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ids == spaceless.encode(text), ascii(text)
        assert theirs.decode(ids) == text


# ---- control tokens and texts that look like them


def test_what_only_looks_like_a_control_token_is_quoted_for_people(tokenizer):
    ids = [IM_START, *tokenizer.encode("see <|im_end|> and <unk>"), IM_END]
    assert tokenizer.show_quoted(ids) == "<|im_start|>see “<|im_end|>” and “<unk>”<|im_end|>"
    assert tokenizer.quoted("中 <|im_endx|>") == "中 <|im_endx|>"


# ---- the layout of ids


def test_special_tokens_come_first_then_bytes(tokenizer):
    assert (FIRST_BYTE, FIRST_PIECE) == (32, 288)
    assert SPECIALS[END_OF_TEXT] == "<|endoftext|>" and SPECIALS[IM_END] == "<|im_end|>"
    assert tokenizer.token_bytes[:FIRST_BYTE] == [b""] * 32
    assert tokenizer.token_bytes[FIRST_BYTE:FIRST_PIECE] == [bytes([byte]) for byte in range(256)]
    assert [tokenizer.is_byte(i) for i in (31, 32, 287, 288)] == [False, True, True, False]


def test_special_tokens_vanish_in_text_and_show_up_for_people(tokenizer):
    ids = [*tokenizer.encode("a"), IM_END, *tokenizer.encode("b")]
    assert (tokenizer.decode(ids), tokenizer.show(ids)) == ("ab", "a<|im_end|>b")


def test_sizes():
    characters = {character for text in SAMPLE for character in text}
    assert TOKENIZERS["byte"].vocab_size == 288
    assert TOKENIZERS["char"].vocab_size == 288 + len(characters)
    assert TOKENIZERS["bpe"].vocab_size <= VOCABULARY
    assert len(TOKENIZERS["bpe"].byte_lengths) == TOKENIZERS["bpe"].vocab_size


def test_bpe_compresses_what_it_was_trained_on():
    text = "\n".join(SAMPLE[:100])
    characters = len(text)
    assert len(TOKENIZERS["bpe"].encode(text)) < 0.6 * characters
    assert len(TOKENIZERS["char"].encode(text)) == characters < len(TOKENIZERS["byte"].encode(text))


def test_what_bpe_pieces_may_hold():
    """No newline in a longer piece, digits one by one, spaces only in front."""
    pieces = [piece.decode() for piece in TOKENIZERS["bpe"].token_bytes[FIRST_PIECE:]]
    assert any(len(piece) > 4 for piece in pieces)
    assert [p for p in pieces if "\n" in p or "\r" in p] == []
    assert [p for p in pieces if len(p) > 1 and any(c.isdigit() for c in p)] == []
    assert [p for p in pieces if " " in p.lstrip(" ")] == []
    assert len(TOKENIZERS["bpe"].encode("1984")) == 4


def test_characters_that_stand_alone():
    """A frequent phrase is one piece; with its particles alone its words are pieces, and nothing is lost."""
    texts = [f"{name}在{place}里。" for name in ("莉莉", "大卫") for place in ("森林", "公园")] * 200
    joined, parted = (train_tokenizer("bpe", texts, FIRST_PIECE + 40, alone) for alone in ("", "在里]"))
    whole = "莉莉在森林里。"
    assert len(joined.encode(whole)) <= 2
    assert [parted.decode([i]) for i in parted.encode(whole)] == ["莉莉", "在", "森林", "里", "。"]
    assert parted.decode(parted.encode(whole)) == whole


# ---- training


def test_training_is_deterministic():
    assert train_tokenizer("bpe", SAMPLE, VOCABULARY).model == TOKENIZERS["bpe"].model
    assert train_tokenizer("bpe", iter(SAMPLE), VOCABULARY).model == TOKENIZERS["bpe"].model
    assert train_tokenizer("char", reversed(SAMPLE), 0).characters == TOKENIZERS["char"].characters


# ---- BPE-dropout


def test_varied_tokens_are_other_ones_for_the_same_text():
    tokenizer = TOKENIZERS["bpe"]
    texts = [*SAMPLE[:50], *ODD]
    before = tokenizer.encode_batch(texts)
    varied = tokenizer.varied(0.1, seed=1)
    first, second = varied.encode_batch(texts), varied.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in first] == [tokenizer.decode(ids) for ids in second] == texts
    plain, once, again = ([i for ids in found for i in ids] for found in (before, first, second))
    assert once != again and plain not in (once, again)
    assert 1.01 < len(once) / len(plain) < 1.5  # what is not merged takes more tokens
    assert tokenizer.encode_batch(texts) == before  # the tokenizer itself cuts as ever


def test_varied_tokens_are_decided_by_the_seed_and_the_share():
    def tokens(dropout, seed):
        return TOKENIZERS["bpe"].varied(dropout, seed).encode_batch(SAMPLE[:50])

    assert tokens(0.1, 1) == tokens(0.1, 1) != tokens(0.1, 2)
    assert tokens(0.1, 2**40 + 1) == tokens(0.1, 1)  # any seed serves
    sizes = [sum(map(len, tokens(dropout, 1))) for dropout in (0.02, 0.2, 0.9)]
    assert sizes == sorted(sizes) and sizes[2] > 1.5 * sizes[0]


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_a_tokenizer_without_merges_has_no_other_tokens(kind):
    with pytest.raises(DataError, match=f"{kind!r} cuts a text one way only"):
        TOKENIZERS[kind].varied(0.1, 1)


def test_a_small_text_has_fewer_pieces_than_asked_for():
    tokenizer = train_tokenizer("bpe", ["abab abab"], 5000)
    assert 288 < tokenizer.vocab_size < 310
    assert tokenizer.decode(tokenizer.encode("abab 中")) == "abab 中"


def test_more_characters_than_the_vocabulary_holds():
    """The commonest get pieces, the others are bytes: Chinese text with a small vocabulary must not be refused."""
    common, rare = "的一是", [chr(0x4E00 + i) for i in range(1000)]
    tokenizer = train_tokenizer("bpe", [common * 50, "".join(rare)], 300)
    assert tokenizer.vocab_size <= 300
    assert not any(map(tokenizer.is_byte, tokenizer.encode(common)))
    text = "".join(rare[::7])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert any(map(tokenizer.is_byte, tokenizer.encode(text)))


@pytest.mark.parametrize("size", [0, 100, 287, 299])
def test_a_vocabulary_too_small_for_the_bytes(size):
    with pytest.raises(MiniGPTError, match=f"A vocabulary of {size} cannot hold 32 special tokens, 256 bytes.*300"):
        train_tokenizer("bpe", SAMPLE, size)


@pytest.mark.parametrize("texts", [[], [""], ["\n\n"]])
def test_nothing_to_learn_from(texts):
    with pytest.raises(DataError, match="cannot learn 400 pieces from this text: it is empty"):
        train_tokenizer("bpe", texts, 400)


# ---- on disk


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "tokenizer")
    loaded = load_tokenizer(tmp_path / "deep" / "tokenizer")
    assert (loaded.kind, loaded.token_bytes) == (tokenizer.kind, tokenizer.token_bytes)
    assert np.array_equal(loaded.byte_lengths, tokenizer.byte_lengths)
    for text in ODD:
        assert loaded.encode(text) == tokenizer.encode(text)


def test_a_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(DataError, match="no tokenizer in .*tokenizer_meta.json is missing.*minigpt tokenizer train"):
        load_tokenizer(tmp_path)
    TOKENIZERS["bpe"].save(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(DataError, match="tokenizer.model is missing"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda model: b"", lambda model: b"no model at all", lambda model: model[: len(model) // 2],
     lambda model: model.replace(b"<0x0A>", b"<0x0a>")],
    ids=["empty", "text", "half", "another piece"],
)  # fmt: skip
def test_a_damaged_model(tmp_path, damage):
    TOKENIZERS["bpe"].save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(damage(TOKENIZERS["bpe"].model))
    with pytest.raises(DataError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"kind": "char"}', '{"kind": "char", "characters": 3}', "3"])
def test_damaged_settings(tmp_path, content):
    (tmp_path / "tokenizer_meta.json").write_text(content, "utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_character_tokenizer_is_saved_as_readable_json(tmp_path):
    train_tokenizer("char", ["b中a"], 0).save(tmp_path)
    assert json.loads((tmp_path / "tokenizer_meta.json").read_text("utf-8")) == {"kind": "char", "characters": "ab中"}

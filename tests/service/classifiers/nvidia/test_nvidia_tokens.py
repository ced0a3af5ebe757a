"""Text becomes the ids that NVIDIA's code makes of it, whatever the text; a tokenizer of another model is refused."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline
from tokenizers import models, normalizers

from benchmarks.random_classifier import GEOMETRIES
from benchmarks.random_tokenizer import double_array, pieces_for, sentencepiece_of, tokenizer_of
from service.classifiers.nvidia.tokens import CLS, SEP, UNK, Tokenizer, load_tokenizer
from service.errors import UnusableWeights
from tests.service.classifiers.nvidia.prompts import PROMPTS

ROWS = GEOMETRIES["tiny"].vocabulary
every_prompt = pytest.mark.parametrize("text", PROMPTS.values(), ids=PROMPTS.keys())


@pytest.fixture(scope="module")
def tiny(model_folders):
    return load_tokenizer(model_folders["tiny"], ROWS)


@pytest.fixture(scope="module")
def as_published(model_folders):
    """The file through the tokenizers package, with the truncation that NVIDIA's code asks for."""
    pipeline = Pipeline.from_file(str(model_folders["tiny"] / "tokenizer.json"))
    pipeline.enable_truncation(512)
    return lambda text: pipeline.encode(text)  # noqa: PLW0108 - a bound method prints the whole vocabulary


@pytest.fixture(scope="module")
def from_pieces(model_folders, tmp_path_factory):
    """The tokenizer of a folder that has `spm.model` alone."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "spm.model").write_bytes((model_folders["tiny"] / "spm.model").read_bytes())
    return load_tokenizer(folder, ROWS)


@every_prompt
def test_trap_tokenizer_drift_ids_are_those_of_the_file(tiny, as_published, text):
    encoded = tiny.encode(text)
    assert encoded.ids == as_published(text).ids
    assert encoded.tokens == len(encoded.ids) <= 512


@every_prompt
def test_pieces_alone_make_the_same_ids(tiny, from_pieces, text):
    assert from_pieces.encode(text).ids == tiny.encode(text).ids


@given(st.text(max_size=80))
def test_any_text_has_the_ids_of_the_file(tiny, as_published, from_pieces, text):
    assert tiny.encode(text).ids == as_published(text).ids == from_pieces.encode(text).ids


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("（全角）！？，：；", "(全角)!?,:;"),
        ("１２３ＡＢＣ", "123ABC"),
        ("ﾊﾝｶｸ", "ハンカク"),
        ("ﬁnancial ½ ① Ⅳ ㎏ ™", "financial 1⁄2 1 IV kg TM"),
        ("a\x00b\x01c\x07d\x7fe", "a\x00bcde"),  # NUL alone is kept
        ("next\u0085line\u2028para\u3000wide\u200bzero", "next\u0085line para wide zero"),
        ("  many   \t\r\n spaces  ", "many spaces"),
        ("e\u0301", "é"),
    ],
)
def test_trap_tokenizer_drift_compatibility_and_control_characters_are_mapped(tiny, written, meant):
    """As SentencePiece's rule "nmt_nfkc" maps them."""
    assert tiny.encode(written).ids == tiny.encode(meant).ids


def test_trap_tokenizer_drift_the_library_gives_other_ids(tiny, model_folders):
    """Its fifth version ignores the file's normaliser: why it is not used, and what it saves is refused."""
    from transformers import DebertaV2Tokenizer

    library = DebertaV2Tokenizer.from_pretrained(model_folders["tiny"])
    different = [name for name, text in PROMPTS.items() if library(text)["input_ids"][:512] != tiny.encode(text).ids]
    assert "full width" in different
    assert "control" in different
    assert "question" not in different


def test_trap_tokenizer_drift_a_file_saved_by_the_library_is_refused(tiny_folder):
    from transformers import DebertaV2Tokenizer

    DebertaV2Tokenizer.from_pretrained(tiny_folder).save_pretrained(tiny_folder)
    with pytest.raises(UnusableWeights, match=r"tokenizer\.json was saved again .* spm\.model"):
        load_tokenizer(tiny_folder, ROWS)
    (tiny_folder / "tokenizer.json").unlink()
    assert load_tokenizer(tiny_folder, ROWS).encode("（").ids == [CLS, *load_pieces(tiny_folder, "("), SEP]


def load_pieces(folder, text):
    return load_tokenizer(folder, ROWS).encode(text).ids[1:-1]


@pytest.mark.parametrize(("name", "number"), [("[PAD]", 0), ("[CLS]", 1), ("[SEP]", 2), ("[UNK]", 3), ("[MASK]", 698)])
def test_trap_special_tokens_in_the_text_are_kept(tiny, name, number):
    """Parity: NVIDIA's code makes control tokens of them as well."""
    assert number in tiny.encode(f"one {name} two").ids[1:-1]
    assert number not in tiny.encode(f"one {name.lower()} two").ids[1:-1]


def test_nothing_to_read_is_framed_all_the_same(tiny):
    for text in ("", " ", "\n\t \u3000", "\x01\x02"):
        encoded = tiny.encode(text)
        assert (encoded.ids[0], encoded.ids[-1], encoded.truncated) == (CLS, SEP, False)
    assert tiny.encode("").ids == [CLS, SEP]


def test_lone_surrogates_are_replaced_and_pairs_joined(tiny):
    assert tiny.encode("a\ud800b").ids == tiny.encode("a\ufffdb").ids
    assert tiny.encode("\udc00").ids == tiny.encode("\ufffd").ids
    assert tiny.encode("ends \ud83d").ids == tiny.encode("ends \ufffd").ids
    assert tiny.encode("\ud83d\ude00 x").ids == tiny.encode("😀 x").ids


@given(st.text(alphabet=st.characters(categories=["Cs", "L"]), max_size=20))
def test_no_text_is_too_strange(tiny, text):
    assert tiny.encode(text).ids[-1] == SEP


# -- long texts


def test_the_end_of_a_long_text_is_cut_off(tiny):
    whole = tiny.encode("a " * 510)
    assert (whole.tokens, whole.truncated) == (512, False)
    longer = tiny.encode("a " * 511)
    assert (longer.ids, longer.truncated) == (whole.ids, True)


STRANGE = ["word", "[SEP]", "（全角）", "a\u0301 \u0300b", " ", "\n", "\u0600 x", "x" * 90, "!", "\ufeff", "字"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(STRANGE), min_size=1, max_size=8), st.integers(4_000, 20_000))
def test_only_the_head_of_a_very_long_text_is_encoded_but_with_the_same_ids(tiny, as_published, parts, length):
    text = (" ".join([*parts, ""]) * length)[:length]
    encoded = tiny.encode(text)
    expected = as_published(text)
    assert encoded.ids == expected.ids
    assert encoded.truncated == bool(expected.overflowing)


def test_a_very_long_text_costs_no_more_than_a_long_one(model_folders):
    lengths = []

    class Counting:
        """The pipeline, with the lengths of the texts that it was given."""

        def __init__(self, pipeline):
            self.pre_tokenizer = pipeline.pre_tokenizer
            self.pipeline = pipeline

        def encode_batch_fast(self, texts, **how):
            lengths.append(len(texts[0]))
            return self.pipeline.encode_batch_fast(texts, **how)

    path = model_folders["tiny"] / "tokenizer.json"
    tokenizer = Tokenizer(Counting(Pipeline.from_file(str(path))), path)
    assert tokenizer.encode("some words " * 100_000).truncated
    assert sum(lengths) < 5_000


def test_others_run_while_a_long_text_is_encoded(tiny):
    """The package keeps all threads waiting in its call for one text, not in that for a batch."""
    turns = 0
    done = threading.Event()

    def take_turns():
        nonlocal turns
        while not done.wait(0.001):
            turns += 1

    other = threading.Thread(target=take_turns)
    other.start()
    before = turns
    tiny.encode("ab" * 400_000)
    during = turns - before
    done.set()
    other.join()
    assert during > 5


def test_with_a_budget_the_middle_is_cut_out(tiny):
    text = " ".join("abcdefghijklmnopqrstuvwxyz")
    ids = tiny.encode(text).ids[1:-1]
    encoded = tiny.encode(text, budget=9)
    assert (encoded.ids, encoded.truncated) == ([CLS, *ids[:4], *ids[-3:], SEP], True)
    assert tiny.encode(text, budget=511) == tiny.encode(text)
    assert tiny.encode("a", budget=9).truncated is False


@pytest.mark.parametrize("budget", [0, 512, 4_000])
def test_a_budget_of_all_tokens_is_none(tiny, budget):
    assert tiny.encode(PROMPTS["over 512 tokens"], budget=budget) == tiny.encode(PROMPTS["over 512 tokens"])


@given(st.integers(2, 511), st.integers(0, 4_000))
def test_a_budget_is_kept(tiny, budget, words):
    encoded = tiny.encode("start " + "ab " * words + "end", budget=budget)
    assert encoded.tokens <= budget
    assert (encoded.ids[0], encoded.ids[-1]) == (CLS, SEP)
    if encoded.truncated:
        assert encoded.tokens == budget


def test_a_budget_keeps_both_ends_of_a_very_long_text(tiny):
    encoded = tiny.encode("alpha " + "mid " * 50_000 + "omega", budget=20)
    alpha, omega = tiny.encode("alpha").ids[1:-1], tiny.encode("omega").ids[1:-1]
    assert encoded.ids[1 : 1 + len(alpha)] == alpha
    assert encoded.ids[-1 - len(omega) : -1] == omega


def test_threads_share_a_tokenizer(tiny):
    texts = list(PROMPTS.values())
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(tiny.encode, texts * 3))
    assert together == [tiny.encode(text) for text in texts] * 3


# -- files


def test_truncation_and_padding_saved_in_the_file_do_not_matter(tiny, tiny_folder):
    path = tiny_folder / "tokenizer.json"
    pipeline = Pipeline.from_file(str(path))
    pipeline.enable_truncation(8, direction="left")
    pipeline.enable_padding(length=512)
    pipeline.save(str(path))
    assert load_tokenizer(tiny_folder, ROWS).encode(PROMPTS["story"]) == tiny.encode(PROMPTS["story"])


def test_without_any_tokenizer_file_the_model_is_refused(tiny_folder):
    for name in ("tokenizer.json", "spm.model"):
        (tiny_folder / name).unlink()
    with pytest.raises(UnusableWeights, match=r"neither tokenizer\.json nor spm\.model"):
        load_tokenizer(tiny_folder, ROWS)


@pytest.mark.parametrize("name", ["tokenizer.json", "spm.model"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a tokenizer"),
        (b"{}", "cannot be read as a tokenizer"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "cannot be read as a tokenizer"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tiny_folder, name, content, message):
    (tiny_folder / "tokenizer.json").unlink()
    path = tiny_folder / name
    path.write_bytes(content)
    with pytest.raises(UnusableWeights, match=message) as refused:
        load_tokenizer(tiny_folder, ROWS)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "spm.model"])
def test_a_truncated_tokenizer_is_refused(tiny_folder, name):
    if name == "spm.model":
        (tiny_folder / "tokenizer.json").unlink()
    path = tiny_folder / name
    whole = path.read_bytes()
    for end in (len(whole) // 3, len(whole) - 3):
        path.write_bytes(whole[:end])
        with pytest.raises(UnusableWeights, match="cannot be read as a tokenizer"):
            load_tokenizer(tiny_folder, ROWS)


@given(st.binary(max_size=60))
def test_pieces_of_any_content_are_refused_in_words(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "spm.model").write_bytes(content)
    with pytest.raises(UnusableWeights, match=r"spm\.model"):
        load_tokenizer(folder, ROWS)


def save(folder, pieces):
    tokenizer_of(pieces).save(str(folder / "tokenizer.json"))


def test_another_models_special_ids_are_refused(tiny_folder):
    pieces = pieces_for(ROWS)
    save(tiny_folder, [pieces[1], pieces[0], *pieces[2:]])
    with pytest.raises(UnusableWeights, match=r"\[PAD\] has id 1, expected 0: this is the tokenizer of another model"):
        load_tokenizer(tiny_folder, ROWS)


def test_a_vocabulary_larger_than_the_table_is_refused(tiny_folder):
    save(tiny_folder, pieces_for(ROWS + 10))
    with pytest.raises(UnusableWeights, match=r"'\[MASK\]' has id 708, but the embedding table has only 700 rows"):
        load_tokenizer(tiny_folder, ROWS)


def test_a_tokenizer_that_does_not_frame_texts_is_refused(tiny_folder):
    path = tiny_folder / "tokenizer.json"
    content = json.loads(path.read_bytes())
    content["post_processor"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnusableWeights, match=r"expected \[CLS\] \(1\) at its start and \[SEP\] \(2\) at its end"):
        load_tokenizer(tiny_folder, ROWS)


def test_pieces_of_another_kind_of_model_are_refused(tiny_folder):
    (tiny_folder / "tokenizer.json").unlink()
    pieces = tiny_folder / "spm.model"
    pieces.write_bytes(pieces.read_bytes() + b"\x12\x02\x18\x02")  # trainer: model type 2, byte pairs
    with pytest.raises(UnusableWeights, match="model of type 2, expected 1"):
        load_tokenizer(tiny_folder, ROWS)


def test_pieces_without_a_map_of_characters_keep_them(tmp_path):
    whole = sentencepiece_of(pieces_for(ROWS))
    (tmp_path / "spm.model").write_bytes(whole[: whole.rindex(b"\x1a", 0, whole.rindex(b"nmt_nfkc"))])
    assert UNK in load_tokenizer(tmp_path, ROWS).encode("（").ids


def test_a_tokenizer_that_joins_words_is_encoded_whole(tmp_path):
    pieces = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0), (" ", -1.0), ("a", -1.0), (" a a", -1.0)]
    pipeline = Pipeline(models.Unigram(pieces, unk_id=3))
    pipeline.normalizer = normalizers.Strip()
    pipeline.post_processor = tokenizer_of(pieces_for(ROWS)).post_processor
    pipeline.save(str(tmp_path / "tokenizer.json"))
    text = "a " * 5_000
    pipeline.enable_truncation(512)
    assert load_tokenizer(tmp_path, ROWS).encode(text).ids == pipeline.encode(text).ids


def test_a_double_array_holds_what_was_put_in():
    words = {b"a": 1, b"ab": 2, b"abc": 3, b"\xff\x01": 4, b"\x80": 5}
    units = double_array(words)

    def matches(text):
        unit = units[0]
        place = (unit >> 10) << ((unit & 1 << 9) >> 6)
        for byte in text:
            place ^= byte
            unit = units[place]
            if unit & (1 << 31 | 255) != byte:
                return
            place ^= (unit >> 10) << ((unit & 1 << 9) >> 6)
            if unit >> 8 & 1:
                yield units[place] & (1 << 31) - 1

    assert list(matches(b"abcd")) == [1, 2, 3]
    assert [list(matches(word)) for word in (b"b", b"\xff", b"\xff\x01", b"\x80\x80")] == [[], [], [4], [5]]

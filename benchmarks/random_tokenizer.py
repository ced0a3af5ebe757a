"""A tokenizer like that of NVIDIA's classifier: the same pipeline and files, pieces from Python's own documentation.

It is a unigram model in the form of SentencePiece (`spm.model`) and of the tokenizers package (`tokenizer.json`), which
must encode equally. The map of characters follows SentencePiece's rule "nmt_nfkc": compatibility characters become
plain ones, control characters vanish, whitespace of every kind becomes a space.
"""

import math
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Pieces = list[tuple[str, float]]  # with log probabilities; the place in the list is the id

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
MASK = "[MASK]"  # after the last piece, and not one of them

_PLAIN = [
    *map(chr, range(33, 127)),
    *"的一是不了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会",
]
_SCRIPTS = ((0xA1, 0x250), (0x370, 0x530), (0x600, 0x6FF), (0x900, 0x980), (0xE01, 0xE5C), (0x2010, 0x2060),
            (0x3001, 0x3100), (0x4E00, 0x9FA6), (0xAC00, 0xD7A4), (0x1F300, 0x1F650))  # fmt: skip
_LONGEST = 14  # characters of a piece


def pieces_for(rows: int) -> Pieces:
    """Pieces for a table of so many rows; as with the real one, the mask's row follows and the last ones are unused."""
    room = rows - max(2, rows // 1281) - len(SPECIAL)
    counts = _counts()
    total = sum(counts.values())
    chosen = ["▁", *_PLAIN]
    if room > 60_000:
        chosen += [chr(code) for first, end in _SCRIPTS for code in range(first, end) if chr(code).isprintable()]
        chosen = list(dict.fromkeys(chosen))
    known = set(chosen)
    chosen += [word for word in _by_use() if word not in known]
    if len(chosen) < room:
        raise ValueError(f"{len(chosen)} pieces can be made, {room} are needed")
    special = [(name, 0.0) for name in SPECIAL]
    return special + [(piece, round(math.log(max(1, counts[piece]) / total), 5)) for piece in chosen[:room]]


@cache
def _counts() -> Counter[str]:
    """How often parts of words occur in Python's documentation."""
    words = Counter(f"▁{word}" for page in topics.values() for word in page.split() if word.isascii())
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for start in range(len(word)):
            for end in range(start + 2, min(len(word), start + _LONGEST) + 1):
                counts[word[start:end]] += times
    return counts


@cache
def _by_use() -> list[str]:
    """Parts of words, those first that spare the most characters."""
    counts = _counts()
    return sorted(counts, key=lambda piece: (-counts[piece] * len(piece), piece))


def write_tokenizer(folder: Path, pieces: Pieces) -> None:
    """Write `tokenizer.json` and `spm.model`."""
    tokenizer_of(pieces).save(str(folder / "tokenizer.json"))
    (folder / "spm.model").write_bytes(sentencepiece_of(pieces))


def tokenizer_of(pieces: Pieces) -> Tokenizer:
    """The pipeline of the hub's `tokenizer.json` over given pieces."""
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Precompiled(characters_map()), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=name == "[UNK]") for name in (*SPECIAL, MASK)])
    return tokenizer


def sentencepiece_of(pieces: Pieces) -> bytes:
    """The same model as SentencePiece stores it (its `sentencepiece_model.proto`)."""
    unknown, control, normal = 2, 3, 1
    kinds = {"[UNK]": unknown, "[PAD]": control, "[CLS]": control, "[SEP]": control}
    parts = [
        _field(
            1, _field(1, piece.encode()) + _tag(2, 5) + struct.pack("<f", score) + _field(3, kinds.get(piece, normal))
        )
        for piece, score in pieces
    ]
    trainer = (
        _field(3, 1) + _field(40, 3) + _field(41, 1) + _field(42, 2) + _field(43, 0)
    )  # unigram; ids of special pieces
    normalizer = _field(1, b"nmt_nfkc") + _field(2, characters_map())
    return b"".join(parts) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _tag(number, 0) + _varint(value)
    return _tag(number, 2) + _varint(len(value)) + value


def _tag(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


@cache
def characters_map() -> bytes:
    """SentencePiece's compiled map: the size of a trie, the trie of texts that change, and what they become."""
    values: dict[bytes, int] = {}
    replacements = bytearray()
    places: dict[str, int] = {}
    for text, replacement in sorted(_changes()):
        if replacement not in places:
            places[replacement] = len(replacements)
            replacements += replacement.encode() + b"\0"
        values[text.encode()] = places[replacement]
    trie = double_array(values)
    return struct.pack("<I", 4 * len(trie)) + struct.pack(f"<{len(trie)}I", *trie) + bytes(replacements)


def _changes() -> Iterator[tuple[str, str]]:
    vanish = [*range(1, 9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F]
    space = [0x9, 0xA, 0xC, 0xD, 0x61C, 0x1680, 0x200B, 0x200C, 0x200E, 0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD]
    yield from ((chr(code), "") for code in vanish)
    yield from ((chr(code), " ") for code in space)
    for code in range(0x80, 0x30000):
        character = chr(code)
        if unicodedata.category(character) in {"Cs", "Cn"} or code in {0xFF5E, *space, *vanish}:
            continue
        plain = unicodedata.normalize("NFKC", character)
        if plain != character:
            yield character, plain
        apart = unicodedata.normalize("NFD", character)
        if len(apart) == 2 and unicodedata.normalize("NFC", apart) == character and code < 0x2000:
            yield apart, character


def double_array(values: dict[bytes, int]) -> list[int]:
    """A trie as the Darts library lays it out: 32 bits a node, of which a reader walks from byte to byte by XOR.

    A node at `p` has its children at `p ^ offset ^ byte`; its value, where it has one, stands at `p ^ offset`.
    """
    root: dict[int, dict] = {}
    for key, value in values.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[-1] = value
    units = [0] * 256
    used = {0}
    bases: set[int] = set()
    start = 1
    waiting: list[tuple[dict, int, int]] = [(root, 0, 0)]
    while waiting:
        node, place, label = waiting.pop()
        steps = [max(byte, 0) for byte in node]
        candidate = start
        while (base := candidate ^ steps[0]) in bases or any(base ^ step in used for step in steps):
            candidate += 1
        start = max(start, candidate - 256)  # nearly full below: looking there again costs more than the gaps
        bases.add(base)
        while len(units) <= base | 255:
            units.extend([0] * 256)
        units[place] = (place ^ base) << 10 | (256 if -1 in node else 0) | label
        used.update(base ^ step for step in steps)
        for byte, child in node.items():
            if byte < 0:
                units[base] = child | 1 << 31
            else:
                waiting.append((child, base ^ byte, byte))
    return units

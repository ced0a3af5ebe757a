"""The tokenizer pipeline from a SentencePiece model file, for folders without `tokenizer.json`.

The file is a protocol buffer of which four things matter: the pieces with their scores, which piece is the unknown one,
the kind of model, and the map of characters.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

MASK = "[MASK]"  # stands after the pieces

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model
_TEXT, _SCORE, _KIND = 1, 2, 3  # fields of a piece
_UNKNOWN = 2  # kind of a piece
_MODEL_TYPE, _UNIGRAM = 3, 1  # field of the trainer, and its default
_CHARACTERS_MAP = 2  # field of the normalizer
_VARINT, _EIGHT_BYTES, _TEXT_OR_MESSAGE, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def pipeline_of(path: Path) -> Tokenizer:
    """What the library makes of the file: strip, map characters, collapse spaces, mark words, [CLS] and [SEP] around.

    Raises ValueError for a file that is not a unigram model.
    """
    pieces: list[tuple[str, float]] = []
    unknown = None
    model_type: int | bytes = _UNIGRAM
    characters_map = b""
    for field, message in _fields(path.read_bytes()):
        if not isinstance(message, bytes):
            continue
        if field == _PIECE:
            values = dict(_fields(message))
            text, score = values.get(_TEXT), values.get(_SCORE, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError(f"piece {len(pieces)} has no text")
            if values.get(_KIND) == _UNKNOWN:
                unknown = len(pieces)
            pieces.append((text.decode("utf-8"), struct.unpack("<f", score)[0]))
        elif field == _TRAINER:
            model_type = dict(_fields(message)).get(_MODEL_TYPE, _UNIGRAM)
        elif field == _NORMALIZER:
            found = dict(_fields(message)).get(_CHARACTERS_MAP, b"")
            characters_map = found if isinstance(found, bytes) else b""
    if not pieces or unknown is None:
        raise ValueError(f"it has {len(pieces)} pieces and {'no' if unknown is None else 'an'} unknown one")
    if model_type != _UNIGRAM:
        raise ValueError(f"it is a model of type {model_type!r}, expected {_UNIGRAM} (unigram)")
    pipeline = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    mapping = [normalizers.Precompiled(characters_map)] if characters_map else []
    pipeline.normalizer = normalizers.Sequence([
        normalizers.Strip(), *mapping, normalizers.Replace(Regex(" {2,}"), " "),
    ])  # fmt: skip
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pipeline.decoder = decoders.Metaspace(prepend_scheme="always")
    pipeline.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, pipeline.token_to_id(name) or 0) for name in ("[CLS]", "[SEP]")],
    )
    # The library looks for [UNK] in the mapped text, for the others in the text as it came.
    names = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", MASK)
    pipeline.add_special_tokens([AddedToken(name, normalized=name == "[UNK]") for name in names])
    return pipeline


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer. Raises ValueError where it ends too early."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while place < len(message) and shift < 64:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError(f"its field at byte {place} has no end")

    while place < len(message):
        tag = varint()
        wire_type = tag & 7
        if wire_type == _VARINT:
            yield tag >> 3, varint()
            continue
        if wire_type == _TEXT_OR_MESSAGE:
            length = varint()
        elif wire_type in {_FOUR_BYTES, _EIGHT_BYTES}:
            length = 4 if wire_type == _FOUR_BYTES else 8
        else:
            raise ValueError(f"its byte {place} is not a field of a protocol buffer")
        if place + length > len(message):
            raise ValueError(f"it ends at byte {len(message)} within a field of {length} bytes")
        yield tag >> 3, message[place : place + length]
        place += length

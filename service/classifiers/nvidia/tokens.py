"""Text to token ids, exactly as NVIDIA's code does it, by the `tokenizers` package alone.

Not by the library that NVIDIA's code used: since its fifth version that replaces the normaliser in the file by one of
its own, and full-width, compatibility and control characters get other ids.
"""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Pipeline

from service.classifiers.nvidia.geometry import POSITIONS
from service.classifiers.nvidia.sentencepiece_file import pipeline_of
from service.classifiers.nvidia.weights_file import refuse_pointer
from service.errors import UnusableWeights

TOKENIZER_FILE = "tokenizer.json"
PIECES_FILE = "spm.model"
PAD, CLS, SEP, UNK = 0, 1, 2, 3
_SPECIAL = {"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNK}
_WINDOW = 4_096  # characters of a long text encoded at first; English has four or five a token


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one text, [CLS] first and [SEP] last."""

    ids: list[int]
    truncated: bool  # some tokens of the text were left out

    @property
    def tokens(self) -> int:
        """How many the model reads, with [CLS] and [SEP]."""
        return len(self.ids)


class Tokenizer:
    """Encodes text for one model. Without state between calls, safe from several threads."""

    def __init__(self, pipeline: Pipeline, path: Path) -> None:
        self.path = path  # the file that it was read from
        self._pipeline = pipeline
        self._words_apart = _encodes_words_apart(pipeline)

    def encode(self, text: str, *, budget: int = 0) -> Encoded:
        """Ids of a text of any length, at most 512: the rest is cut off at the end, as NVIDIA does.

        With a `budget` at most that many, and what is cut out is the middle: not what NVIDIA's code would answer.
        Names of special tokens in the text ("[SEP]") become those tokens, as with NVIDIA's code. Surrogates that
        have no partner are read as U+FFFD.
        """
        text = _encodable(text)
        if 0 < budget < POSITIONS:
            return self._edges(text, max(0, budget - 2))
        room = POSITIONS - 2
        ids = self._head(text, room)
        return Encoded([CLS, *ids[:room], SEP], truncated=len(ids) > room)

    def _edges(self, text: str, room: int) -> Encoded:
        """Head and tail of a text, `room` tokens together."""
        long = len(text) > 2 * _WINDOW
        ids = self._ids(text[:_WINDOW]) + self._ids(text[-_WINDOW:]) if long else self._ids(text)
        if not long and len(ids) <= room:
            return Encoded([CLS, *ids, SEP], truncated=False)
        tail = room // 2
        return Encoded([CLS, *ids[: room - tail], *ids[len(ids) - tail :], SEP], truncated=True)

    def _head(self, text: str, room: int) -> list[int]:
        """The ids of a text, as many as there are or at least one more than `room`.

        Words are encoded one by one, so that the head of a long text, cut between two words, has the same ids alone.
        """
        window = _WINDOW
        while self._words_apart and window < len(text):
            end = _last_word_end(text, window)
            ids = self._ids(text[:end])
            if len(ids) > room:
                return ids
            window *= 4
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        # Of a batch, since only this call lets other threads run meanwhile.
        [encoding] = self._pipeline.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids


def _last_word_end(text: str, limit: int) -> int:
    """Where a space follows a plain character, at most at `limit`; 0 when nowhere."""
    end = text.rfind(" ", 0, limit)
    while end > 0 and not "!" <= text[end - 1] <= "~":  # a mark that joins the space may stand before it
        end = text.rfind(" ", 0, end)
    return max(0, end)


def _encodable(text: str) -> str:
    """The text with surrogates joined in pairs, and those left alone as U+FFFD: nothing else has an encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a model folder, for a table of `vocabulary` rows.

    `tokenizer.json`, or made from `spm.model` where that is absent. Raises UnusableWeights when both are, and for a
    tokenizer of another model.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        path = folder / PIECES_FILE
    if not path.is_file():
        raise UnusableWeights(
            f"{folder} has neither {TOKENIZER_FILE} nor {PIECES_FILE}: one of them is needed. Fetch the model again."
        )
    refuse_pointer(path)
    pipeline = _pipeline(path)
    _check(pipeline, path, vocabulary)
    return Tokenizer(pipeline, path)


def _pipeline(path: Path) -> Pipeline:
    try:
        if path.name == PIECES_FILE:
            return pipeline_of(path)
        pipeline = Pipeline.from_file(str(path))
    except Exception as error:  # the package raises bare ones
        raise UnusableWeights(f"{path} cannot be read as a tokenizer: {error}. Fetch the model again.") from error
    pipeline.no_padding()
    pipeline.no_truncation()
    return pipeline


def _check(pipeline: Pipeline, path: Path, vocabulary: int) -> None:
    for name, expected in _SPECIAL.items():
        found = pipeline.token_to_id(name)
        if found != expected:
            raise UnusableWeights(
                f"{path}: {name} has id {found}, expected {expected}: this is the tokenizer of another model."
            )
    ids = pipeline.get_vocab(with_added_tokens=True)
    token, largest = max(ids.items(), key=lambda item: item[1])
    if largest >= vocabulary:
        raise UnusableWeights(
            f"{path}: token {token!r} has id {largest}, but the embedding table has only {vocabulary} rows: "
            "tokenizer and weights are of different models."
        )
    framed = pipeline.encode("a").ids
    if len(framed) < 3 or framed[0] != CLS or framed[-1] != SEP:
        raise UnusableWeights(
            f"{path}: a text is encoded as {framed}, expected [CLS] ({CLS}) at its start and [SEP] ({SEP}) at its end."
        )
    normalizer = str(pipeline.normalizer)
    if "NFC(" in normalizer and "Precompiled(" not in normalizer:
        raise UnusableWeights(
            f"{path} was saved again by a library that replaced its normaliser (it has NFC where the model was trained "
            f"with a map of characters): fetch the original, or remove it and keep {PIECES_FILE}."
        )


def _encodes_words_apart(pipeline: Pipeline) -> bool:
    splitter = pipeline.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("a b")) == 2

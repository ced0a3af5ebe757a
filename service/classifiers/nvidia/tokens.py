"""Text to token ids, exactly as NVIDIA's code does it, by the `tokenizers` package alone."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer as Pipeline

from service.classifiers.nvidia.geometry import POSITIONS
from service.errors import UnusableWeights

TOKENIZER_FILE = "tokenizer.json"
PIECES_FILE = "spm.model"
PAD, CLS, SEP, UNK = 0, 1, 2, 3
_SPECIAL = {"[PAD]": PAD, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNK}


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

    def encode(self, text: str, *, budget: int = 0) -> Encoded:
        """Ids of a text of any length, at most 512: the rest is cut off at the end, as NVIDIA does.

        With a `budget` at most that many, and what is cut out is the middle: not what NVIDIA's code would answer.
        """
        most = min(budget, POSITIONS) if budget else POSITIONS
        ids: list[int] = self._pipeline.encode(_sendable(text), add_special_tokens=False).ids
        room = most - 2
        if len(ids) <= room:
            return Encoded([CLS, *ids, SEP], truncated=False)
        tail = room // 2 if most < POSITIONS else 0
        return Encoded([CLS, *ids[: room - tail], *ids[len(ids) - tail :], SEP], truncated=True)


def _sendable(text: str) -> str:
    """The text with surrogates joined in pairs, and those left alone as U+FFFD: nothing else can be encoded."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a model folder, checked against a table of `vocabulary` rows."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UnusableWeights(f"{path} is missing: fetch the model again.")
    try:
        pipeline = Pipeline.from_file(str(path))
    except Exception as error:
        raise UnusableWeights(f"{path} cannot be read as a tokenizer ({error}): fetch the model again.") from error
    pipeline.no_padding()
    pipeline.no_truncation()
    return Tokenizer(pipeline, path)

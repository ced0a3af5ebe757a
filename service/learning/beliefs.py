"""Beliefs as content: what a decision was taken on, written down so that it returns bit for bit, and named by it."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import msgspec

from bandit.posteriors import Beliefs, Estimate, Evidence, Regression

_KEPT = 4096
_LARGE_KEPT = 64  # of regressions, tens of kilobytes each; one is in use for each policy
_LINEAR = '["linear",'

_evidence = msgspec.json.Decoder(dict[str, Evidence])
_estimates = msgspec.json.Decoder(tuple[dict[str, Estimate]])
_regressions = msgspec.json.Decoder(tuple[Literal["linear"], dict[str, Regression]])


def encode(evidence: Mapping[str, Evidence]) -> str:
    """Evidence as canonical JSON: arms in order, arms without any left out."""
    known = {arm: evidence[arm] for arm in sorted(evidence) if evidence[arm] != Evidence()}
    return msgspec.json.encode(known).decode()


def encode_estimates(estimates: Mapping[str, Estimate]) -> str:
    """Estimates as canonical JSON; in a list, to be told from evidence."""
    return msgspec.json.encode([{arm: estimates[arm] for arm in sorted(estimates)}]).decode()


def encode_regressions(regressions: Mapping[str, Regression]) -> str:
    """Regressions as canonical JSON, named in a list."""
    return msgspec.json.encode(("linear", {arm: regressions[arm] for arm in sorted(regressions)})).decode()


def decode(content: str) -> Beliefs:
    """The beliefs that this content describes, bit for bit."""
    if content.startswith(_LINEAR):
        return _linear(content)
    if content.startswith("["):
        return Beliefs(version(content), {}, _estimates.decode(content)[0])
    return Beliefs(version(content), _evidence.decode(content))


@lru_cache(maxsize=16)  # one content stands for every cell
def _linear(content: str) -> Beliefs:
    return Beliefs(version(content), {}, {}, _regressions.decode(content)[1])


def version(content: str) -> str:
    """The name of a content."""
    return blake2b(content.encode(), digest_size=16).hexdigest()


class Contents:
    """The last 4,096 contents that were given out, 64 of regressions, by version: a decision's is stored with it."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, str] = OrderedDict()
        self._large: OrderedDict[str, str] = OrderedDict()

    def keep_estimates(self, estimates: Mapping[str, Estimate]) -> Beliefs:
        """Remember estimates as content; returns the beliefs it describes."""
        content = encode_estimates(estimates)
        beliefs = Beliefs(version(content), {}, estimates)
        self._remember(beliefs, content)
        return beliefs

    def keep_regressions(self, regressions: Mapping[str, Regression]) -> Beliefs:
        """Remember regressions as content; returns the beliefs it describes."""
        content = encode_regressions(regressions)
        beliefs = Beliefs(version(content), {}, {}, regressions)
        self._remember(beliefs, content)
        return beliefs

    def keep(self, content: str) -> Beliefs:
        """Remember a content; returns the beliefs it describes."""
        beliefs = decode(content)
        self._remember(beliefs, content)
        return beliefs

    def _remember(self, beliefs: Beliefs, content: str) -> None:
        large = content.startswith(_LINEAR)
        contents, kept = (self._large, _LARGE_KEPT) if large else (self._contents, _KEPT)
        contents[beliefs.version] = content
        contents.move_to_end(beliefs.version)
        if len(contents) > kept:
            contents.popitem(last=False)

    def get(self, wanted: str) -> str | None:
        """The content of a version; None when it is not remembered."""
        return self._contents.get(wanted) or self._large.get(wanted)

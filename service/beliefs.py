"""Beliefs as content: what a decision was taken on, written down so that it returns bit for bit, and named by it."""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from bandit.posteriors import Beliefs, Estimate, Evidence

_KEPT = 4096

_evidence = msgspec.json.Decoder(dict[str, Evidence])
_estimates = msgspec.json.Decoder(tuple[dict[str, Estimate]])


def encode(evidence: Mapping[str, Evidence]) -> str:
    """Evidence as canonical JSON: arms in order, arms without any left out."""
    known = {arm: evidence[arm] for arm in sorted(evidence) if evidence[arm] != Evidence()}
    return msgspec.json.encode(known).decode()


def encode_estimates(estimates: Mapping[str, Estimate]) -> str:
    """Estimates as canonical JSON; in a list, to be told from evidence."""
    return msgspec.json.encode([{arm: estimates[arm] for arm in sorted(estimates)}]).decode()


def decode(content: str) -> Beliefs:
    """The beliefs that this content describes, bit for bit."""
    if content.startswith("["):
        return Beliefs(version(content), {}, _estimates.decode(content)[0])
    return Beliefs(version(content), _evidence.decode(content))


def version(content: str) -> str:
    """The name of a content."""
    return blake2b(content.encode(), digest_size=16).hexdigest()


class Contents:
    """The last 4,096 contents that were given out, by version: a decision's is stored with it."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, str] = OrderedDict()

    def keep(self, content: str) -> Beliefs:
        """Remember a content; returns the beliefs it describes."""
        beliefs = decode(content)
        self._contents[beliefs.version] = content
        self._contents.move_to_end(beliefs.version)
        if len(self._contents) > _KEPT:
            self._contents.popitem(last=False)
        return beliefs

    def get(self, wanted: str) -> str | None:
        """The content of a version; None when it is not remembered."""
        return self._contents.get(wanted)

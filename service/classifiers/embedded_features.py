"""What the embedded classifier sees of a text: numbers of rows in its tables."""

import hashlib
from zlib import crc32

import numpy as np
import numpy.typing as npt

from service.classifiers.concepts import CONCEPTS
from service.classifiers.keywords import RULES
from service.classifiers.reading import HEAD_TOKENS, SIGNS, TAIL_TOKENS, ZONES, Reading
from service.classifiers.traditional import PAIRS

BUCKETS = 1 << 16
OPENING_TOKENS = 3
PAIR_DISTANCE = 8  # tokens between two clusters that say something together
PAIR_REACH = 6  # of the clusters that follow one, so many are looked at
MOST_PAIRED = 80
LISTS = len(RULES) + len(CONCEPTS)
DENSE_ROWS = LISTS * (len(ZONES) + 1) + len(SIGNS)

Rows = npt.NDArray[np.uint32]


def hashed_rows(reading: Reading) -> tuple[Rows, ...]:
    """Rows of the hashed table, in groups that weigh the same however many rows they hold.

    The first group: tokens and pairs of them at the head and the tail, where instructions stand. The second: the
    opening. A Chinese character is a token, so that pairs and triples are its character n-grams. The third, where there
    are any: pairs of word clusters that follow each other at the head or the tail, whatever the words between them.
    """
    tokens = reading.tokens
    if not tokens:
        return ()
    tail = tokens[max(HEAD_TOKENS, len(tokens) - TAIL_TOKENS) :]
    edge = tokens[:HEAD_TOKENS] + tail
    hashes = np.array([crc32(token.encode("utf-8", "surrogatepass")) for token in edge], dtype=np.uint32)
    opening = hashes[:OPENING_TOKENS]
    groups = (
        _buckets(np.concatenate([hashes * _A, hashes[:-1] * _B ^ hashes[1:] * _C])),
        _buckets(
            np.concatenate(
                [
                    opening * _D,
                    opening[:-1] * _E ^ opening[1:] * _A,
                    opening[:-2] * _B ^ opening[1:-1] * _D ^ opening[2:] * _C,
                ]
            )
        ),
    )
    pairs = _cluster_pairs(reading.concepts, len(tokens))
    return (*groups, _buckets(pairs * _F)) if len(pairs) else groups


def _cluster_pairs(concepts: list[tuple[int, int]], count: int) -> Rows:
    """Numbers of the ordered pairs, ascending, none twice."""
    tail_starts = count - TAIL_TOKENS
    edge = [found for found in concepts if found[0] < HEAD_TOKENS or found[0] >= tail_starts][:MOST_PAIRED]
    if len(edge) < 2:
        return np.zeros(0, dtype=np.uint32)
    found = np.array(edge + [(_FAR, 0)] * PAIR_REACH)
    following = np.arange(len(edge))[:, None] + _REACH
    distance = found[:, 0][following] - found[: len(edge), :1]
    codes = (found[: len(edge), 1:] << 8) + found[:, 1][following]
    return np.unique(codes[(distance > 0) & (distance <= PAIR_DISTANCE)]).astype(np.uint32)


_FAR = 1 << 20
_REACH = np.arange(1, PAIR_REACH + 1)

# Odd multipliers, one for every use of a hash, so that the same word falls into different rows; their products wrap.
_A, _B, _C, _D, _E, _F = (
    np.uint32(n) for n in (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1, 0x2545F491)
)
_SHIFT = np.uint32(15)
_BUCKET_SHIFT = np.uint32(32 - (BUCKETS.bit_length() - 1))


def _buckets(mixed: Rows) -> Rows:
    return ((mixed ^ mixed >> _SHIFT) * _A) >> _BUCKET_SHIFT


def dense_rows(reading: Reading) -> list[int]:
    """Rows of the dense table, ascending."""
    zones = len(ZONES)
    by_zone = [number * zones + zone for number, zone in reading.fired]
    anywhere = {LISTS * zones + number for number, _ in reading.fired}
    signs = [LISTS * (zones + 1) + sign for sign in reading.signs]
    return sorted([*by_zone, *anywhere, *signs])


def features_digest() -> str:
    """Changes when rows would mean something else, so that weights trained for other features are refused."""
    sizes = (BUCKETS, HEAD_TOKENS, TAIL_TOKENS, OPENING_TOKENS, PAIR_DISTANCE, PAIR_REACH, MOST_PAIRED)
    return hashlib.sha256(repr((RULES, CONCEPTS, PAIRS, ZONES, SIGNS, sizes)).encode()).hexdigest()

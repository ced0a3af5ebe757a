"""What the embedded classifier sees of a text: numbers of rows in its tables."""

import hashlib
from itertools import pairwise
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


def hashed_rows(reading: Reading) -> tuple[Rows, list[int]]:
    """Rows of the hashed table, and how many belong to each group; a group weighs the same whatever it holds.

    The first group: tokens and pairs of them at the head and the tail, where instructions stand. The second: the
    opening. A Chinese character is a token, so that pairs and triples are its character n-grams. The third, where there
    are any: pairs of word clusters that follow each other at the head or the tail, whatever the words between them.
    """
    tokens = reading.tokens
    if not tokens:
        return np.zeros(0, dtype=np.uint32), []
    edge = tokens[:HEAD_TOKENS] + tokens[max(HEAD_TOKENS, len(tokens) - TAIL_TOKENS) :]
    # No token holds a space, so that all are encoded at once.
    hashes = list(map(crc32, " ".join(edge).encode("utf-8", "surrogatepass").split(b" ")))
    opening, pairs = _opening(hashes[:OPENING_TOKENS]), _cluster_pairs(reading.concepts, len(tokens))
    words, others = np.array(hashes, dtype=np.uint32), np.array(opening + pairs, dtype=np.uint32)
    mixed = np.concatenate([words * _WORD_A, words[:-1] * _WORD_B ^ words[1:] * _WORD_C, others])
    rows = ((mixed ^ mixed >> _SHIFT) * _WORD_A) >> _BUCKET_SHIFT
    sizes = [2 * len(hashes) - 1, len(opening), len(pairs)]
    return rows, sizes if pairs else sizes[:2]


def _opening(hashes: list[int]) -> list[int]:
    """Single tokens, pairs and the triple."""
    mixed = [one * _D for one in hashes]
    mixed += [one * _E ^ other * _A for one, other in pairwise(hashes)]
    if len(hashes) == OPENING_TOKENS:
        mixed.append(hashes[0] * _B ^ hashes[1] * _D ^ hashes[2] * _C)
    return [number & _32_BITS for number in mixed]


def _cluster_pairs(concepts: list[tuple[int, int]], count: int) -> list[int]:
    """Numbers of the ordered pairs, ascending, none twice."""
    tail_starts = count - TAIL_TOKENS
    edge = [found for found in concepts if found[0] < HEAD_TOKENS or found[0] >= tail_starts][:MOST_PAIRED]
    codes = set()
    for number, (position, first) in enumerate(edge, 1):
        farthest = position + PAIR_DISTANCE
        for other, second in edge[number : number + PAIR_REACH]:
            if other > farthest:
                break
            if other > position:
                codes.add(first << 8 | second)
    return [code * _F & _32_BITS for code in sorted(codes)]


# Odd multipliers, one for every use of a hash, so that the same word falls into different rows; their products wrap.
_A, _B, _C, _D, _E, _F = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x165667B1, 0x2545F491
_32_BITS = 0xFFFFFFFF
_WORD_A, _WORD_B, _WORD_C = np.uint32(_A), np.uint32(_B), np.uint32(_C)
_SHIFT = np.uint32(15)
_BUCKET_SHIFT = np.uint32(32 - (BUCKETS.bit_length() - 1))


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

"""Ways to run NVIDIA's classifier, each in a process of its own, which measures itself when told to.

A process holds one model, so that its memory and its threads are that way's alone. Only one is at work at a time.
"""

import asyncio
import gc
import itertools
import multiprocessing
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import numpy as np

from service.classifiers.model_queue import ModelQueue, Read
from service.classifiers.models import NvidiaModel
from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.heads import answer_of
from service.metrics.catalogue import Metrics

# Quantiles of the tokens of a text, [CLS] and [SEP] included, between 6 and 120.
MIXES = {
    # Mostly one sentence; 26 on average.
    "chat": ((0.0, 6), (0.1, 8), (0.25, 12), (0.5, 20), (0.75, 33), (0.9, 48), (0.98, 85), (1.0, 120)),
    # Instructions of AlpacaEval (https://github.com/tatsu-lab/alpaca_eval), of which 95 % lie here; 34 on average.
    "instructions": ((0.0, 6), (0.1, 11), (0.25, 15), (0.5, 24), (0.75, 42), (0.9, 75), (1.0, 120)),
}


class Variant(NamedTuple):
    """One way to run it."""

    name: str
    backend: str  # "library": the transformers model as ports use it; "padded": likewise, padded to 512 as on the card
    precision: str
    threads: int


class Texts:
    """English of a given number of tokens, another one at each call."""

    def __init__(self, tokens: Callable[[str], int]) -> None:
        self._tokens = tokens
        self._words = " ".join(topics.values()).split()
        self._chance = random.Random(0)

    @cached_property
    def _sizes(self) -> list[int]:
        return [self._tokens(word) - 2 for word in self._words]

    def of(self, length: int) -> str:
        """Of exactly `length` tokens, [CLS] and [SEP] included."""
        while True:
            first = self._chance.randrange(len(self._words) - 2 * length)
            last, size = first, 2
            while size < length:
                size += self._sizes[last]
                last += 1
            text = " ".join(self._words[first:last])
            if self._tokens(text) == length:
                return text

    def mixed(self, mix: str) -> Iterator[str]:
        """Without end, of lengths as in one of `MIXES`."""
        shares, lengths = zip(*MIXES[mix], strict=True)
        while True:
            yield self.of(round(float(np.interp(self._chance.random(), shares, lengths))))


def memory() -> dict[str, float]:
    """Resident memory of this process in MB: all, its own, and pages of files that it shares."""
    status = Path("/proc/self/status").read_text()
    names = {"VmRSS": "resident", "RssAnon": "own", "RssFile": "of_files"}
    return {name: int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key, name in names.items()}  # type: ignore[index]


class Measuring:
    """Inside the process of a variant."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        started = time.perf_counter()
        self.nvidia: Any = None
        if variant.backend in {"library", "padded"}:
            from benchmarks.library_port import library  # noqa: PLC0415 - the others shall not have torch in memory

            self.logits = library(folder, variant.threads, padded=variant.backend == "padded")
            tokenizer = open_checkpoint(folder).tokenizer
        else:
            self.nvidia = load_nvidia(
                folder, backend=variant.backend, precision=variant.precision, threads=variant.threads, gated=False
            )  # fmt: skip
            self.logits = lambda text: self.nvidia.read([text])[0].logits
            tokenizer = self.nvidia._tokenizer  # noqa: SLF001 - as it is used
        self.answer = lambda text: answer_of(self.logits(text))
        self.answer("Hello")
        self.load_s = time.perf_counter() - started
        self.texts = Texts(lambda text: tokenizer.encode(text).tokens)

    def loaded(self) -> float:
        return self.load_s

    def latency(self, length: int, count: int) -> list[float]:
        """Milliseconds of `count` texts, from text to answer."""
        texts = [self.texts.of(length) for _ in range(count + 1)]
        self.answer(texts[0])
        found = []
        for text in texts[1:]:
            started = time.perf_counter()
            self.answer(text)
            found.append((time.perf_counter() - started) * 1000)
        return found

    def all_logits(self, texts: list[str]) -> np.ndarray:
        return np.stack([self.logits(text) for text in texts])

    def memory(self) -> dict[str, float]:
        return memory()

    def throughput(self, mix: str, callers: int, workers: int, seconds: float) -> dict[str, float]:
        """Texts per second of so many callers at once: in the service's queue, or one after the other."""
        prepared = list(itertools.islice(self.texts.mixed(mix), 1500))
        tokens = float(np.mean([self.texts._tokens(text) for text in prepared]))  # noqa: SLF001 - ours
        if self.nvidia is None:
            ended = time.perf_counter() + seconds
            count = next(
                number for number, text in enumerate(prepared) if self.answer(text) and ended < time.perf_counter()
            )
            return {"per_second": (count + 1) / seconds, "mean_tokens": tokens}
        gc.collect()
        figures = asyncio.run(_callers(self.nvidia, prepared, callers, workers, seconds))
        return {**figures, "mean_tokens": tokens}


async def _callers(nvidia: Any, texts: list[str], callers: int, workers: int, seconds: float) -> dict[str, float]:
    queue = ModelQueue(NvidiaModel(nvidia, keeps_tail=False), Metrics(), workers=workers, cache_entries=0)
    waited: list[float] = []
    source = itertools.cycle(texts)
    ends = time.perf_counter() + seconds

    async def call() -> None:
        while (started := time.perf_counter()) < ends:
            found = await queue.read(next(source), most_waiting=10**6, deadline_s=60)
            if not isinstance(found, Read):
                raise RuntimeError(found)  # noqa: TRY004 - the queue refused
            waited.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    took = time.perf_counter() - started
    await queue.close()
    return {
        "per_second": len(waited) / took,
        "p50_ms": float(np.median(waited)),
        "p95_ms": float(np.percentile(waited, 95)),
    }


def _work(pipe: Connection, variant: Variant, folder: Path) -> None:
    measuring = Measuring(variant, folder)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        kind, *arguments = asked
        pipe.send(getattr(measuring, kind)(*arguments))


class Worker:
    """The process of a variant, from outside: each method of `Measuring` by name."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        self.variant = variant
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = str(variant.threads)  # read when the process starts
        self._process = context.Process(target=_work, args=(theirs, variant, folder), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __call__(self, kind: str, *arguments: Any) -> Any:
        self._pipe.send((kind, *arguments))
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.send(None)
        self._process.join()

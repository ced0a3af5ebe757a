"""Classification inside the running service: which classifier answers, and how the answer came about.

A small classifier answers on the event loop, in about a tenth of a millisecond. A model (NVIDIA's, or a sentence
embedding) is loaded in a thread while the small one serves, and read in threads. Whatever keeps it from answering in
time, the small one answers in its place, and the decision says so.
"""

import asyncio
import logging
import threading
import time
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores
from service.classifiers import Classifier, excerpt
from service.classifiers.model_queue import FAILURES_IN_A_ROW, ModelQueue, Read, call_soon, join, lower_priority
from service.classifiers.models import Model, Plan
from service.errors import ArmwiseError
from service.metrics.catalogue import Metrics
from service.profiles import estimated_tokens
from service.settings import ClassifierSettings

log = logging.getLogger("armwise")

Fallback = Literal["", "loading", "queue full", "deadline", "failed"]
State = Literal["serving", "loading", "failed"]


class Trace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a classification was made. Stored with the decision; holds no text."""

    classifier: str
    tiers: tuple[float, float]  # complexities under the first are simple, under the second medium
    precision: str = ""  # of the model; empty when the small classifier answered
    tokens: int = 0  # that the model read
    truncated: bool = False  # the text was longer than that
    cached: bool = False
    queue_s: float = 0.0  # until the model began to read
    inference_s: float = 0.0
    fallback: Fallback = ""  # why the small classifier answered in the model's place


class Classified(NamedTuple):
    """A classification and how it was made."""

    classification: Classification
    trace: Trace
    seconds: float = 0.0  # from the question to the answer


class Classifying:
    """Classifies for all requests of one process. All methods are for the event loop's thread.

    Until `take_over` it knows texts by their length alone.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.loading = False
        self.fault = ""  # why the model that the settings name could not be loaded
        self._metrics = metrics
        self._plan: Plan | None = None
        self._small: Classifier = ByLength()
        self._queue: ModelQueue | None = None
        self._loaded_as: object = None  # what the model of the queue was loaded from
        self._loads = 0
        self._loader: threading.Thread | None = None
        self._told = ""

    @property
    def serving(self) -> Classifier | Model:
        """What classifies now."""
        return self._queue.model if self._queue is not None and not self._queue.failing else self._small

    @property
    def state(self) -> State:
        """Whether what the settings name serves."""
        if self.loading:
            return "loading"
        return "failed" if self.fault or (self._queue is not None and self._queue.failing) else "serving"

    @property
    def why(self) -> str:
        """Why this classifier serves, in words."""
        why = self._plan.why if self._plan is not None else ""
        if self.loading:
            return f"{why}; it is being loaded"
        if self.fault:
            return f"{why}, but it could not be loaded: {self.fault}"
        if self._queue is not None and self._queue.failing:
            return f"{why}, but {self._queue.model.name} failed {FAILURES_IN_A_ROW} times in a row; see the log"
        return why

    # Settings

    def take_over(self, plan: Plan) -> None:
        """Serve by other settings from now on; a model that they name is loaded in a thread, then swapped in.

        A loaded model is kept when it was loaded from the same settings and files. One that was loaded before serves
        until another is.
        """
        self._loads += 1  # a load under way is for settings that no longer hold
        self._plan, self._small, self.fault, self.loading = plan, plan.small, "", False
        if plan.load is None:
            self._swap(None)
        elif self._queue is not None and self._loaded_as == plan.identity():
            self._queue.resize(workers=plan.settings.workers, cache_entries=plan.settings.cache_entries)
        else:
            self.loading = True
            arguments = (asyncio.get_running_loop(), self._loads, plan)
            self._loader = threading.Thread(target=self._load, args=arguments, name="classifier-load", daemon=True)
            self._loader.start()
        self.tell()

    def _load(self, loop: asyncio.AbstractEventLoop, number: int, plan: Plan) -> None:
        """In a thread."""
        lower_priority()
        started = time.perf_counter()
        model, identity, fault = None, None, ""
        try:
            model = plan.load() if plan.load is not None else None
            identity = plan.identity()
        except (ArmwiseError, OSError, ImportError) as error:
            fault = str(error)
        except Exception as error:  # whatever its files hold, serving goes on
            log.exception("the classifier could not be loaded")
            fault = f"{type(error).__name__}: {error}"
        log.debug("loading took %.1f s", time.perf_counter() - started)
        call_soon(loop, partial(self._loaded, number, plan, model, identity, fault))

    def _loaded(self, number: int, plan: Plan, model: Model | None, identity: object, fault: str) -> None:
        if number != self._loads:
            return
        self.loading, self.fault = False, fault
        if model is not None:
            settings = plan.settings
            self._swap(
                ModelQueue(model, self._metrics, workers=settings.workers, cache_entries=settings.cache_entries)
            )  # fmt: skip
            self._loaded_as = identity
        self.tell()

    def _swap(self, queue: ModelQueue | None) -> None:
        """Requests that wait for the model before still get its answer."""
        if self._queue is not None:
            self._queue.retire()
        self._queue = queue

    def tell(self) -> None:
        """Say in the log and the metrics which classifier serves, and why, when that has changed."""
        name, state = self.serving.name, self.state
        told = f"classifier {name} {'serves' if state == 'serving' else 'serves for now'}: {self.why}"
        if told == self._told:
            return
        self._told = told
        log.log(logging.ERROR if state == "failed" else logging.INFO, told)
        self._metrics.classifier_serves(name, state)

    # Answers

    async def classify(self, text: str, settings: ClassifierSettings) -> Classified:
        """Classify `text`, given whole: what is read of it is cut here. Never raises on a str.

        Waits at most `settings.deadline_s`. A caller that is cancelled leaves the work to others who wait for it.
        """
        arrived = time.perf_counter()
        queue = self._queue
        if queue is None:
            fallback: Fallback = "loading" if self.loading else "failed" if self.fault else ""
            classified = self._by_small(text, settings, fallback, arrived)
        else:
            found = await queue.read(text, most_waiting=settings.queue, deadline_s=settings.deadline_s)
            if isinstance(found, Read):
                classified = _by_model(queue.model, found, settings, arrived)
            else:
                classified = self._by_small(text, settings, found, arrived)
        self._metrics.classified(classified)
        return classified

    def _by_small(self, text: str, settings: ClassifierSettings, fallback: Fallback, arrived: float) -> Classified:
        started = time.perf_counter()
        small = self._small
        text = excerpt(text, settings.max_characters)
        try:
            found = small.classify(text)
        except Exception:  # a classifier must never stop a request, whatever it meets
            log.exception("the classifier failed; the prompt's length decides its tier")
            small, fallback = ByLength(), "failed"
            found = small.classify(text)
        ended = time.perf_counter()
        trace = Trace(
            classifier=found.classifier,
            # Boundaries in the settings are for the classifier that they name, not for one in its place.
            tiers=small.tiers if fallback else _boundaries(settings, small.tiers),
            inference_s=ended - started,
            fallback=fallback,
        )
        return Classified(found, trace, ended - arrived)

    async def close(self) -> None:
        """End what runs in threads."""
        self._loads += 1
        if self._queue is not None:
            await self._queue.close()
        if self._loader is not None:
            await asyncio.to_thread(join, [self._loader])


def _by_model(model: Model, found: Read, settings: ClassifierSettings, arrived: float) -> Classified:
    trace = Trace(
        classifier=model.name,
        tiers=_boundaries(settings, model.tiers),
        precision=model.precision,
        tokens=found.answered.tokens,
        truncated=found.answered.truncated,
        cached=found.cached,
        queue_s=found.queue_s,
        inference_s=found.inference_s,
    )
    return Classified(found.answered.classification, trace, time.perf_counter() - arrived)


def _boundaries(settings: ClassifierSettings, own: tuple[float, float]) -> tuple[float, float]:
    if settings.simple_below is None or settings.medium_below is None:
        return own
    return settings.simple_below, settings.medium_below


class ByLength:
    """The last resort when a classifier fails: long prompts are taken for complex ones."""

    name = "length"
    tiers = (0.25, 0.75)

    def classify(self, text: str) -> Classification:
        """A complexity and nothing else: under 100 tokens simple, over 500 complex."""
        tokens = estimated_tokens(text)
        return Classification(
            task_type="Unknown",
            task_probabilities=tuple(1.0 if name == "Unknown" else 0.0 for name in TASK_TYPES),
            scores=DimensionScores(),
            complexity=0.0 if tokens < 100 else 1.0 if tokens > 500 else 0.5,
            classifier=self.name,
        )

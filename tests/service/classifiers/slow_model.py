"""A model that reads when a test lets it, and what tests of classification share."""

import asyncio
import threading

from msgspec.structs import replace

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores
from service.classifiers import create_classifier
from service.classifiers.models import READ_CHARACTERS, Answered, Plan
from service.settings import ClassifierSettings

SETTINGS = ClassifierSettings(kind="nvidia", workers=2, queue=4, deadline_s=30.0)
SOON = replace(SETTINGS, deadline_s=0.02)
SMALL = create_classifier(SETTINGS)


class SlowModel:
    """Reads a text when the test lets it."""

    precision = "fp32"
    tiers = (0.2, 0.4)

    def __init__(self, name="nvidia/0a1b2c3d/fp32", *, held=False, together=1):
        self.together = together
        self.batches = []
        self.name = name
        self.texts = []
        self.threads = set()
        self.broken = False
        self.go = threading.Semaphore(0) if held else None

    def cut(self, text):
        return text[:READ_CHARACTERS]

    def answer_together(self, texts):
        self.texts += texts
        self.batches.append(len(texts))
        self.threads.add(threading.current_thread())
        if self.go is not None:
            assert self.go.acquire(timeout=20)
        return [self.answer(text) for text in texts]

    def answer(self, text):
        if self.broken or "poison" in text:
            raise RuntimeError("the model is broken")
        found = Classification(
            task_type="Rewrite",
            task_probabilities=tuple(float(name == "Rewrite") for name in TASK_TYPES),
            scores=DimensionScores(),
            complexity=0.3,
            classifier=self.name,
        )
        return Answered(found, len(text.split()) + 2, truncated=False)


def plan(model=None, settings=SETTINGS, small=SMALL, load=None, identity=None):
    """Settings that are served by `model`; by the small classifier alone when there is none."""
    if model is None and load is None:
        return Plan(settings, "embedded", "as a test says", small)
    same = identity or (lambda: id(model))
    return Plan(settings, "nvidia", "as a test says", small, load or (lambda: model), same)


async def until(condition):
    """Wait for something that threads do."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def metric(classifying, name, **labels):
    return classifying._metrics.registry.get_sample_value(f"armwise_{name}", labels)

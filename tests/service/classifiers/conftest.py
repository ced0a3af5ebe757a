"""Classification without a service around it."""

import threading

import pytest

from service.classifiers.classifying import Classifying
from service.metrics.catalogue import Metrics
from tests.service.classifiers.slow_model import plan, until


@pytest.fixture
async def serve():
    """Start classifying by a plan: await serve(model). All are closed at the end."""
    started = []

    async def start(model=None, **changes):
        classifying = Classifying(Metrics())
        started.append((classifying, model))
        classifying.take_over(plan(model, **changes))
        await until(lambda: not classifying.loading)
        return classifying

    yield start
    for classifying, model in started:
        if model is not None and model.go is not None:
            model.go.release(1000)
        await classifying.close()
        for thread in threading.enumerate():
            assert not thread.name.startswith("classifier"), "a thread was left behind"

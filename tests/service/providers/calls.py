"""Calls of a provider, as tests make them."""

from collections.abc import AsyncIterator, Awaitable

import pytest

from service.errors import UpstreamFailure
from service.providers import Provider
from service.settings import AnyModel


async def read_all(stream: AsyncIterator[bytes]) -> bytes:
    """The whole stream."""
    return b"".join([piece async for piece in stream])


async def failure_of(awaitable: Awaitable[object]) -> UpstreamFailure:
    """What a call that must fail fails with."""
    with pytest.raises(UpstreamFailure) as caught:
        await awaitable
    return caught.value


async def failures_of(provider: Provider, model: AnyModel, plain: bytes, streamed: bytes) -> list[UpstreamFailure]:
    """What a plain and a streamed call fail with."""
    return [
        await failure_of(provider.complete(model, plain)),
        await failure_of(read_all(provider.stream(model, streamed))),
    ]

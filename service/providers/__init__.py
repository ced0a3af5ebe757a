"""What answers: the provider contract, and the one place that knows every provider.

A provider speaks to the upstream and nothing else. It takes the body to send and gives back the bytes that came, or
raises `UpstreamFailure`. It does not decide, retry, parse replies, count or store.
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

from service.settings import AnyModel, OpenAICompatibleModel, SimulatedModel, TranslatedModel


class Provider(Protocol):
    """One way to reach models. One instance serves all models of its kind; it holds the connections."""

    async def complete(self, model: AnyModel, body: bytes) -> bytes:
        """Send a plain request; return the reply's JSON as it came, after a 2xx status.

        `body` is the whole JSON request: upstream model name set, `router` removed. The caller checks that the reply
        is a chat completion. `model.timeout_s` bounds the whole call.

        Raises:
            UpstreamFailure: anything else than a 2xx answer in time; its message holds no secret.
        """
        ...

    def stream(self, model: AnyModel, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send a streamed request; yield the bytes of the server-sent events as they arrive, cut anywhere.

        The first step raises when no 2xx answer came. Closing the generator, or cancelling a step, closes the
        upstream call at once. `model.timeout_s` bounds the wait between two pieces.

        Raises:
            UpstreamFailure: on any step.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Providers:
    """The providers in use, made when first needed so that unused ones cost nothing."""

    def __init__(self) -> None:
        self._made: dict[type, Provider] = {}

    def of(self, model: AnyModel) -> Provider:
        """The provider that reaches `model`."""
        kind = type(model)
        if kind not in self._made:
            self._made[kind] = self._make(model)
        return self._made[kind]

    async def prepare(self, models: Iterable[AnyModel]) -> None:
        """Make what these models need, so that no request waits for a slow import."""
        translated = next((model for model in models if isinstance(model, TranslatedModel)), None)
        if translated is not None:
            from service.providers.translated import Translated  # noqa: PLC0415 - only when used

            provider = self.of(translated)
            if isinstance(provider, Translated):
                await provider.preload()

    def _make(self, model: AnyModel) -> Provider:
        match model:
            case OpenAICompatibleModel():
                from service.providers.openai_compatible import OpenAICompatible  # noqa: PLC0415 - only when used

                return OpenAICompatible()
            case TranslatedModel():
                from service.providers.translated import Translated  # noqa: PLC0415 - imports LiteLLM: seconds

                return Translated()
            case SimulatedModel():
                from service.providers.simulated import Simulated  # noqa: PLC0415 - only when used

                return Simulated()

    async def close(self) -> None:
        """Close every provider that was made."""
        for provider in self._made.values():
            await provider.close()
        self._made.clear()

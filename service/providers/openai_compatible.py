"""OpenAI, vLLM, Ollama, llama.cpp and every server that speaks their chat protocol: bytes in, bytes out."""

import asyncio
import io
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import ContextVar
from weakref import WeakSet

import aiohttp
import msgspec
from aiohttp import ClientRequest, ClientResponse, ClientSession, ClientTimeout
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from service.errors import UpstreamFailure
from service.providers.failures import refusal
from service.providers.keys import key_named, scrub
from service.settings import AnyModel, OpenAICompatibleModel
from service.tracing.tracing import passed_on

_ERROR_BYTES = 65_536  # of an error body are read; the rest is left behind with its connection
_KEEP_IDLE_S = 60.0  # a new TLS connection costs round trips; servers that hang up sooner are handled by `_send`
_LARGE_BODY = 1_000_000  # bytes from which a body is sent piece by piece, so that other requests go on
_STALE_WITHIN_S = 1.0  # a connection that had been hung up shows it at once; later, the server was at work


class _Route(msgspec.Struct, frozen=True):
    """All that stays the same between the calls to one model."""

    model: OpenAICompatibleModel
    url: URL
    headers: CIMultiDict[str]
    secrets: frozenset[str]
    plain: ClientTimeout
    streamed: ClientTimeout

    @property
    def who(self) -> str:
        """The model and its host, for messages."""
        return f"{self.model.name} at {self.url.host}"

    def failure_of(self, error: Exception) -> UpstreamFailure:
        """What an exception of the HTTP client stands for."""
        detail = scrub(str(error) or type(error).__name__, self.secrets)[:300]
        match error:
            case aiohttp.ConnectionTimeoutError():
                limit = self.model.connect_timeout_s
                return UpstreamFailure("connection", f"{self.who} took no connection within {limit:g} s.")
            case TimeoutError():
                limit = self.model.timeout_s
                return UpstreamFailure("timeout", f"{self.who} sent nothing more within {limit:g} s.", status=504)
            case aiohttp.ClientResponseError():
                return UpstreamFailure("malformed", f"{self.who} did not answer in HTTP: {detail}")
            case aiohttp.ClientPayloadError():
                return UpstreamFailure("connection", f"{self.who} broke off in the middle of its reply: {detail}")
            case aiohttp.ServerDisconnectedError():
                return UpstreamFailure("connection", f"{self.who} hung up before it answered.")
            case _:
                return UpstreamFailure("connection", f"{self.who} could not be reached: {detail}")


_on_used_connection: ContextVar[bool] = ContextVar("_on_used_connection", default=False)


class _Pool(aiohttp.TCPConnector):
    """Tells a call whether its connection had served another before. A trace would tell too, for 20 % more CPU."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_KEEP_IDLE_S)
        self._served: WeakSet[object] = WeakSet()

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:  # noqa: ASYNC109
        _on_used_connection.set(False)
        connection = await super().connect(req, traces, timeout)
        _on_used_connection.set(connection.protocol in self._served)
        self._served.add(connection.protocol)
        return connection


class OpenAICompatible:
    """Passes bytes through, over one pool of connections that is made on the loop of the first call."""

    def __init__(self) -> None:
        self._session: ClientSession | None = None
        self._routes: dict[str, _Route] = {}

    async def complete(self, model: AnyModel, body: bytes) -> bytes:
        """See `Provider.complete`. A 2xx answer comes back as it is, whatever it holds."""
        route = self._route(model)
        try:
            response = await self._send(route, body, route.plain)
            try:
                if 200 <= response.status < 300:
                    return await response.read()
                raise await _refusal(route, response)
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise route.failure_of(error) from None  # the cause may show our key

    async def stream(self, model: AnyModel, body: bytes) -> AsyncGenerator[bytes, None]:
        """See `Provider.stream`. Read to the end, its connection serves the next call; left early, it is closed."""
        route = self._route(model)
        try:
            response = await self._send(route, body, route.streamed)
            try:
                if not 200 <= response.status < 300:
                    raise await _refusal(route, response)
                if response.content_type != "text/event-stream":
                    raise await _not_a_stream(route, response)
                async for piece in response.content.iter_any():
                    yield piece
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise route.failure_of(error) from None  # the cause may show our key

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _send(self, route: _Route, body: bytes, limits: ClientTimeout) -> ClientResponse:
        """Post the body, once more when the connection had been hung up while it lay idle.

        A POST is not idempotent, so HTTP clients do not repeat it of themselves. Here it is safe enough and worth it:
        RFC 9112 section 9.3.1 allows it when the detection is sure, the server closed a kept connection at the very
        moment we used it, no byte of an answer came, and a chat completion changes nothing at the provider: the worst
        case is one that is computed twice. A new connection that dies is never repeated; falling back to another
        model is the caller's.
        """
        began = time.monotonic()
        try:
            return await self._post(route, body, limits)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            spent = time.monotonic() - began
            answered = isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
            if not _on_used_connection.get() or answered or spent > min(_STALE_WITHIN_S, route.model.timeout_s / 2):
                raise
        return await self._post(route, body, _after(spent, limits))

    async def _post(self, route: _Route, body: bytes, limits: ClientTimeout) -> ClientResponse:
        session = self._session or self._open()
        return await session.post(
            route.url,
            data=body if len(body) < _LARGE_BODY else io.BytesIO(body),
            headers={**route.headers, **along} if (along := passed_on.get()) else route.headers,
            timeout=limits,
            allow_redirects=False,  # a redirected POST would carry our key to wherever it points
        )

    def _open(self) -> ClientSession:
        self._session = ClientSession(connector=_Pool(), cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _route(self, model: AnyModel) -> _Route:
        route = self._routes.get(model.name)
        if route is None or route.model is not model:
            assert isinstance(model, OpenAICompatibleModel)  # noqa: S101 - `Providers.of` goes by type
            route = self._routes[model.name] = _route_to(model)
        return route


def _route_to(model: OpenAICompatibleModel) -> _Route:
    headers = CIMultiDict({"content-type": "application/json", "user-agent": "armwise"})
    secrets = set()
    url = _url_of(model)
    if url.user is not None:
        secrets |= {url.password or "", b64encode(f"{url.user}:{url.password or ''}".encode()).decode()}
    if model.api_key_env:
        key = key_named(model.api_key_env, model.name)
        secrets.add(key)
        headers["authorization"] = f"Bearer {key}"
    for name, value in model.headers.items():
        if value.startswith("$"):
            headers[name] = key_named(value[1:], model.name)
            secrets.add(headers[name])
        else:
            headers[name] = value
    if "authorization" in headers:
        url = url.with_user(None)
    connect_s, total_s = model.connect_timeout_s, model.timeout_s
    return _Route(
        model=model,
        url=url,
        headers=headers,
        secrets=frozenset(secrets - {""}),
        plain=ClientTimeout(total=total_s, connect=connect_s, ceil_threshold=total_s),
        streamed=ClientTimeout(total=None, connect=connect_s, sock_read=total_s),
    )


def _url_of(model: OpenAICompatibleModel) -> URL:
    try:
        url = URL(model.base_url.rstrip("/") + "/chat/completions", encoded=True)
        if url.scheme in {"http", "https"} and url.host and 0 < (url.port or 0) < 65_536:
            return url
    except ValueError:
        pass  # told below, like all other mistakes
    raise UpstreamFailure(
        "connection", f'The base_url of model {model.name} is no address. Write it like "https://api.openai.com/v1".'
    )


async def _refusal(route: _Route, response: ClientResponse) -> UpstreamFailure:
    body = await _beginning(response, route.model.timeout_s)
    retry_after = response.headers.get("retry-after")
    return refusal(route.who, response.status, body, secrets=route.secrets, retry_after=retry_after)


async def _not_a_stream(route: _Route, response: ClientResponse) -> UpstreamFailure:
    # Some servers answer 200 and put the error into the body.
    told = refusal(route.who, 200, await _beginning(response, route.model.timeout_s), secrets=route.secrets)
    found = scrub(response.content_type, route.secrets)
    message = f"A stream of type text/event-stream was expected, not {found}. {told.message}"
    return UpstreamFailure(
        "malformed", message, code=told.code, param=told.param, error_type=told.error_type, retry_after=told.retry_after
    )


async def _beginning(response: ClientResponse, within_s: float) -> bytes:
    """The first bytes of a body; what came of it when it breaks off or stalls, for its status says enough."""
    parts: list[bytes] = []
    size = 0
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(within_s):
            async for part in response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size >= _ERROR_BYTES:
                    break
    return b"".join(parts)[:_ERROR_BYTES]


def _after(spent_s: float, limits: ClientTimeout) -> ClientTimeout:
    if limits.total is None:
        return limits
    return ClientTimeout(total=limits.total - spent_s, connect=limits.connect, ceil_threshold=limits.ceil_threshold)

"""The HTTP interface of a Hugging Face hub, as far as a model's files need it.

Spoken directly: the hub's own library starts a broken download again from its first byte, and compares sizes instead
of contents. What is relied on are the headers of `HEAD /<repository>/resolve/<revision>/<file>`: `X-Repo-Commit` is the
commit of the revision; `X-Linked-ETag` and `X-Linked-Size` are sha256 and size of a file in large file storage; `ETag`
of any other file is its git object id, a sha1 over size and content.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx
import msgspec

from service.errors import DownloadFailed

T = TypeVar("T")

ENDPOINT = "https://huggingface.co"

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
_LONGEST_PAUSE_S = 60.0
_REDIRECTS = 5


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file as the hub describes it."""

    name: str
    size: int
    digest: str  # sha256, 64 hex digits, or git's object id, 40


class Interrupted(Exception):
    """The hub did not answer, or stopped in the middle: worth another attempt."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Hub:
    """A Hugging Face hub, or anything that speaks like one.

    Args:
        endpoint: where it is; a mirror's address, or a proxy's in your network.
        token: sent to the endpoint alone, never to where it redirects, and over TLS or to this machine only.
        pauses: seconds to wait before each further attempt.

    Raises:
        DownloadFailed: by all methods, in a sentence that says what to do.
    """

    def __init__(self, endpoint: str = ENDPOINT, token: str = "", pauses: tuple[float, ...] = _PAUSES) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._pauses = pauses
        where = urlsplit(self.endpoint)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise DownloadFailed(f"The hub's address is `{endpoint}`; expected one like {ENDPOINT}.")
        # Without `identity` a text file may come compressed, and neither its size nor a range would be the file's.
        headers = {"accept-encoding": "identity", "user-agent": "armwise"}
        if token:
            if where.scheme != "https" and where.hostname not in {"127.0.0.1", "::1", "localhost"}:
                raise DownloadFailed(
                    f"HF_TOKEN is not sent to {self.endpoint}: the connection is not encrypted. "
                    "Use an address that begins with https, or unset HF_TOKEN."
                )
            headers["authorization"] = f"Bearer {token}"
        self._has_token = bool(token)
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(30.0, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def describe(self, repository: str, revision: str, name: str) -> tuple[str, RemoteFile] | None:
        """A file's commit and description; None when the repository has no such file."""
        return self._attempts(lambda: self._describe(repository, revision, name))

    def text(self, repository: str, revision: str, name: str) -> str:
        """A short text file."""

        def get() -> str:
            with self.open(repository, revision, name) as response:
                return response.read().decode("utf-8", "replace")

        return self._attempts(get)

    @contextlib.contextmanager
    def open(self, repository: str, revision: str, name: str, start: int = 0) -> Iterator[httpx.Response]:
        """A file's content from a byte on, as a stream; a hub without ranges answers 200, and with all of it.

        Raises:
            Interrupted: the connection broke, also while the content is read. One attempt: `pause` before the next.
        """
        headers = {"range": f"bytes={start}-"} if start else {}
        url = self._url(repository, revision, name)
        with (
            self._transport(),
            self._client.stream("GET", url, headers=headers, follow_redirects=True) as response,
        ):
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise Interrupted("it refused to continue where the download broke off")
            self._check(response, repository, revision)
            yield response

    def pause(self, failures: int, error: Interrupted, advice: str = "") -> None:
        """Wait before the next attempt, or give up after too many; `advice` then ends the message."""
        if failures > len(self._pauses):
            reason = str(error).rstrip(".")
            raise DownloadFailed(f"{self.endpoint} cannot be read: {reason}. Attempts: {failures}.{advice}") from error
        if failures:
            time.sleep(max(self._pauses[failures - 1], error.pause_s))

    def _attempts(self, ask: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return ask()
            except Interrupted as error:
                failures += 1
                self.pause(failures, error)

    def _describe(self, repository: str, revision: str, name: str) -> tuple[str, RemoteFile] | None:
        url = self._url(repository, revision, name)
        before: dict[str, str] = {}  # headers of redirects inside the hub, for what the last answer lacks
        for _ in range(_REDIRECTS):
            with self._transport():
                response = self._client.head(url)
            if response.headers.get("x-error-code") == "EntryNotFound":
                return None
            self._check(response, repository, revision)
            target = urljoin(url, response.headers.get("location", ""))
            if not response.is_redirect or _origin(target) != _origin(url):
                break
            before |= response.headers
            url = target
        found = response.headers
        own = {} if response.is_redirect else found  # a redirect to the store tells of the file in its own words only
        commit = found.get("x-repo-commit") or before.get("x-repo-commit", "")
        etag = found.get("x-linked-etag") or own.get("etag") or before.get("x-linked-etag", "")
        digest = etag.removeprefix("W/").strip('"')
        size = found.get("x-linked-size") or own.get("content-length") or before.get("x-linked-size", "")
        if not re.fullmatch(r"[0-9a-f]{40}", commit) or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digest):
            raise DownloadFailed(
                f"{self.endpoint} names no commit or no checksum for {name}, so it is not a Hugging Face hub, and what "
                "it sends could not be verified. Check HF_ENDPOINT, or a proxy in between."
            )
        if not size.isdecimal():
            raise DownloadFailed(f"{self.endpoint} does not say how large {name} is. Check HF_ENDPOINT.")
        return commit, RemoteFile(name=name, size=int(size), digest=digest)

    def _check(self, response: httpx.Response, repository: str, revision: str) -> None:
        """Raise what a status means."""
        status = response.status_code
        if status < 400:
            return
        code = response.headers.get("x-error-code", "")
        if status in {408, 429} or status >= 500:
            asked = response.headers.get("retry-after", "")
            raise Interrupted(f"it answered {status}", min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0)
        if status == 404 and code == "RevisionNotFound":
            raise DownloadFailed(f"{repository} has no revision {revision}.")
        if code == "GatedRepo" or status == 403:
            hint = "with the account of HF_TOKEN" if self._has_token else "and set HF_TOKEN to a token of that account"
            raise DownloadFailed(
                f"{self.endpoint} refuses {repository} ({status}). Accept its conditions on its page, {hint}."
            )
        if status in {401, 404}:
            token = (
                "the token in HF_TOKEN may not read it, or is no longer valid"
                if self._has_token
                else "it needs a token, which is read from HF_TOKEN"
            )
            raise DownloadFailed(
                f"{self.endpoint} knows no repository {repository} ({status}). Either the name is wrong, or {token}."
            )
        raise DownloadFailed(f"{self.endpoint} answered {status} for {repository}; expected the file.")

    def _url(self, repository: str, revision: str, name: str) -> str:
        return f"{self.endpoint}/{repository}/resolve/{quote(revision, safe='')}/{quote(name)}"

    @contextlib.contextmanager
    def _transport(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Interrupted(str(error) or type(error).__name__) from error
        except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise DownloadFailed(f"{self.endpoint} cannot be read: {error}. Check HF_ENDPOINT.") from error


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc

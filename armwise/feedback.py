"""Tell Armwise how good a reply was. Standard library only: this file may be copied into any program.

    from armwise.feedback import Feedback

    feedback = Feedback("http://127.0.0.1:8402", key=os.environ.get("ARMWISE_API_KEY"))
    feedback.give(reply.id, True, user="u-42")             # a thumb
    feedback.give(reply.id, 0.8, source="judge")           # a score in [0, 1]
    feedback.give(reply.id, rating=4, scale=5)             # stars

Trying again is safe: the service keeps one feedback for each decision, metric, source and user, so the same again
changes nothing and a changed mind replaces. In an asyncio program:
`await asyncio.to_thread(feedback.give, reply.id, True)`.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

Status = Literal["recorded", "unchanged", "replaced", "dryrun"]
Value = bool | float | Literal["up", "down"]

_TRY_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 10.0
_MOST_AT_ONCE = 1_000


class FeedbackError(Exception):
    """The feedback was not recorded."""


class FeedbackRefused(FeedbackError):
    """The service does not take it, now or later: an unknown or too old decision, a value out of range, a wrong key."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.code = code


class FeedbackNotSent(FeedbackError):
    """The service could not be reached, or was not able to record it, in all tries. Nothing stops another try later."""


class Feedback:
    """Feedback for one service. Safe from any thread: it holds no connection.

    `url` is the service's address, with or without `/v1`. `key` needs the scope `feedback`, and must be the one that
    asked, or have the scope `admin`. A call makes `tries` tries of `timeout_s` each, with growing waits between them.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 10.0, tries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        base = url.rstrip("/").removesuffix("/v1")
        if urlsplit(base).scheme not in {"http", "https"}:
            raise ValueError(f"`url` is {url!r}; expected http://... or https://...")
        secret = (key or "").strip()
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError("`key` holds characters that no key of Armwise has; expected aw-...")
        if tries < 1:
            raise ValueError(f"`tries` is {tries}; expected 1 or more")
        self._url = f"{base}/v1/feedback"
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {secret}"} if secret else {})
        self._timeout_s = timeout_s
        self._tries = tries
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirects)

    def give(
        self, decision_id: str, value: Value | None = None, *, rating: float | None = None,
        scale: float | tuple[float, float] | None = None, **said: Any,
    ) -> Status:  # fmt: skip
        """Say how good the reply with this id was: by `value`, or by `rating` on a `scale`.

        `said` are the endpoint's other fields: `metric`, `source`, `user`, `comment`, `tags`, `dryrun`.

        Raises:
            FeedbackRefused: the service does not take it.
            FeedbackNotSent: after all tries.
        """
        given = {"decision_id": decision_id, "value": value, "rating": rating, "scale": scale, **said}
        status: Status = self._post({name: found for name, found in given.items() if found is not None}, "status")
        return status

    def give_all(self, every: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Say many things, each as `give` takes them by name; a thousand go in one call.

        Returns one result for each, in order: `decision_id`, `metric`, `status`, and `error` where it was refused.

        Raises:
            FeedbackRefused: one of them cannot be read, so that none of its thousand was recorded.
            FeedbackNotSent: after all tries. Giving all of them again is safe.
        """
        waiting = [dict(one) for one in every]
        results: list[dict[str, Any]] = []
        for start in range(0, len(waiting), _MOST_AT_ONCE):
            results += self._post(waiting[start : start + _MOST_AT_ONCE], "results")
        return results

    def _post(self, body: object, wanted: str) -> Any:
        content = json.dumps(body, allow_nan=False).encode()
        problem = ""
        for count in range(self._tries):
            request = urllib.request.Request(self._url, content, self._headers, method="POST")  # noqa: S310 - checked
            wait_s = min(_FIRST_WAIT_S * 4.0**count, _LONGEST_WAIT_S)
            try:
                with self._opener.open(request, timeout=self._timeout_s) as reply:
                    return json.load(reply)[wanted]
            except urllib.error.HTTPError as error:
                with error:
                    refused = _refused(error)
                if refused.status not in _TRY_AGAIN:
                    raise refused from None
                wait_s = _asked_wait(error.headers.get("retry-after"), wait_s)
                problem = str(refused)
            except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:  # not reached, or not Armwise's
                problem = f"{type(error).__name__}: {error}"
            if count + 1 < self._tries:
                self._sleep(wait_s)
        raise FeedbackNotSent(f"{self._url} did not record the feedback in {self._tries} tries; the last: {problem}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would carry the key to another place, and lose the body."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _refused(error: urllib.error.HTTPError) -> FeedbackRefused:
    try:
        said = json.load(error)["error"]
        return FeedbackRefused(error.code, str(said["message"]), said.get("code"))
    except (OSError, HTTPException, ValueError, KeyError, TypeError, AttributeError):  # a proxy's own page
        return FeedbackRefused(error.code, f"The answer is not Armwise's: {error.reason}")


def _asked_wait(header: str | None, otherwise: float) -> float:
    try:
        return min(max(float(header or ""), 0.0), _LONGEST_WAIT_S)
    except ValueError:
        return otherwise

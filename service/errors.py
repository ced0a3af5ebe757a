"""Everything that can go wrong, as one tree, and how each kind answers over HTTP.

    ArmwiseError
    |-- ConfigurationError        the settings file is wrong; found before serving starts
    |-- RequestError              the caller's fault: 4xx
    |   |-- BadRequest            400  malformed JSON, wrong types, wishes that contradict each other
    |   |-- NotAuthenticated      401  no key, or an unknown or revoked one
    |   |-- NotAllowed            403  the key lacks the scope, or the decision belongs to another key
    |   |-- NotFound              404  unknown model, policy, decision or path
    |   |-- Conflict              409  it stands where this cannot be done: an experiment that runs already
    |   |-- Gone                  410  feedback after its window has closed
    |   |-- TooLarge              413  body over `server.max_body_bytes`
    |   |-- Unprocessable         422  well-formed, but a value is out of its range
    |   `-- NoEligibleModel       400  no model may serve this request; carries the reason for each
    |-- UpstreamFailure           a provider failed; keeps its status and message
    |-- DownloadFailed            a model's files could not be fetched, or are not what the hub says they are
    |-- UnusableData              labelled prompts that cannot be learned from
    |-- NotBetter                 a tuned model is no better than the one it began with, so it was not kept
    |-- UnusableWeights           a classifier's files are damaged or not the model they claim to be; never served
    `-- StorageUnavailable        503  the database cannot be written, so nothing may be acknowledged

Every message says what was found, what was expected and what to do.
"""

import math
from typing import Any, Literal

import msgspec

FailureKind = Literal[
    "connection",  # could not be reached, or hung up
    "timeout",  # no byte, or no first token, in time
    "rate_limited",  # 429
    "server_error",  # 5xx
    "malformed",  # answered, but not with a chat completion
    "credentials",  # 401, 403: our key for the provider is wrong
    "unknown_model",  # 404: the provider does not know the model we configured
    "unsupported",  # the vendor, or LiteLLM for it, cannot do what was asked; another vendor may
    "rejected",  # any other 4xx: the request itself is at fault, another model would not help
    "cancelled",  # the client went away
]


class ArmwiseError(Exception):
    """Root of all errors that Armwise raises on purpose."""


class ConfigurationError(ArmwiseError):
    """The settings are wrong. `mistakes` lists every one found, each with its path."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class RequestError(ArmwiseError):
    """The caller asked for something that cannot be done as asked."""

    status = 400
    kind = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def extra(self) -> dict[str, Any]:
        """Fields beside OpenAI's four in the error object."""
        return {}


class BadRequest(RequestError):
    """The body cannot be read as what the endpoint takes."""


class NotAuthenticated(RequestError):
    """No key was given, or it is unknown or revoked."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class NotAllowed(RequestError):
    """The key is valid but may not do this."""

    status = 403
    kind = "permission_error"
    code = "insufficient_permissions"


class NotFound(RequestError):
    """Nothing has this name or id."""

    status = 404


class Conflict(RequestError):
    """What is asked for cannot be done as things stand."""

    status = 409
    code = "conflict"


class Gone(RequestError):
    """It was there, but the time to act on it is over."""

    status = 410
    code = "too_late"


class BudgetSpent(RequestError):
    """An API key has spent its limit for today."""

    status = 429
    kind = "rate_limit_error"
    code = "budget_spent"

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLarge(RequestError):
    """The body is larger than the server takes."""

    status = 413
    code = "request_too_large"


class Unprocessable(RequestError):
    """A value is of the right type but outside its range."""

    status = 422


class NoEligibleModel(RequestError):
    """Every model is excluded for this request."""

    code = "no_eligible_model"

    def __init__(self, reasons: dict[str, str]) -> None:
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no model is configured"
        super().__init__(
            f"No configured model may serve this request. {listed}. Relax the request's wishes or add a model."
        )
        self.reasons = reasons

    def extra(self) -> dict[str, Any]:
        return {"reasons": self.reasons}


class UpstreamFailure(ArmwiseError):
    """A provider did not give a usable reply.

    `status` and `message` are what the client will see when no other model can answer; secrets never enter `message`.
    """

    def __init__(
        self, kind: FailureKind, message: str, *, status: int = 502, code: str | None = None, param: str | None = None,
        error_type: str | None = None, retry_after: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.error_type = error_type or ("rate_limit_error" if kind == "rate_limited" else "upstream_error")
        self.retry_after = retry_after

    @property
    def another_model_may_help(self) -> bool:
        """False when the request itself was refused: every model would refuse it."""
        return self.kind not in ("rejected", "cancelled")


class DownloadFailed(ArmwiseError):
    """A model's files could not be fetched, or what arrived is not what the hub says it is."""


class UnusableData(ArmwiseError):
    """Labelled prompts cannot be learned from; the message names lines and faults, never a prompt."""


class NotBetter(ArmwiseError):
    """A tuned model is not better than the one it began with, and was not kept."""


class UnusableWeights(ArmwiseError):
    """A classifier's files are missing, damaged or of another model; the message names file and fault."""


class StorageUnavailable(ArmwiseError):
    """The database did not take a write in time."""


class UnknownSchema(ArmwiseError):
    """The database's schema is none that this version of Armwise knows."""


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


def error_body(error: ErrorBody, extra: dict[str, Any] | None = None) -> bytes:
    """OpenAI's error envelope as JSON."""
    return msgspec.json.encode({"error": {**msgspec.to_builtins(error), **(extra or {})}})


def http_answer(error: ArmwiseError) -> tuple[int, bytes, dict[str, str]]:
    """The one table from error to HTTP: status, body in OpenAI's envelope, extra headers."""
    if isinstance(error, RequestError):
        body = error_body(ErrorBody(error.message, error.kind, error.param, error.code), error.extra())
        wait = {"retry-after": str(math.ceil(error.retry_after_s))} if isinstance(error, BudgetSpent) else {}
        return error.status, body, wait
    if isinstance(error, UpstreamFailure):
        headers = {"retry-after": error.retry_after} if error.retry_after else {}
        body = error_body(ErrorBody(error.message, error.error_type, error.param, error.code or error.kind))
        return error.status, body, headers
    if isinstance(error, ConfigurationError):
        return 400, error_body(ErrorBody(str(error), "invalid_request_error", None, "invalid_settings")), {}
    if isinstance(error, StorageUnavailable):
        message = "The database cannot be reached now, so nothing was recorded. Try again; /ready says when it is back."
        return 503, error_body(ErrorBody(message, "server_error", None, "storage_unavailable")), {"retry-after": "1"}
    return 500, error_body(ErrorBody("The server failed on this request.", "server_error", None, "internal_error")), {}

"""The words that metrics' labels take for what clients and providers write freely: paths, and errors."""

from typing import get_args

from service import errors
from service.errors import FailureKind, UpstreamFailure

ENDPOINTS = (
    "/v1/chat/completions", "/v1/models", "/v1/route", "/v1/posteriors", "/v1/heuristics", "/v1/decisions",
    "/v1/alarms", "/v1/controls", "/v1/events", "/v1/experiments", "/feedback", "/stats",
    "/v1/breakers", "/v1/budgets", "/health", "/ready", "/metrics", "/docs", "/dashboard", "/admin", "other",
)  # fmt: skip

_OURS: dict[type[Exception], str] = {
    errors.BadRequest: "bad_request",
    errors.NotAuthenticated: "not_authenticated",
    errors.NotAllowed: "not_allowed",
    errors.NotFound: "not_found",
    errors.Conflict: "conflict",
    errors.Gone: "gone",
    errors.BudgetSpent: "budget_spent",
    errors.TooLarge: "too_large",
    errors.Unprocessable: "unprocessable",
    errors.NoEligibleModel: "no_eligible_model",
    errors.StorageUnavailable: "storage_unavailable",
}
ERROR_KINDS = (*get_args(FailureKind), *_OURS.values(), "internal")

_EXACT = {path: path for path in ENDPOINTS} | {"/v1/feedback": "/feedback"}
_BELOW = tuple((f"{path}/", path) for path in ENDPOINTS if path != "other")


def endpoint_of(path: str) -> str:
    """The word for a path in labels.

    >>> endpoint_of("/v1/models/small")
    '/v1/models'
    >>> endpoint_of("/wp-login.php")
    'other'
    """
    known = _EXACT.get(path)
    return known or next((endpoint for prefix, endpoint in _BELOW if path.startswith(prefix)), "other")


def error_kind(error: BaseException) -> str:
    """The word for an error in labels: one of `ERROR_KINDS`."""
    if isinstance(error, UpstreamFailure):
        return failure_kind(error.kind)
    return next((kind for known, kind in _OURS.items() if isinstance(error, known)), "internal")


def failure_kind(outcome: str) -> str:
    """The word for a failed call in labels; what is not a `FailureKind` is our own fault."""
    return outcome if outcome in ERROR_KINDS else "internal"

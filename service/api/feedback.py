"""POST /feedback: what people, programs and judges say of a reply."""

import logging
import math
import time
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from msgspec import Meta

from bandit.vocabulary import Channel
from service.api.bodies import FeedbackOperation, decoded_off_loop
from service.decide import made_at
from service.errors import BadRequest, Gone, NotAllowed, NotFound, RequestError, Unprocessable
from service.learn import Measurement, Outcome
from service.learning.calibrations import HEURISTICS_SOURCE
from service.metrics.catalogue import Metrics
from service.parts import Parts
from service.settings import Rewards
from service.wire import MOST_TAGS, NAME_CHARACTERS

log = logging.getLogger("armwise")

_THUMBS = {"up": 1.0, "down": 0.0}
_MOST_AT_ONCE = 1_000  # in one call: they are learned in one transaction, for which everybody else's writes wait
_NO_NUL = r"^[^\x00]*\Z"  # Postgres stores none, and what was said before is found again by these
Text = Annotated[str, Meta(max_length=NAME_CHARACTERS, pattern=_NO_NUL)]


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feedback as it comes in: ours, or with TensorZero's field names (`inference_id`, `metric_name`, `dryrun`)."""

    decision_id: str | None = None
    inference_id: str | None = None
    value: bool | float | str | None = None
    rating: float | None = None
    scale: float | tuple[float, float] | None = None
    metric: str | None = None
    metric_name: str | None = None
    source: Annotated[str, Meta(max_length=64, min_length=1, pattern=_NO_NUL)] = "user"
    user: Text = ""
    comment: Annotated[str, Meta(max_length=10_000)] = ""
    tags: Annotated[dict[Text, Text], Meta(max_length=MOST_TAGS)] = {}
    dryrun: bool = False


Given = Feedback | Annotated[list[Feedback], Meta(max_length=_MOST_AT_ONCE)]


def reading(feedback: Feedback) -> tuple[float, Channel]:
    """The value in [0, 1], and whether it is a thumb or a score.

    Raises:
        Unprocessable: out of range, or both or neither of `value` and `rating`.
    """
    value = feedback.value
    if (value is None) == (feedback.rating is None):
        raise Unprocessable("Give either `value` or `rating` with `scale`, not both and not neither.", param="value")
    if feedback.rating is not None:
        return rated(feedback.rating, feedback.scale), "score"
    if isinstance(value, bool):
        return float(value), "thumb"
    if isinstance(value, str):
        if value not in _THUMBS:
            raise Unprocessable(
                f'`value` is "{value[:40]}"; expected "up", "down", true, false or a number.', param="value"
            )
        return _THUMBS[value], "thumb"
    number = float(value or 0.0)
    if not 0.0 <= number <= 1.0:
        raise Unprocessable(f"`value` is {number:g}; a score lies in [0, 1]. For stars use `rating`.", param="value")
    return number, "score"


def rated(rating: float, scale: float | tuple[float, float] | None) -> float:
    """A rating on its scale as a value in [0, 1]; a scale of 5 means 1 to 5.

    >>> rated(4, 5)
    0.75
    """
    if scale is None:
        raise Unprocessable("`rating` needs its `scale`: 5 for one to five stars, or [lowest, highest].", param="scale")
    lowest, highest = scale if isinstance(scale, tuple) else (1.0, scale)
    if not 0.0 < highest - lowest < math.inf:
        raise Unprocessable(
            f"`scale` runs from {lowest:g} to {highest:g}; its end must be above its start, by a finite number.",
            param="scale",
        )
    if not lowest <= rating <= highest:
        raise Unprocessable(f"`rating` is {rating:g}; the scale runs from {lowest:g} to {highest:g}.", param="rating")
    return (rating - lowest) / (highest - lowest)


def measurement(feedback: Feedback, rewards: Rewards, key_id: str | None, now: float) -> Measurement:
    """What a feedback measures. `key_id` None: an admin, who may speak of any decision.

    Raises:
        Unprocessable: a value out of range, an unknown metric, a reserved source.
        BadRequest: no decision is named.
    """
    decision_id = feedback.decision_id or feedback.inference_id
    if not decision_id:
        message = "`decision_id` is missing: it is the `id` of the chat reply."
        raise BadRequest(message, param="decision_id", code="missing_decision_id")
    value, channel = reading(feedback)
    name = feedback.metric or feedback.metric_name or rewards.metrics[0].name
    metric = next((metric for metric in rewards.metrics if metric.name == name), None)
    if metric is None:
        known = ", ".join(metric.name for metric in rewards.metrics)
        raise Unprocessable(f"The metric `{name[:64]}` is not configured. Known: {known}.", param="metric")
    if feedback.source == HEURISTICS_SOURCE:
        raise Unprocessable(f"The source `{HEURISTICS_SOURCE}` is Armwise's own; name another one.", param="source")
    return Measurement(
        decision_id=decision_id,
        metric=metric.name,
        source=feedback.source,
        user=feedback.user,
        value=value,
        weight=metric.weight,
        channel=channel,
        comment=feedback.comment,
        detail=msgspec.json.encode(feedback.tags).decode(),
        key_id=key_id,
        user_limit=rewards.user_labels_per_day,
        outlier_weight=rewards.outlier_weight,
        at=now,
    )


def refusal(outcome: Outcome, rewards: Rewards) -> RequestError | None:
    """Why a feedback was not taken; None when it was."""
    match outcome.status:
        case "unknown_decision":
            return NotFound(
                f"No decision has the id `{outcome.decision_id[:80]}`.", param="decision_id", code="not_found"
            )
        case "too_late":
            return Gone(f"Feedback is taken for {rewards.window_days:g} days after a decision; this one is older.")
        case "other_key":
            return NotAllowed("This decision was made for another API key.", param="decision_id")
        case _:
            return None


def _tell_outlier(metrics: Metrics, outcome: Outcome) -> None:
    metrics.outlier_rated(found=outcome.found is not None)
    if outcome.found is not None:
        log.warning(
            "a user rates unlike everybody else: %.2f in the mean of %d labels, where others' let expect %.2f; further "
            "labels count in part. GET /v1/heuristics names the user; `outlier_weight` under [rewards] says how much",
            outcome.found.said, outcome.found.labels, outcome.found.expected,
        )  # fmt: skip


@post(
    ["/feedback", "/v1/feedback"],
    status_code=200,
    operation_class=FeedbackOperation,
    tags=["feedback"],
    summary="Say how good a reply was",
)
async def give_feedback(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Teach: the feedback is committed before this answers 200. The same again changes nothing; a change replaces."""
    parts: Parts = request.app.state.parts
    key = parts.keyring.allow(request.headers, request.client, "feedback")
    given: Feedback | list[Feedback] = await decoded_off_loop(await request.body(), Given)
    rewards = parts.setup.settings.rewards
    now = time.time()
    key_id = None if key.may("admin") else key.id
    every = given if isinstance(given, list) else [given]
    measurements = [measurement(one, rewards, key_id, now) for one in every]
    wet = [m for m, one in zip(measurements, every, strict=True) if not one.dryrun]
    outcomes = iter(await parts.writer.record(wet) if wet else [])
    results: list[dict[str, Any]] = []
    refusals: list[RequestError] = []
    for one, measured in zip(every, measurements, strict=True):
        outcome = None if one.dryrun else next(outcomes)
        refused = None if outcome is None else refusal(outcome, rewards)
        status = "dryrun" if outcome is None else outcome.status
        parts.metrics.feedback(measured.metric, status, measured.source, now - made_at(measured.decision_id, now))
        if outcome is not None and outcome.outlier:
            _tell_outlier(parts.metrics, outcome)
        result: dict[str, Any] = {"decision_id": measured.decision_id, "metric": measured.metric, "status": status}
        if refused is not None:
            refusals.append(refused)
            result["error"] = {"message": refused.message, "status": refused.status}
        results.append(result)
    if isinstance(given, list):
        return Response({"results": results}, status_code=207 if refusals else 200)
    if refusals:
        raise refusals[0]
    return Response({**results[0], "feedback_id": f"{results[0]['decision_id']}/{results[0]['metric']}"})

"""The prompts that an owner chooses to keep: the setting `retention.prompts`, off unless it is switched on."""

from service.classifiers import excerpt
from service.decide import Decision
from service.profiles import text_to_classify
from service.settings import Settings
from service.wire import ChatRequest

_KEPT_CHARACTERS = 8_000  # of a longer one, its head and its tail: more than any classifier reads


def prompt_row(chat: ChatRequest, decision: Decision, settings: Settings) -> dict[str, object] | None:
    """What was classified of a request as its database row; None when it is not kept: never of a sensitive request."""
    if not settings.retention.prompts or decision.limits.sensitive:
        return None
    text = excerpt(text_to_classify(chat, settings.classifier), _KEPT_CHARACTERS)
    # Neither database takes halves of a character, nor Postgres a NUL; a prompt may not stop its decision's commit.
    text = text.encode("utf-8", "replace").decode().replace("\0", " ")
    return {"decision_id": decision.id, "created_at": decision.created_at, "text": text} if text.strip() else None

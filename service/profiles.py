"""From a request to what a policy sees of it: classify, count, look for cues. Keeps no text."""

import logging

from bandit.vocabulary import TASK_TYPES, Ability, Classification, DimensionScores, PromptProfile, PromptTier
from service.classifiers import Classifier, excerpt
from service.settings import ClassifierSettings, Cues
from service.wire import ChatRequest, ContentPart

log = logging.getLogger("armwise")

_TOKENS_PER_IMAGE = 765  # a 1024 x 1024 picture at high detail with OpenAI's models
_TOKENS_PER_MESSAGE = 4
_ASCII_CHARACTERS_PER_TOKEN = 4.0
_BYTES_PER_TOKEN = 3.5  # of UTF-8: about 1.2 Chinese characters a token
_SAMPLE_CHARACTERS = 20_000  # enough to know the bytes per character of a long text
_LENGTH_TIERS = (100, 500)  # tokens; used when the classifier failed


def estimated_tokens(text: str) -> int:
    """Tokens of a text, estimated from its length; no tokenizer is right for every model anyway."""
    if text.isascii():
        return round(len(text) / _ASCII_CHARACTERS_PER_TOKEN)
    sample = text[:_SAMPLE_CHARACTERS]
    bytes_per_character = len(sample.encode("utf-8", "surrogatepass")) / len(sample)
    return round(len(text) * bytes_per_character / _BYTES_PER_TOKEN)


def needs_of(request: ChatRequest) -> frozenset[Ability]:
    """The abilities without which a model cannot serve the request."""
    needs: set[Ability] = set()
    if request.tools or request.functions:
        needs.add("tools")
    if request.response_format is not None and request.response_format.type != "text":
        needs.add("json")
    if any(_pictures(message.content) for message in request.messages):
        needs.add("vision")
    return frozenset(needs)


def _pictures(content: str | list[ContentPart] | None) -> int:
    if content is None or isinstance(content, str):
        return 0
    return sum(part.type in {"image_url", "input_image", "image"} for part in content)


def text_to_classify(request: ChatRequest, settings: ClassifierSettings) -> str:
    """What the classifier reads of the conversation, by the setting `classifier.reads`."""
    match settings.reads:
        case "last_user":
            text = request.last_user_text
        case "system_and_last_user":
            system = (message.text for message in request.messages if message.role in {"system", "developer"})
            text = "\n".join([*system, request.last_user_text])
        case "conversation":
            text = "\n".join(message.text for message in request.messages)
    return excerpt(text, settings.max_characters)


def matching_cues(text: str, cues: Cues) -> frozenset[str]:
    """Names of the keyword lists of which a word occurs in the text."""
    lowered = text.lower()
    lists = {"hard_code": cues.hard_code, "reasoning": cues.reasoning, "simple": cues.simple}
    return frozenset(name for name, words in lists.items() if any(word in lowered for word in words))


def classified(classifier: Classifier, text: str, prompt_tokens: int) -> tuple[Classification, PromptTier | None]:
    """The classification, and a tier only when the classifier failed and the length must say it.

    A classifier must never stop a request, whatever it meets: any error is logged and the length decides.
    """
    try:
        return classifier.classify(text), None
    except Exception:
        log.exception("the classifier failed; the prompt's length decides its tier")
    tier: PromptTier = "simple" if prompt_tokens < _LENGTH_TIERS[0] else "medium"
    if prompt_tokens > _LENGTH_TIERS[1]:
        tier = "complex"
    unknown = tuple(1.0 if name == "Unknown" else 0.0 for name in TASK_TYPES)
    fallback = Classification(
        task_type="Unknown",
        task_probabilities=unknown,
        scores=DimensionScores(),
        complexity={"simple": 0.0, "medium": 0.5, "complex": 1.0}[tier],
        classifier="length",
    )
    return fallback, tier


def tier_of(complexity: float, settings: ClassifierSettings) -> PromptTier:
    """The prior tier of a complexity."""
    if complexity < settings.simple_below:
        return "simple"
    return "medium" if complexity < settings.medium_below else "complex"


def profile_of(request: ChatRequest, classifier: Classifier, settings: ClassifierSettings) -> PromptProfile:
    """What a policy sees of `request`."""
    texts = [message.text for message in request.messages]
    pictures = sum(_pictures(message.content) for message in request.messages)
    tokens = sum(estimated_tokens(text) + _TOKENS_PER_MESSAGE for text in texts) + pictures * _TOKENS_PER_IMAGE
    last_user = request.last_user_text
    found, tier = classified(classifier, text_to_classify(request, settings), tokens)
    return PromptProfile(
        task_type=found.task_type,
        tier=tier or tier_of(found.complexity, settings),
        complexity=found.complexity,
        scores=found.scores,
        task_probabilities=found.task_probabilities,
        classifier=found.classifier,
        prompt_tokens=tokens,
        max_output_tokens=request.max_output_tokens,
        context_characters=sum(map(len, texts)),
        prompt_characters=len(last_user),
        cues=matching_cues(excerpt(last_user, settings.max_characters), settings.cues),
        vector=found.vector,
    )

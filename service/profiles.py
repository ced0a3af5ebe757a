"""From a request and its classification to what a policy sees of it: count, look for cues. Keeps no text."""

from bandit.vocabulary import Ability, Classification, PromptProfile, PromptTier
from service.classifiers import excerpt
from service.settings import ClassifierSettings, Cues
from service.wire import ChatRequest, ContentPart

_TOKENS_PER_IMAGE = 765  # a 1024 x 1024 picture at high detail with OpenAI's models
_TOKENS_PER_MESSAGE = 4
_ASCII_CHARACTERS_PER_TOKEN = 4.0
_BYTES_PER_TOKEN = 3.5  # of UTF-8: about 1.2 Chinese characters a token
_SAMPLE_CHARACTERS = 20_000  # enough to know the bytes per character of a long text


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
    """What is classified of the conversation, whole, by the setting `classifier.reads`."""
    match settings.reads:
        case "last_user":
            return request.last_user_text
        case "system_and_last_user":
            system = (message.text for message in request.messages if message.role in {"system", "developer"})
            return "\n".join([*system, request.last_user_text])
        case "conversation":
            return "\n".join(message.text for message in request.messages)


def matching_cues(text: str, cues: Cues) -> frozenset[str]:
    """Names of the keyword lists of which a word occurs in the text."""
    lowered = text.lower()
    lists = {"hard_code": cues.hard_code, "reasoning": cues.reasoning, "simple": cues.simple}
    return frozenset(name for name, words in lists.items() if any(word in lowered for word in words))


def tier_of(complexity: float, boundaries: tuple[float, float]) -> PromptTier:
    """The prior tier of a complexity: simple under the first boundary, medium under the second."""
    if complexity < boundaries[0]:
        return "simple"
    return "medium" if complexity < boundaries[1] else "complex"


def profile_of(
    request: ChatRequest, found: Classification, boundaries: tuple[float, float], settings: ClassifierSettings
) -> PromptProfile:
    """What a policy sees of `request`. `boundaries` are those of the classifier that gave `found`."""
    texts = [message.text for message in request.messages]
    pictures = sum(_pictures(message.content) for message in request.messages)
    tokens = sum(estimated_tokens(text) + _TOKENS_PER_MESSAGE for text in texts) + pictures * _TOKENS_PER_IMAGE
    last_user = request.last_user_text
    return PromptProfile(
        task_type=found.task_type,
        tier=tier_of(found.complexity, boundaries),
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

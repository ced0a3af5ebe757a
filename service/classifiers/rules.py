"""Keyword rules as a classifier: no weights, nothing learned. Also the coarse scores that both classifiers give."""

from math import exp, log2

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores, TaskType
from service.classifiers.keywords import (
    CONSTRAINT_PHRASES,
    CONSTRAINT_WORDS,
    REASONING_PHRASES,
    REASONING_WORDS,
    RULES,
    SHOT_MARKS,
)
from service.classifiers.reading import SIGNS, Reading, read

N_TYPES = len(TASK_TYPES)
UNKNOWN = TASK_TYPES.index("Unknown")
TIERS = (0.27, 0.33)  # thirds of the complexities over the training prompts
_CERTAINLY_UNKNOWN = tuple(1.0 if number == UNKNOWN else 0.0 for number in range(N_TYPES))

_ZONE_FACTORS = (1.5, 1.0, 0.4, 1.0)  # in the order of ZONES
_RULE_VOTES = tuple(
    tuple((TASK_TYPES.index(rule.task_type), rule.weight * factor) for factor in _ZONE_FACTORS) for rule in RULES
)
_SIGN_VOTES: dict[str, tuple[TaskType, float]] = {
    "question word first": ("Open QA", 0.8),
    "question mark last": ("Open QA", 0.8),
    "code fence": ("Code Generation", 2.0),
    "semicolon": ("Code Generation", 1.5),
    "backslash": ("Other", 1.0),
    "many digits": ("Other", 0.5),
}
_VOTES_OF_SIGN = {
    SIGNS.index(sign): (TASK_TYPES.index(task_type), weight) for sign, (task_type, weight) in _SIGN_VOTES.items()
}


class KeywordRules:
    """Counts which keyword rules fire, English and Chinese, and where in the text."""

    name = "rules/2"
    tiers = TIERS
    # Fitted by benchmarks/train_embedded.py on all its sources: two numbers, beside some 900 phrases written by hand.
    sharpness = 0.91  # probability is proportional to exp(sharpness * votes)
    threshold = 0.3  # a lower highest probability is Unknown

    def classify(self, text: str) -> Classification:
        """Classify a text of any length and language; never raises on a str. Empty text is `Unknown`."""
        reading = read(text)
        if not reading.readable:
            return unknown(reading, text, self.name)
        probabilities = _softmax([self.sharpness * vote for vote in votes(reading)[:UNKNOWN]])
        return classification(reading, text, (*probabilities, 0.0), self.threshold, self.name)


def votes(reading: Reading) -> list[float]:
    """What the rules that fired say for each of `TASK_TYPES`; shape (12,), nothing for `Unknown`."""
    totals = [0.0] * N_TYPES
    for rule, zone in sorted(reading.fired):  # a fixed order, so that sums do not depend on the hash seed
        if rule < len(RULES):
            number, weight = _RULE_VOTES[rule][zone]
            totals[number] += weight
    for sign, (number, weight) in _VOTES_OF_SIGN.items():
        if sign in reading.signs:
            totals[number] += weight
    return totals


def unknown(reading: Reading, text: str, classifier: str) -> Classification:
    """What is said of a text without words, which has no complexity, and of one in a language that is not read."""
    has_words = any(map(str.isalnum, reading.tokens))
    scores = estimated_scores(reading, text, _CERTAINLY_UNKNOWN) if has_words else DimensionScores()
    return Classification(
        task_type="Unknown",
        task_probabilities=_CERTAINLY_UNKNOWN,
        scores=scores,
        complexity=complexity(scores),
        classifier=classifier,
    )


def classification(
    reading: Reading, text: str, probabilities: tuple[float, ...], threshold: float, classifier: str
) -> Classification:
    """The likeliest type with the estimated scores; `Unknown` when unlikelier than `threshold` or told by nothing."""
    likeliest = max(range(N_TYPES), key=probabilities.__getitem__)
    named = probabilities[likeliest] >= threshold and reading.telling
    scores = estimated_scores(reading, text, probabilities)
    return Classification(
        task_type=TASK_TYPES[likeliest] if named else "Unknown",
        task_probabilities=probabilities,
        scores=scores,
        complexity=complexity(scores),
        classifier=classifier,
    )


def complexity(scores: DimensionScores) -> float:
    """NVIDIA's weighted sum of the six scores, as its model card prints it; 0 to 1.2."""
    return round(
        0.35 * scores.creativity
        + 0.25 * scores.reasoning
        + 0.15 * scores.constraints
        + 0.15 * scores.domain_knowledge
        + 0.05 * scores.contextual_knowledge
        + 0.05 * scores.few_shots,
        5,
    )


# What a prompt of each type usually scores, before anything in it is looked at: creativity, reasoning, contextual and
# domain knowledge. Set by hand; the three examples on NVIDIA's model card were the only figures to go by.
_USUAL_SCORES: dict[TaskType, tuple[float, float, float, float]] = {
    "Brainstorming": (0.75, 0.15, 0.05, 0.35),
    "Chatbot": (0.45, 0.10, 0.15, 0.25),
    "Classification": (0.03, 0.25, 0.35, 0.35),
    "Closed QA": (0.03, 0.25, 0.75, 0.40),
    "Code Generation": (0.10, 0.30, 0.10, 0.90),
    "Extraction": (0.02, 0.10, 0.60, 0.35),
    "Open QA": (0.08, 0.15, 0.05, 0.55),
    "Other": (0.05, 0.70, 0.10, 0.50),
    "Rewrite": (0.30, 0.05, 0.35, 0.20),
    "Summarization": (0.05, 0.05, 0.35, 0.45),
    "Text Generation": (0.85, 0.08, 0.05, 0.25),
    "Unknown": (0.30, 0.30, 0.20, 0.50),
}
_USUAL_BY_DIMENSION = tuple(zip(*(_USUAL_SCORES[task_type] for task_type in TASK_TYPES), strict=True))


def estimated_scores(reading: Reading, text: str, probabilities: tuple[float, ...]) -> DimensionScores:
    """Coarse scores: what the likely types usually need, raised by words that ask for reasoning or set constraints."""
    creativity, reasoning, contextual, domain = (
        sum(map(float.__mul__, probabilities, usual)) for usual in _USUAL_BY_DIMENSION
    )
    words = reading.distinct
    chinese = SIGNS.index("chinese") in reading.signs
    reasons = len(words & REASONING_WORDS)
    constraints = len(words & CONSTRAINT_WORDS) + min(2, sum(map(str.isdigit, words)))
    if chinese:
        head = text[:_SCORED_CHARACTERS]
        reasons += sum(phrase in head for phrase in REASONING_PHRASES)
        constraints += sum(phrase in head for phrase in CONSTRAINT_PHRASES)
    # Longer prompts were failed by somewhat more models within a benchmark; nothing else was found to carry over.
    effort = 0.3 * reasons + 0.1 * max(0.0, log2(1 + len(words)) - 4)
    return DimensionScores(
        creativity=_share(creativity),
        reasoning=_share(1 - (1 - reasoning) * exp(-effort)),
        contextual_knowledge=_share(contextual),
        domain_knowledge=_share(domain),
        constraints=_share(1 - 0.85 * exp(-0.3 * constraints)),
        few_shots=float(_shots(text)),
    )


_SCORED_CHARACTERS = 1_000


def _shots(text: str) -> int:
    """Solved examples before the question: how often a mark such as "Output:" comes back, at most 5."""
    head = text[: 4 * _SCORED_CHARACTERS].lower()
    if ":" not in head and "：" not in head:
        return 0
    return min(5, max(0, max(head.count(mark) for mark in SHOT_MARKS) - 1))


def _share(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 4)


def _softmax(logits: list[float]) -> list[float]:
    highest = max(logits)
    odds = [exp(logit - highest) for logit in logits]
    total = sum(odds)
    return [odd / total for odd in odds]

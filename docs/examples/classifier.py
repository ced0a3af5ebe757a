"""A classifier of your own: your application knows which kind of prompt it sends, and writes it in the first line.

Run it: .venv/bin/python docs/examples/classifier.py
"""

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores, TaskType
from service.classifiers import Classifier
from service.classifiers.rules import KeywordRules
from service.profiles import profile_of
from service.settings import ClassifierSettings
from service.wire import ChatRequest, Message

_LABELS: dict[str, TaskType] = {"#code": "Code Generation", "#sum": "Summarization", "#ask": "Open QA"}
_COMPLEXITY = {"#code": 0.5, "#sum": 0.3, "#ask": 0.2}


class Labelled:
    """Reads the label; a text without one is left to the keyword rules."""

    name = "labelled/1"  # stored with every decision: a change of behaviour is a new version
    tiers = (0.25, 0.45)  # complexities under the first are simple, under the second medium

    def __init__(self) -> None:
        self._others = KeywordRules()

    def classify(self, text: str) -> Classification:
        """Never raises, and takes microseconds: it runs on the event loop."""
        label = text.lstrip().partition("\n")[0].strip().lower()
        if label not in _LABELS:
            return self._others.classify(text)
        task_type = _LABELS[label]
        return Classification(
            task_type=task_type,
            task_probabilities=tuple(float(one == task_type) for one in TASK_TYPES),
            scores=DimensionScores(),
            complexity=_COMPLEXITY[label],
            classifier=self.name,
        )


def main() -> None:
    """Classify as the service does, and see what a policy would."""
    classifier: Classifier = Labelled()  # the type checker holds it against the contract
    for text in ("#code\nReverse a list.", "Rewrite this sentence politely: give me that.", ""):
        found = classifier.classify(text)
        request = ChatRequest(messages=[Message(role="user", content=text)])
        profile = profile_of(request, found, classifier.tiers, ClassifierSettings())
        print(f"{text!r}: {profile.task_type}, {profile.tier}, by {profile.classifier}")


if __name__ == "__main__":
    main()

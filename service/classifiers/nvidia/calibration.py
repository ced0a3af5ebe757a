"""What the inputs of the encoder's linear layers are like, observed in fp32 on a few texts of every kind."""

import numpy as np
import onnxruntime

from service.classifiers.nvidia.checkpoint import Checkpoint
from service.classifiers.nvidia.graph import INPUT, build_graph
from service.classifiers.nvidia.quantisation import Inputs
from service.errors import UnusableWeights

# Of every kind and of several lengths and languages; none is in the gate's set, which judges the outcome.
TEXTS = (
    "hi",
    "What is the capital of Mongolia?",
    "Who wrote the first dictionary of Icelandic, and in which century?",
    "Name three causes of the French Revolution and say which of them historians argue about most.",
    "Tell me a joke about a plumber who is afraid of water.",
    "I had an awful day at work. My manager took credit for my report again. What should I do?",
    "Write a Python function that merges two sorted lists without using sort(), with type hints and a docstring.",
    "def area(r):\n    return 3.14 * r * r\n\nThis gives the wrong result for strings. Fix it and add a test.",
    "SELECT name, count(*) FROM orders GROUP BY customer_id;  -- why does Postgres refuse this query?",
    (
        "Summarise in two sentences: The council voted seven to four to close the swimming hall from October, because "
        "the boiler cannot be repaired and a new one would cost more than the hall earns in ten years. Parents "
        "protested in front of the town hall, and the rowing club offered its training room for the winter."
    ),
    "Rewrite the following so that a lawyer would be satisfied: you can stay in the flat until we find somebody else.",
    "Translate into formal German: Could you send me the invoice by Friday?",
    (
        "Classify each line as complaint, praise or question.\n1. Where is my parcel?\n2. Best soup in town!\n"
        "3. The door still squeaks."
    ),
    "Extract all names and amounts as JSON from: Ann paid 30 euros, Bo 12.50 and the rest was on Mr Okafor.",
    "Give me fifteen ideas for a stall at a school fair that need neither electricity nor water.",
    (
        "Write a poem of exactly eight lines about fog over a harbour. Every second line must rhyme, no word longer "
        "than seven letters, and the last word is 'home'."
    ),
    "Q: 2 + 2?\nA: 4\nQ: 3 + 5?\nA: 8\nQ: 11 + 6?\nA:",
    "Prove that the square root of 3 is irrational, step by step, then explain the idea of the proof to a child.",
    "A train leaves at 9:40 and needs 2 h 35 min, another at 10:05 and needs 1 h 50 min. Which arrives first?",
    "Compare optimistic and pessimistic locking for a booking system with few conflicts. Recommend one and say why.",
    (
        "You are a strict editor. Shorten this paragraph by half and keep every number: In 2019 the harbour handled "
        "1,204 ships, 13 % fewer than in 2018, while the average load grew from 8,100 to 9,450 tonnes."
    ),
    (
        "Based only on the text, answer: Who repaired the clock? Text: The clock stopped in May. Old Weber looked at "
        "it, shook his head and sent for his niece, who had it running before supper."
    ),
    "请用三句话解释什么是通货膨胀，并举一个生活中的例子。",
    "写一封简短的邮件，向客户说明发货会推迟两天，语气要礼貌。",
    "Schreibe eine kurze Einladung zum Sommerfest der Feuerwehr, mit Datum, Ort und Hinweis auf das Kuchenbuffet.",
    "Explique en deux phrases la différence entre un virus et une bactérie.",
    "<html><body><h1>Menu</h1><ul><li>Soup</li></ul></body></html> make the list horizontal with CSS",
    "Plan a three-day trip to Lisbon for two people who dislike museums, with a budget of 400 euros, as a table.",
    "???",
    "Continue the story: The letter had been under the carpet for thirty years when the new tenant found it.",
)


def observed_inputs(checkpoint: Checkpoint) -> dict[str, Inputs]:
    """By the name of the linear layer. Raises UnusableWeights when the weights overflow."""
    graph, tensors = build_graph(checkpoint, observe=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    shared = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in tensors.values()]
    options.add_external_initializers(list(tensors), shared)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name.startswith(INPUT)]
    seen: dict[str, list[Inputs]] = {name: [] for name in names}
    tokens = 0
    for text in TEXTS:
        ids = np.array([checkpoint.tokenizer.encode(text).ids])
        rows = {"rows": np.asarray(checkpoint.embeddings[ids]), "mask": np.ones(ids.shape, np.float32)}
        for name, values in zip(names, session.run(names, rows), strict=True):
            seen[name].append(Inputs(values.sum(axis=0), values.min(axis=0), values.max(axis=0)))
        tokens += ids.size
    found = {}
    for name, parts in seen.items():
        sums, lowest, highest = map(np.stack, zip(*parts, strict=True))
        inputs = Inputs(sums.sum(axis=0) / np.float32(tokens), lowest.min(axis=0), highest.max(axis=0))
        if not all(np.isfinite(part).all() for part in inputs):
            raise UnusableWeights(f"{checkpoint.folder}: hidden states overflow float32, these weights cannot be used.")
        found[name.removeprefix(INPUT)] = inputs
    return found

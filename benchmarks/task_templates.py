"""Prompts of every task type from wordings of our own: `python -m benchmarks.task_templates` shows some.

The wordings, what fills them and the sentences of their texts are in benchmarks/templates, in English and Chinese; all
of them were written for this purpose. Deterministic.
"""

import random
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "templates"
_EITHER = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"\{([a-z_]+)\}")
_A = re.compile(r"\b([Aa]) (?=[aeio])(\w)")
_AN = re.compile(r"\b([Aa])n (?=[b-df-gj-np-tv-z])(\w)")

# Where the request stands: before the text, after it, or in a frame. {i} is the request, {t} the text.
LAYOUTS = (
    "{i}\n\n{t}", "{i}\n{t}", "{i} {t}", "{i}\n{t}\n", "{t}\n\n{i}", "{t}\n{i}", "{t} {i}", "{t}\n\n\n{i}",
    '{i}\n\n"{t}"', '"{t}"\n\n{i}', '{i} "{t}"', "{i}\n\nText: {t}", "{i}\n\nInput: {t}\nOutput:",
    "{i}\nInput: {t}", "{i}\n{t}\nOutput:", "Definition: {i}\nInput: {t}\nOutput:", "Text: {t}\n\n{i}",
    "Instruction: {i}\nInput: {t}\nOutput:", "### Instruction:\n{i}\n\n### Input:\n{t}\n\n### Response:\n",
    "Task: {i}\n\n{k}: {t}", "{k}: {t}\n\n{i}", "{k}:\n{t}\n\n{i}", "{t}\n\n{i}\nAnswer:", "{i}\n\n{k}: {t}\n\nAnswer:",
    "Passage: {t}\nQuestion: {i}", "{t}\n\nQuestion: {i}\nAnswer:", "{i}\n---\n{t}\n---", "{i}\n\n```\n{t}\n```",
    "Hi, here is something I have: {t}\n\n{i}", "{i}\nSentence: {t}", "Context: {t}\n\n{i}",
)  # fmt: skip
LAYOUTS_ZH = (
    "{i}\n\n{t}", "{i}\n{t}", "{i}{t}", "{i}：{t}", "{t}\n\n{i}", "{t}\n{i}", "{t}{i}", "{i}“{t}”", "“{t}”{i}",
    "{i}\n文本：{t}", "{i}\n输入：{t}\n输出：", "指令：{i}\n输入：{t}", "文章：{t}\n问题：{i}", "{i}\n原文：{t}",
    "材料：{t}\n\n{i}", "{t}\n\n问：{i}\n答：", "任务：{i}\n内容：{t}", "{i} {t}", "{i}句子：{t}",
)  # fmt: skip
BEFORE = ("", "", "", "", "", "Please ", "Can you ", "I need you to ", "Could you please ", "Your task: ", "Now ")
AFTER = ("", "", "", "", "", "", " Thanks!", " Be concise.", " Answer in English.", " Do not add anything else.")


class Prompt(NamedTuple):
    """One made-up prompt."""

    text: str
    task_type: str
    chinese: bool
    with_text: bool
    template: int  # line of the wording among those of its language


@cache
def _sections(name: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line.replace("\\n", "\n"))
    return sections


@cache
def _fillings() -> dict[str, list[str]]:
    lines = (FOLDER / "fillings.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(": ", 1) for line in lines if line and not line.startswith("#")]
    return {name: [choice.strip().replace("\\n", "\n") for choice in choices.split(" | ")] for name, choices in pairs}


def expanded(wording: str, draw: random.Random, depth: int = 0) -> str:
    """The wording with one of each pair of alternatives and every slot filled."""
    while found := _EITHER.search(wording):
        wording = wording[: found.start()] + draw.choice(found[1].split("|")) + wording[found.end() :]
    if depth > 4:
        return wording

    def filling(slot: re.Match[str]) -> str:
        choices = _fillings().get(slot[1])
        return expanded(draw.choice(choices), draw, depth + 1) if choices else slot[0]

    return _AN.sub(r"\1 \2", _A.sub(r"\1n \2", _SLOT.sub(filling, wording)))


def made_up_text(draw: random.Random, *, chinese: bool) -> str:
    """A few sentences of one genre."""
    sections = {name: lines for name, lines in _sections("texts.txt").items() if name.startswith("zh") is chinese}
    lines = sections[draw.choice(sorted(sections))]
    count = min(len(lines), draw.choice((1, 1, 1, 2, 3, 4, 6, 8)))
    separator = "\n" if ":" in lines[0][:12] or "|" in lines[-1] else "" if chinese else " "
    return separator.join(expanded(line, draw) for line in draw.sample(lines, count))


def _laid_out(request: str, draw: random.Random, *, chinese: bool) -> str:
    text = made_up_text(draw, chinese=chinese)
    if chinese:
        return draw.choice(LAYOUTS_ZH).format(i=request, t=text)
    kind = draw.choice(
        ("Passage", "Article", "Text", "Context", "Paragraph", "Review", "Sentence", "Document", "Story")
    )
    return draw.choice(LAYOUTS).format(i=request, t=text, k=kind)


def _said(request: str, draw: random.Random, *, chinese: bool) -> str:
    if chinese or not request[:1].isupper() or "\n" in request:
        return request
    before = draw.choice(BEFORE) if request.split(maxsplit=1)[0] not in _NO_IMPERATIVE and request[-1:] == "." else ""
    request = before + (request[0].lower() + request[1:] if before else request)
    if draw.random() < 0.1:
        request = request.lower().rstrip(".")
    return request + (draw.choice(AFTER) if request[-1:] in ".?" else "")


_NO_IMPERATIVE = {
    "As", "Are", "Based", "Can", "Could", "Did", "Do", "Does", "From", "Given", "Has", "Have", "How", "I", "I'm", "If",
    "In", "Is", "It", "It's", "Let's", "My", "Please", "The", "This", "Today", "Using", "Was", "We", "What", "When",
    "Where", "Which", "Who", "Why", "Will", "Would", "You",
}  # fmt: skip


def made_up(per_wording: int = 6, seed: int = 0) -> list[Prompt]:
    """Several prompts of every wording, those of one language after those of the other."""
    draw = random.Random(seed)
    prompts = []
    for name, chinese in (("english.txt", False), ("chinese.txt", True)):
        number = 0
        for section, wordings in _sections(name).items():
            task_type, _, form = section.replace(" with text", "|with text").replace(" alone", "|alone").partition("|")
            for wording in wordings:
                number += 1
                for _ in range(per_wording):
                    request = _said(expanded(wording, draw), draw, chinese=chinese)
                    text = _laid_out(request, draw, chinese=chinese) if form == "with text" else request
                    prompts.append(Prompt(text.strip(), task_type, chinese, form == "with text", number))
    return prompts


if __name__ == "__main__":
    for prompt in random.Random(1).sample(made_up(), 60):
        print(f"{prompt.task_type:16} {prompt.text!r}")

"""Weak evidence against a reply: refusal, uncertainty, repetition, another language, code that does not parse."""

import ast
import re
import warnings

from service.quality import Exchange, Heuristic

_READ = 20_000  # characters of a reply, its head
_REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:not|'t)|won't) (?:help|assist|provide|do that|comply)"
    r"|\bas an AI\b|很抱歉|抱歉，|对不起，我|我(?:无法|不能)(?:提供|帮助|满足|回答)|作为一个(?:AI|人工智能)",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 200  # characters from the start: further on it is a topic, not a refusal
_UNCERTAINTY = re.compile(
    r"\b(?:I'm|I am) not (?:sure|certain)\b|\bnot entirely sure\b|\bit(?:'s| is) unclear\b|\bcannot determine\b"
    r"|\bI don't know\b|\bhard to say\b|不确定|不太清楚|无法确定|我不知道|说不准",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]\s+|[。！？\n]+")
_CJK = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_NAMES_A_LANGUAGE = re.compile(
    r"translat|english|chinese|mandarin|french|spanish|german|japanese|korean|翻译|英文|英语|中文|汉语|法语|日语|译",
    re.IGNORECASE,
)
_FENCE = re.compile(r"```(\w*)[^\n]*\n(.*?)```", re.DOTALL)
_PROMPT_LIKE = re.compile(r"^\s*(?:>>>|\.\.\.|\$ |%|!)", re.MULTILINE)
_LARGEST_CODE = 10_000  # characters that are parsed


def refusal(exchange: Exchange) -> str | None:
    """The model declines."""
    if exchange.refusal:
        return "the model refused"
    if exchange.finish_reason == "content_filter":
        return "the provider's filter stopped the reply"
    return "the reply begins like a refusal" if _REFUSAL.search(exchange.reply[:_REFUSAL_WITHIN]) else None


def uncertainty(exchange: Exchange) -> str | None:
    """The model says that it does not know."""
    return "words of uncertainty" if _UNCERTAINTY.search(exchange.reply[:_READ]) else None


def repetition(exchange: Exchange) -> str | None:
    """The same sentences, or the same words in a row, again and again."""
    text = exchange.reply[:_READ]
    sentences = [part.strip() for part in _SENTENCE_END.split(text) if len(part.strip()) > 8]
    if len(sentences) > 3 and len(set(sentences)) < 0.7 * len(sentences):
        return f"{len(sentences) - len(set(sentences))} of {len(sentences)} sentences are repeated"
    words = text.split()
    grams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    if len(grams) > 30 and len(set(grams)) < 0.5 * len(grams):
        return "more than half of its word sequences are repeated"
    return None


def wrong_language(exchange: Exchange) -> str | None:
    """Chinese was asked and Latin script answered, or the other way round, without the prompt naming a language."""
    prompt, reply = exchange.prompt[:2_000], exchange.reply[:2_000]
    if "```" in reply or exchange.json_wanted or _NAMES_A_LANGUAGE.search(prompt + exchange.system[:2_000]):
        return None
    asked, answered = _script(prompt), _script(reply)
    if asked and answered and asked != answered:
        return f"the prompt is written in {asked}, the reply in {answered}"
    return None


def _script(text: str) -> str:
    """The script that clearly prevails; empty when none does."""
    chinese, latin = len(_CJK.findall(text)), len(_LATIN.findall(text))
    if chinese >= 8 and chinese > latin:
        return "Chinese"
    return "Latin" if latin >= 40 and latin > 20 * chinese else ""


def broken_code(exchange: Exchange) -> str | None:
    """A fenced block of Python that does not parse."""
    if "```" not in exchange.reply:
        return None
    for language, code in _FENCE.findall(exchange.reply[:_READ]):
        if language.lower() in {"python", "py", "python3"} and len(code) <= _LARGEST_CODE:
            if _PROMPT_LIKE.search(code) or "..." in code or "…" in code:
                continue  # a session of an interpreter, or a sketch
            if not _parses(code):
                return "a block of Python does not parse"
    return None


def _parses(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the code, not of ours
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


SOFT: tuple[Heuristic, ...] = (
    Heuristic(name="refusal", find=refusal, weight=0.3),
    Heuristic(name="uncertainty", find=uncertainty, weight=0.2),
    Heuristic(name="repetition", find=repetition, weight=0.3),
    Heuristic(name="wrong_language", find=wrong_language, weight=0.3),
    Heuristic(name="broken_code", find=broken_code, weight=0.3),
)

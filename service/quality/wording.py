"""Soft heuristics that read the words of a reply, in English and Chinese: refusing, doubting, repeating, wrong script.

Every list of words is short on purpose: a phrase that also stands in good replies costs more than one that is missed.
"""

import re

from service.quality import Exchange
from service.quality.passages import passages, read_part

_START_CHARACTERS = 300  # where refusals stand

_ASKS_FOR_REFUSAL = re.compile(r"refus|declin|reject|apolog|拒绝|婉拒|谢绝|道歉|致歉")
_REFUSAL = re.compile(
    r"i(?: can't| cannot| can not| won't| will not|'m unable to| am unable to|'m not able to| am not able to)"
    r" (?:be able to )?(?:help(?! but)|assist|provide|comply|fulfil|answer|create|generate|write|produce|share"
    r"|discuss|engage in|participate in|support|do (?:that|this)|access|browse|continue with|complete|process"
    r"|offer|give (?:you|advice|instructions)|respond to|disclose|reveal)\b"
    r"|i(?:'m| am) sorry,? but i (?:can't|cannot)\b"
    r"|i (?:must|have to) (?:respectfully |politely )?decline\b"
    r"|as an ai(?: language model| assistant)?,? i (?:can't|cannot|am unable to|am not able to)"
    r"|against my (?:guidelines|programming|policies)"
    r"|(?:抱歉|对不起|不好意思|遗憾)[^。！？\n]{0,12}(?:无法|不能|没办法)[^。！？\n]{0,8}"
    r"(?:提供|协助|帮|回答|回应|完成|生成|处理|满足|执行|参与|讨论|支持|访问|透露|继续|创作|编写)"
    r"|我(?:无法|不能|没办法)(?:[为向给就对][您你此]|直接|继续)?"
    r"(?:提供|协助|帮助|帮[您你]|回答|回应|完成|生成|处理|满足|执行|讨论|访问|透露)"
    r"|作为(?:一[个名款])?(?:ai|人工智能|大?语言模型)[^。！？\n]{0,12}(?:无法|不能|没有)"
)

_UNCERTAIN_ENGLISH = (
    "i'm not sure", "i am not sure", "i'm not entirely sure", "i am not entirely sure", "i'm not certain",
    "i am not certain", "i'm unsure", "i am unsure", "i'm not confident", "i am not confident", "i don't know if",
    "i don't know whether", "i don't know the", "i do not know if", "i do not know whether", "i do not know the",
    "it is unclear", "it's unclear", "unclear to me", "not clear to me", "cannot determine", "can't determine",
    "cannot be determined", "unable to determine", "i might be wrong", "i may be wrong", "i could be wrong",
)  # fmt: skip
# The look-behinds leave out advice ("if you are not sure"), the look-aheads words like uncertainty. They stand after
# the first character, so that the search can jump from one first character to the next.
_UNCERTAIN_CHINESE = re.compile(
    r"不(?<![您你果若]不)(?:太|是很|能|大)?确定(?![性度的]|因素|关系|系数|原理)|不(?<![您你果若]不)(?:太|是很|大)清楚"
    r"|我(?:也)?不清楚|我(?:也)?不知道|无(?<![您你果若]无)法(?:确定|判断)(?![性的])|难(?<![您你果若]难)以确定|拿不准|说不准"
)
_QUOTED = re.compile(r'"[^"\n]*"|“[^“”\n]*”|「[^「」\n]*」')

_ASKS_FOR_REPETITION = re.compile(r"repeat|lyric|song|poem|chant|rhyme|mantra|times|重复|歌|诗|遍|童谣|口号")
_MARKERS = " \t\r-*#|>0123456789"  # of lists, headings and tables
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)|[。！？\n]+")
_LOOP_CHARACTERS = 3_000  # at the end of a reply: a model that loops does so until it is stopped

_NAMES_A_LANGUAGE = re.compile(
    r"translat|language|english|chinese|mandarin|cantonese|japanese|korean|russian|french|german|spanish|italian"
    r"|portuguese|arabic|ukrainian|pinyin|romaji|翻译|译[成为文出]|[英中汉日韩俄法德]文|[英汉国日韩俄法德外双粤]语"
    r"|西班牙|葡萄牙|阿拉伯|意大利|拼音|语言"
)


def find_refusal(exchange: Exchange) -> str | None:
    """The model says that it will not or cannot do what was asked."""
    if exchange.refusal:
        return "the provider marked the reply as a refusal"
    if exchange.finish_reason == "content_filter":
        return "a content filter stopped the reply"
    if not _REFUSAL.search(_plain(exchange.reply.lstrip()[:_START_CHARACTERS])):
        return None
    asked_for = _ASKS_FOR_REFUSAL.search(_plain(read_part(exchange.prompt)))
    return None if asked_for else "the reply begins like a refusal"


def find_uncertainty(exchange: Exchange) -> str | None:
    """The model says of itself that it does not know."""
    text = _plain(passages(read_part(exchange.reply)).prose)
    if not _doubt(text):
        return None
    doubt = _doubt(_QUOTED.sub(" ", text))  # what others say in the reply is not the model's doubt
    if doubt and doubt not in _plain(read_part(exchange.prompt)):
        return "the reply says that it is not sure"
    return None


def _doubt(text: str) -> str:
    """The first phrase of doubt; empty when there is none."""
    phrase = next((phrase for phrase in _UNCERTAIN_ENGLISH if phrase in text), "")
    if not phrase and not text.isascii() and (match := _UNCERTAIN_CHINESE.search(text)):
        return match.group()
    return phrase


def find_repetition(exchange: Exchange) -> str | None:
    """The reply says the same again and again."""
    if exchange.json_wanted:
        return None
    prose = passages(read_part(exchange.reply)).prose
    found = _repeated_sentences(prose) or _repeated_pieces(prose)
    return None if found and _ASKS_FOR_REPETITION.search(_plain(read_part(exchange.prompt))) else found


def _repeated_sentences(prose: str) -> str | None:
    parts = [part.strip(_MARKERS).lower() for part in _SENTENCE_END.split(prose)]
    # Labels and fields of lists return in good replies; three words, or four characters of Chinese, make a sentence.
    sentences = [part for part in parts if part.count(" ") >= 2 or (len(part) >= 4 and not part.isascii())]
    distinct = len(set(sentences))
    if len(sentences) > 3 and distinct < 0.7 * len(sentences):
        return f"of {len(sentences)} sentences only {distinct} differ"
    return None


def _repeated_pieces(prose: str) -> str | None:
    words = prose[-_LOOP_CHARACTERS:].lower().split()
    text = " ".join(words)  # the padding of tables is no repetition
    if len(words) * 12 >= len(text):  # a script with spaces between its words
        pieces = len(words) - 3
        distinct = len({*zip(words, words[1:], words[2:], words[3:], strict=False)})
    else:
        pieces = len(text) - 7
        distinct = len({text[start : start + 8] for start in range(pieces)})
    if pieces >= 40 and 2 * distinct < pieces:
        return f"of {pieces} pieces of text only {distinct} differ"
    return None


def find_wrong_language(exchange: Exchange) -> str | None:
    """The reply is in another script than the prompt, and nobody asked for that."""
    if exchange.json_wanted or (exchange.prompt.isascii() and exchange.reply.isascii()):
        return None
    asked, answered = _scripts(exchange.prompt), _scripts(exchange.reply)
    asked_all, answered_all = sum(asked.values()), sum(answered.values())
    if asked_all < 4 or answered_all < 10:  # words: too short to tell
        return None
    expected, got = max(asked, key=asked.__getitem__), max(answered, key=answered.__getitem__)
    clear = asked[expected] >= 0.65 * asked_all and answered[got] >= 0.8 * answered_all
    if expected == got or not clear or answered[expected] > 0.05 * answered_all or _looks_like_code(exchange.reply):
        return None
    if any(_NAMES_A_LANGUAGE.search(_plain(read_part(text))) for text in (exchange.prompt, exchange.system)):
        return None
    return f"the prompt is in {expected} script, the reply in {got}"


_NOT_LETTERS = bytes(code for code in range(256) if not chr(code).isalpha() or code > 127)
_CODE_SIGNS = frozenset("{}();=<>_")
# The script of a character is told by the high byte of its UTF-16 form: one pass in C, where a regex per script would
# take as long as all other heuristics together. The factor makes one letter a share of a word.
_SCRIPT_PAGES: dict[str, tuple[bytes, float]] = {
    "Chinese or Japanese": (bytes([0x30, *range(0x34, 0xA0)]), 1.0),
    "Korean": (bytes(range(0xAC, 0xD8)), 0.5),
    "Cyrillic": (bytes([0x04]), 0.25),
    "Arabic": (bytes([0x06]), 0.25),
}


def _scripts(text: str) -> dict[str, float]:
    """About how many words of each script the prose of a text has."""
    prose = passages(read_part(text)).prose
    words = {"Latin": 0.25 * len(prose.encode("ascii", "ignore").translate(None, _NOT_LETTERS))}
    if not prose.isascii():
        pages = prose.encode("utf-16-le", "replace")[1::2]
        for script, (own, factor) in _SCRIPT_PAGES.items():
            words[script] = factor * (len(pages) - len(pages.translate(None, own)))
    return {"Chinese or Japanese": 0.0, "Korean": 0.0, "Cyrillic": 0.0, "Arabic": 0.0, **words}


def _looks_like_code(text: str) -> bool:
    prose = passages(read_part(text)).prose
    return sum(prose.count(sign) for sign in _CODE_SIGNS) > 0.03 * len(prose)


def _plain(text: str) -> str:
    """Small letters, and the typewriter's apostrophe."""
    return text.lower().replace("’", "'")

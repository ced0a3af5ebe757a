"""What is read of a reply: a bounded part of it, with code told from prose."""

from typing import NamedTuple

READ_CHARACTERS = 20_000  # at each end; what stands between is not read
_FENCE = "```"


class Block(NamedTuple):
    """A closed code fence."""

    language: str  # first word after the opening fence, in small letters; "" when there is none
    body: str


class Passages(NamedTuple):
    """A text, cut at its code fences."""

    prose: str
    blocks: tuple[Block, ...] = ()
    unclosed: bool = False  # the text ends inside a fence


def read_part(text: str) -> str:
    """Head and tail of a long text, so that reading it costs no more than reading 40,000 characters."""
    if len(text) <= 2 * READ_CHARACTERS:
        return text
    # An odd number of fences in what is left out means that the tail begins on the other side of a fence than the head
    # ended on.
    crossed = text.count(_FENCE, READ_CHARACTERS, len(text) - READ_CHARACTERS) % 2
    return text[:READ_CHARACTERS] + "\n" + (_FENCE + "\n") * crossed + text[-READ_CHARACTERS:]


def passages(text: str) -> Passages:
    r"""Tell prose from fenced code, line by line.

    >>> passages("Try this:\n```Python\nprint(1)\n```\nDone.")
    Passages(prose='Try this:\nDone.', blocks=(Block(language='python', body='print(1)'),), unclosed=False)
    """
    if _FENCE not in text:
        return Passages(text)
    prose: list[str] = []
    blocks: list[Block] = []
    body: list[str] = []
    language = fence = ""
    for line in text.split("\n"):
        stripped = line.strip()
        ticks = len(stripped) - len(stripped.lstrip("`")) if stripped.startswith(_FENCE) else 0
        if fence:
            if ticks >= len(fence) and ticks == len(stripped):
                blocks.append(Block(language, "\n".join(body)))
                fence = ""
            else:
                body.append(line)
        elif ticks and "`" not in stripped[ticks:]:  # else it is ```code``` within a line
            fence, body = "`" * ticks, []
            language = next(iter(stripped[ticks:].split(maxsplit=1)), "").lower()
        else:
            prose.append(line)
    return Passages("\n".join(prose), tuple(blocks), bool(fence))

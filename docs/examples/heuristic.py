"""A heuristic of your own: a reply that promises a link and has none.

Run it: .venv/bin/python docs/examples/heuristic.py
"""

import re

from service.quality import Exchange, Heuristic

_PROMISE = re.compile(r"\b(?:see|here is|follow) (?:the|this|a) link\b", re.IGNORECASE)
_LINK = re.compile(r"https?://|\]\(")
_READ = 20_000  # characters: a heuristic takes bounded time, whatever a model says


def find_missing_link(exchange: Exchange) -> str | None:
    """Say what is wrong, without a word of the prompt or the reply: findings are stored, texts are not."""
    said = exchange.reply[:_READ]
    if _PROMISE.search(said) and not _LINK.search(said):
        return "a link is promised and there is none"
    return None


MISSING_LINK = Heuristic(name="missing_link", find=find_missing_link, weight=0.3)


def main() -> None:
    """Try it on replies."""
    for reply in ("See the link below.", "See the link: https://example.com", "Paris."):
        finding = MISSING_LINK.find(Exchange(prompt="Where can I read more?", reply=reply))
        print(f"{reply!r}: {finding or 'nothing'}")


if __name__ == "__main__":
    main()

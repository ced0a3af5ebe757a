"""What is read of a reply."""

from hypothesis import given
from hypothesis import strategies as st

from service.quality.passages import READ_CHARACTERS, passages, read_part


def test_short_texts_are_read_whole():
    assert read_part("a" * 2 * READ_CHARACTERS) == "a" * 2 * READ_CHARACTERS


def test_of_long_texts_the_ends_are_read():
    text = "a" * READ_CHARACTERS + "b" * 100_000 + "c" * READ_CHARACTERS
    assert read_part(text) == "a" * READ_CHARACTERS + "\n" + "c" * READ_CHARACTERS


def test_a_fence_that_opens_between_the_ends_still_holds_the_tail():
    tail = "code\n```\nprose"
    text = "word " * 8_000 + "\n```python\n" + "x = 1\n" * 8_000 + tail
    assert passages(read_part(text)).prose.endswith("prose")
    assert "x = 1" not in passages(read_part(text)).prose


def test_longer_fences_hold_shorter_ones():
    found = passages("````markdown\n```python\nx\n```\n````\nend")
    assert [(block.language, block.body) for block in found.blocks] == [("markdown", "```python\nx\n```")]
    assert found.prose == "end"


def test_an_unclosed_fence_is_no_block():
    found = passages("before\n```python\nx = 1")
    assert found.unclosed
    assert found.blocks == ()
    assert found.prose == "before"


@given(st.text(alphabet="a`\n ", max_size=200))
def test_no_line_is_invented(text):
    found = passages(text)
    lines = [*found.prose.split("\n"), *(line for block in found.blocks for line in block.body.split("\n"))]
    assert all(line in text for line in lines)

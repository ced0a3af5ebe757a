"""The page with forty models of long names: nothing overlaps, nothing is cut, colours are not confused."""

import re

import pytest
from playwright.sync_api import expect

LONG = "an-organisation/a-model-with-a-long-name-{:02d}-extended-thinking-latest"
NAMES = [LONG.format(number) if number % 3 == 0 else f"model-{number:02d}" for number in range(40)]


def many(found, names=NAMES):
    """What the service would answer of forty models: those it has, again and again, under other names."""
    match found:
        case {"points": points, "models": models}:
            one = next(iter(models.values()))
            return {
                **found,
                "models": {name: {**one, "decisions": 40 - place} for place, name in enumerate(names)},
                "points": [
                    {**point, "models": {name: {**one, "decisions": 40 - place} for place, name in enumerate(names)}}
                    for point in points
                ],
            }
        case {"distribution": _, "models": models}:
            one = next(iter(models.values()))
            told = {
                name: {**one, "calls": 40 - place, "cost_usd": 0.001 * (1 + place % 7)}
                for place, name in enumerate(names)
            }
            return {**found, "models": told}
        case {"cells": cells}:
            model = cells[0]["model"]
            own = [cell for cell in cells if cell["model"] == model]
            return {**found, "cells": [{**cell, "model": name} for name in names for cell in own]}
        case {"quality": [one, *_]}:
            return {**found, "quality": [{**one, "model": name} for name in names]}
        case {"breakers": [one, *_]}:
            return {**found, "breakers": [{**one, "model": name} for name in names]}
    return {**found, "models": names}


@pytest.fixture(params=[1280, 390], ids=["desk", "phone"])
def page(request, open_page, served):
    watched = open_page(request.param)

    def answer(route):
        reply = route.fetch()
        route.fulfill(response=reply, json=many(reply.json()))

    watched.page.route(re.compile(r"/(ready|stats|v1/(traffic|posteriors|heuristics|breakers))(\\?|$)"), answer)
    opened = watched.open(served.url)
    yield opened
    assert watched.errors == []


def test_forty_models_of_long_names(page):
    width = page.viewport_size["width"]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    cut = page.evaluate("""() => [...document.querySelectorAll("th, td")]
        .filter((cell) => cell.offsetParent && !cell.closest(".u-legend") && cell.scrollWidth > cell.clientWidth + 1)
        .map((cell) => cell.textContent)""")
    assert cut == []
    for name in ("posteriors", "reliability", "heuristics", "controls"):
        tables = page.locator(f"#{name} .scroll")
        for one in tables.all():
            assert one.bounding_box()["height"] <= 600  # a long table scrolls in itself, under its heading
    expect(page.locator("#shares .u-legend tr")).to_have_count(1 + 8)
    expect(page.locator("#shares")).to_contain_text("33 other models")
    expect(page.locator("#posteriors .u-legend tr")).to_have_count(1 + 8)
    expect(page.locator("#posteriors .scroll tbody tr")).to_have_count(40)


def test_names_in_the_picture_of_quality_and_cost_do_not_overlap(page):
    boxes = page.evaluate("""() => [...document.querySelectorAll("#money svg circle + text, #money svg text")]
        .filter((one) => /model|latest/.test(one.textContent))
        .map((one) => one.getBoundingClientRect())
        .map(({ left, right, top, bottom }) => [left, right, top, bottom])""")
    assert len(boxes) >= 2
    for place, (left, right, top, bottom) in enumerate(boxes):
        for other_left, other_right, other_top, other_bottom in boxes[:place]:
            apart = right <= other_left or other_right <= left
            assert apart or bottom <= other_top + 3 or other_bottom <= top + 3
    expect(page.locator("#money .figures tbody tr")).to_have_count(40)


def test_the_most_used_models_have_a_colour_of_their_own(page):
    colours = page.evaluate("""() => [...document.querySelectorAll("#reliability table:first-of-type .dot")]
        .map((one) => getComputedStyle(one).backgroundColor)""")[:7]
    assert len(set(colours)) == 7

"""The dashboard's colours as its style sheet has them: readable on their background, and told apart by everybody."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

SHEET = (Path(__file__).parents[1] / "service" / "dashboard" / "style.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    for block in re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
)
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
MODELS = [f"model-{number}" for number in range(8)]

# How colours look without one kind of cones: Machado, Oliveira and Fernandes (2009), severity 1.
SIGHTS = {
    "everybody": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour):
    """Linear sRGB, as WCAG 2.2 defines it."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG's ratio of two colours, 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb):
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_measures_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(linear("#ff0000")) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


@THEMES
def test_text_is_readable(theme):
    for text in ("text", "quiet", "accent", "good", "bad"):
        for ground in ("page", "card"):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    assert contrast(theme["on-accent"], theme["accent"]) >= 4.5


@THEMES
def test_marks_stand_off_their_ground(theme):
    for mark in (*MODELS, "good", "bad", "accent"):
        for ground in ("card", "track"):
            assert contrast(theme[mark], theme[ground]) >= 3.0, (mark, ground)


@THEMES
@pytest.mark.parametrize("sight", SIGHTS)
def test_models_are_told_apart(theme, sight):
    seen = [lab(np.array(SIGHTS[sight]) @ linear(theme[name])) for name in MODELS]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) >= 18.0

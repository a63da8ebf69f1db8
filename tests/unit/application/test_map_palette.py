"""The colours of robots on the map: each can be told from what it is drawn on, in both themes."""

import itertools
import re

import pytest

from app.web.pages import WEB_FOLDER

Colour = tuple[float, ...]
_PALETTE = (WEB_FOLDER / "static" / "palette.js").read_text()
_STYLE = (WEB_FOLDER / "static" / "style.css").read_text()
_LEAST = 3.0  # WCAG 2.2, 1.4.11: graphical objects


def _colour(text: str) -> Colour:
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def _trails(theme: str) -> list[Colour]:
    found = re.search(rf"{theme}: \[(.*?)\]", _PALETTE)
    assert found is not None
    return [_colour(text) for text in re.findall(r"#[0-9a-f]{6}", found[1])]


def _ground(theme: str, name: str) -> Colour:
    found = re.findall(rf"--{name}: (#[0-9a-f]{{6}})", _STYLE)
    return _colour(found[("light", "dark").index(theme)])


def _share(name: str) -> float:
    found = re.search(rf"{name} = ([0-9.]+);", _PALETTE)
    assert found is not None
    return float(found[1])


def _mixed(top: Colour, below: Colour, share: float) -> Colour:
    return tuple(share * a + (1 - share) * b for a, b in zip(top, below, strict=True))


def _luminance(colour: Colour) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [value / 255 for value in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: Colour, other: Colour) -> float:
    darker, lighter = sorted(_luminance(each) + 0.05 for each in (one, other))
    return lighter / darker


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_trail_has_contrast_to_its_ground(theme: str) -> None:
    """Also its oldest part, on free and unknown cells, and in each robot's field of view."""
    trails, free = _trails(theme), _ground(theme, "free")
    grounds = [free, _ground(theme, "unknown")]
    grounds += [_mixed(trail, free, _share("SCAN_ALPHA")) for trail in trails]
    for trail, ground in itertools.product(trails, grounds):
        faded = _mixed(trail, ground, _share("FADED_ALPHA"))
        assert _contrast(faded, ground) >= _LEAST, (trail, ground)
    assert len(set(trails)) == 8


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_walls_have_contrast_to_free_cells(theme: str) -> None:
    """They are what a map is read by."""
    assert _contrast(_ground(theme, "wall"), _ground(theme, "free")) >= _LEAST

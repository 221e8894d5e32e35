"""Curves: where a value stands on an axis, and a panel beneath another."""

import xml.etree.ElementTree as ElementTree

import pytest

from gateway.measuring.curves import WIDTH, Axis, Panel, draw

SVG = "{http://www.w3.org/2000/svg}"
LINEAR, POWERS = Axis(0, 8, [(0, "none"), (8, "all")]), Axis(1, 1000, [], is_log=True)


@pytest.mark.parametrize(
    ("axis", "value", "part"),
    [(LINEAR, 0, 0), (LINEAR, 2, 0.25), (LINEAR, 8, 1), (POWERS, 1, 0), (POWERS, 10, 1 / 3)],
)
def test_a_value_has_its_place_on_an_axis(axis: Axis, value: float, part: float) -> None:
    assert axis.part(value) == pytest.approx(part)


def test_panels_stand_one_beneath_the_other() -> None:
    """Each with its own words and curves, all of them inside the picture."""
    curves = [("rise", [(0, 0), (8, 8)]), ("flat <&>", [(0, 8), (8, 8)])]
    panels = [Panel("first", curves, LINEAR, LINEAR), Panel("second", curves[:1], LINEAR, LINEAR)]
    image = ElementTree.fromstring(draw("a title", panels))
    words = [one.text for one in image.iter(f"{SVG}text")]
    assert [one for one in words if one not in ("none", "all")] == [
        "first", "rise", "flat <&>", "second", "rise",
    ]  # fmt: skip
    lines = [
        [tuple(map(float, place.split(","))) for place in one.attrib["points"].split()]
        for one in image.iter(f"{SVG}polyline")
    ]
    rise, flat, beneath = lines
    assert rise[0][1] > rise[1][1] == flat[0][1] == flat[1][1]
    assert min(down for _, down in beneath) > max(down for _, down in rise)
    height = float(image.attrib["height"])
    assert all(0 < x < WIDTH and 0 < y < height for line in lines for x, y in line)
    assert all(0 < float(one.attrib["y"]) < height for one in image.iter(f"{SVG}text"))
    assert list(image.iter(f"{SVG}circle")) == []

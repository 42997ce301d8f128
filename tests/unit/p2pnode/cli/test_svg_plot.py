"""The plots of ``p2pnode sim --scale``."""

import re
import xml.etree.ElementTree as Xml

import pytest

from p2pnode.cli.svg_plot import PANEL_HEIGHT, PANEL_WIDTH, TICKS, Panel, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_every_panel_is_drawn_within_its_place() -> None:
    line = [(10.0, 5.0), (100.0, 8.0), (10_000.0, 7.5)]
    picture = Xml.fromstring(draw("what <it> costs", [Panel("bids & more", "bids", {"a": line, "b": line[:1]})]))
    texts = [element.text for element in picture.iter(f"{SVG}text")]
    assert {"what <it> costs", "bids & more", "nodes → (bids)", "10", "100", "10k", "a", "b"} <= set(texts)
    first, second = picture.iter(f"{SVG}polyline")
    places = [tuple(map(float, place.split(","))) for place in first.attrib["points"].split()]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert all(0 < x < PANEL_WIDTH and 0 < y < PANEL_HEIGHT for x, y in places)
    assert places[1][1] == min(y for _, y in places), "the largest value is the highest"
    assert second.attrib["points"] == first.attrib["points"].split()[0]


@pytest.mark.parametrize(("largest", "step"), [(8.0, 2), (7.9, 2), (8.1, 2.5), (0.3, 0.1), (1_200.0, 500), (0.0, 0.25)])
def test_the_scale_is_round_and_reaches_the_largest_value(largest: float, step: float) -> None:
    picture = draw("", [Panel("", "", {"a": [(10.0, largest)]})])
    ticks = [float(text) for text in re.findall(r'text-anchor="end" fill="#57606a">([0-9.]+)</text>', picture)]
    assert ticks == pytest.approx([step * number for number in range(TICKS + 1)])


def test_a_panel_without_points_says_so() -> None:
    assert "nothing measured" in draw("", [Panel("certified", "ms", {})])

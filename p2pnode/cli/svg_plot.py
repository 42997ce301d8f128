"""Plots as SVG, written by hand: small panels side by side, the number of nodes from left to right on a log scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, PANEL_HEIGHT = 380, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 44, 40
COLUMNS = 2
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#9a6700")
TICKS = 4
LETTER_WIDTH = 5.6

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: lines by name over the same x."""

    title: str
    unit: str
    lines: Mapping[str, Points]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The whole picture."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % COLUMNS * PANEL_WIDTH, number // COLUMNS * PANEL_HEIGHT + 36
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    parts = [f'<text x="{LEFT}" y="16" font-weight="600">{escape(panel.title)}</text>']
    if not points:
        return [*parts, f'<text x="{LEFT}" y="60" fill="#57606a">nothing measured</text>']
    xs = sorted({x for x, _ in points})
    step = _step(max(y for _, y in points) or 1.0)
    scale = _Scale(xs[0], xs[-1], step * TICKS)
    for tick in range(TICKS + 1):
        y = scale.y(tick * step)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{PANEL_WIDTH - RIGHT}" stroke="#d0d7de" stroke-width="1"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#57606a">{tick * step:g}</text>')
    for at in xs:
        text = f'<text x="{scale.x(at):.1f}" y="{PANEL_HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#57606a">'
        parts.append(f"{text}{_short(at)}</text>")
    parts.append(
        f'<text x="{PANEL_WIDTH - RIGHT}" y="{PANEL_HEIGHT - BOTTOM + 31}" text-anchor="end" fill="#57606a">'
        f"nodes → ({escape(panel.unit)})</text>"
    )
    x = float(LEFT)
    for (name, line), color in zip(panel.lines.items(), COLORS, strict=False):
        path = " ".join(f"{scale.x(at):.1f},{scale.y(value):.1f}" for at, value in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{scale.x(at):.1f}" cy="{scale.y(v):.1f}" r="2.5" fill="{color}"/>' for at, v in line]
        parts.append(f'<text x="{x:.0f}" y="32" fill="{color}">{escape(name)}</text>')
        x += LETTER_WIDTH * len(name) + 10
    return parts


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places within a panel."""

    first: float
    last: float
    top: float

    def x(self, value: float) -> float:
        """On a log scale."""
        width = PANEL_WIDTH - LEFT - RIGHT - 20
        if self.last <= self.first:
            return LEFT + 10 + width / 2
        return LEFT + 10 + width * math.log(value / self.first) / math.log(self.last / self.first)

    def y(self, value: float) -> float:
        """From zero up."""
        return PANEL_HEIGHT - BOTTOM - (PANEL_HEIGHT - TOP - BOTTOM) * value / self.top


def _step(largest: float) -> float:
    """A round step of which TICKS reach the largest value."""
    least = largest / TICKS
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * 0.999)


def _short(value: float) -> str:
    return f"{value / 1_000:g}k" if value >= 1_000 else f"{value:g}"

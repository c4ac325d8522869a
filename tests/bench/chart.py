"""The bench's figures as bars, in SVG: one group a payload, each to its own scale, every bar with its figure.

Drawn for a white page and for a dark one: the colours of the bars stand on both, those of the words follow the reader's
scheme, and where no style is applied they are a grey that is legible on either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from bench import Row

WIDTH, MARGIN, LABELS, FIGURES = 760, 16, 190, 130
BAR, GAP, TITLE = 16, 6, 30
BARS = ("#8b949e", "#2f81f7", "#a371f7", "#d4842a")

STYLE = """
    .title { font-weight: 600 }
    @media (prefers-color-scheme: light) { text { fill: #1f2328 } .quiet { fill: #59636e } }
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .quiet { fill: #9198a1 } }
"""
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def draw(rows: Sequence[Row], subjects: Sequence[str]) -> str:
    """The round trips of each payload, and the spawn; `subjects` in their order: the floor, this executor, others."""
    groups = [row for row in rows if row.measure.startswith(("round trip P50", "spawn"))]
    parts: list[str] = []
    y = MARGIN
    for row in groups:
        named = [(name, row.values[name]) for name in subjects if name in row.values]
        scale = (WIDTH - 2 * MARGIN - LABELS - FIGURES) / max(value for _, value in named)
        measure, unit = row.measure.rsplit(", ", 1)
        parts.append(_text(MARGIN, y + 14, f"{row.payload}: {measure}", "title"))
        y += TITLE - GAP
        for at, (name, value) in enumerate(named):
            width = max(value * scale, 1)
            colour = BARS[3] if name == subjects[-1] else BARS[min(at, 2)]
            x = MARGIN + LABELS
            parts.append(_text(x - 8, y + 12, name.rsplit("/", 1)[-1], "quiet", anchor="end"))
            parts.append(f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
            figure = f"{value:.{2 if value < 10 else 0 if value >= 1000 else 1}f} {unit}"
            if at:
                figure += f" ({value / named[0][1]:.2f}×)"
            parts.append(_text(x + width + 6, y + 12, figure))
            y += BAR + GAP
        y += MARGIN
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img">\n'
        "  <title>Round trips and spawn, beside the least that a C child can do</title>\n"
        "  <style>{2}  </style>\n"
        '  <g font-family="{3}" font-size="13" fill="#767676">\n  {4}\n  </g>\n</svg>\n'
    ).format(WIDTH, y, STYLE, FONT, "\n  ".join(parts))


def _text(x: float, y: float, text: str, kind: str = "figure", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

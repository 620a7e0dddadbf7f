"""Figures as SVG that takes its colours and font from the page, and as PNG."""
import io
import re
from pathlib import Path
from typing import Callable

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..files import replacing

# Okabe and Ito's colour-blind-safe palette, as in the PNGs; the page sets its own light and dark
# colours under these names.
INK, MUTED, FAINT, PAPER = '#1b1f24', '#646d7a', '#d5d9e0', '#ffffff'
BLUE, SKY, GREEN, RED, PINK, AMBER = (
    '#0072b2', '#56b4e9', '#009e73', '#d55e00', '#cc79a7', '#e69f00')
NAMES = {INK: 'ink', MUTED: 'muted', FAINT: 'faint', PAPER: 'paper', BLUE: 'blue', SKY: 'sky',
         GREEN: 'green', RED: 'red', PINK: 'pink', AMBER: 'amber'}
WIDTH = 5.2  # inches: 500 pixels, shown at 355 on a phone and at 640 on a desktop
_STYLE = {
    'axes.axisbelow': True, 'axes.edgecolor': MUTED, 'axes.facecolor': 'none',
    'axes.formatter.useoffset': False, 'axes.grid': True, 'axes.labelcolor': INK,
    'axes.spines.right': False, 'axes.spines.top': False, 'figure.facecolor': 'none',
    'font.size': 10., 'grid.color': FAINT, 'grid.linewidth': .7, 'legend.frameon': False,
    'svg.fonttype': 'none', 'text.color': INK, 'text.parse_math': False,  # names may contain $
    'xtick.color': MUTED, 'xtick.labelcolor': INK, 'ytick.color': MUTED, 'ytick.labelcolor': INK,
}

Draw = Callable[[], Figure]


def render(draw: Draw, name: str, folder: Path) -> str:
    """Render a figure as SVG for inline use in HTML, and save it as PNG on white.

    The SVG uses the system font, has no XML namespaces, and its colours are CSS variables.

    Args:
        draw: Function that returns the figure.
        name: Name of the figure, unique within the page.
        folder: Directory of ``NAME.png``. The write is atomic.
    """
    with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):  # keeps ids unique within a page
        figure = draw()
        with replacing(folder / f'{name}.png') as partial:
            figure.savefig(partial, format='png', dpi=200, facecolor=PAPER)
        return _to_svg(figure)


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(
        buffer, metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    svg = buffer.getvalue()
    svg = svg[svg.index('<svg'):]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', '', svg, count=3)
    svg = re.sub(r' id="[\w.]+_\d+"', '', svg)  # ids of groups; referenced ids hold a hash
    svg = re.sub(r"font: ([\d.]+px) '[^;\"]*", r'font: \1 system-ui, sans-serif', svg)
    return re.sub('|'.join(NAMES), lambda match: f'var(--{NAMES[match[0]]})', svg)

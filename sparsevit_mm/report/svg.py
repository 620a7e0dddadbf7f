"""Figures for a page: as SVG that takes colours and font from the page, and as PNG."""
import io
import re
from pathlib import Path
from typing import Callable

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..files import replacing

# Okabe and Ito's colours, which the colour-blind tell apart; the page has others of these names
# for dark screens.
INK, MUTED, FAINT, PAPER = '#1b1f24', '#646d7a', '#d5d9e0', '#ffffff'
BLUE, SKY, GREEN, RED, PINK, AMBER = (
    '#0072b2', '#56b4e9', '#009e73', '#d55e00', '#cc79a7', '#e69f00')
NAMES = {INK: 'ink', MUTED: 'muted', FAINT: 'faint', PAPER: 'paper', BLUE: 'blue', SKY: 'sky',
         GREEN: 'green', RED: 'red', PINK: 'pink', AMBER: 'amber'}
WIDTH = 5.2  # inches: 500 pixels, which a phone shows at 355 and a desk at 640
_STYLE = {
    'axes.axisbelow': True, 'axes.edgecolor': MUTED, 'axes.facecolor': 'none',
    'axes.formatter.useoffset': False, 'axes.grid': True, 'axes.labelcolor': INK,
    'axes.spines.right': False, 'axes.spines.top': False, 'figure.facecolor': 'none',
    'font.size': 10., 'grid.color': FAINT, 'grid.linewidth': .7, 'legend.frameon': False,
    'svg.fonttype': 'none', 'text.color': INK, 'text.parse_math': False,  # names may hold a dollar
    'xtick.color': MUTED, 'xtick.labelcolor': INK, 'ytick.color': MUTED, 'ytick.labelcolor': INK,
}

Draw = Callable[[], Figure]


def render(draw: Draw, name: str, folder: Path) -> str:
    """A figure as SVG, to be put into HTML as it is: it names no font and no address, and is as
    wide as its place. As PNG, too, on white.

    Args:
        draw: Gives the figure.
        name: Of the figure, one for each of a page.
        folder: Gets ``NAME.png``; a failure leaves what stood there before.
    """
    with matplotlib.rc_context({**_STYLE, 'svg.hashsalt': name}):  # ids of one page must differ
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
    svg = re.sub(r' id="[\w.]+_\d+"', '', svg)  # of groups; what is referred to has a hash
    svg = re.sub(r"font: ([\d.]+px) '[^;\"]*", r'font: \1 system-ui, sans-serif', svg)
    return re.sub('|'.join(NAMES), lambda match: f'var(--{NAMES[match[0]]})', svg)

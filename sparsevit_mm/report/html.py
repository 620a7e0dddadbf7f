"""Parts of a self-contained HTML page. The template lays them out and escapes all text."""
import base64
import io
from pathlib import Path
from typing import Collection, NamedTuple, Sequence

import jinja2
from PIL import Image

from .svg import Draw, render

TEMPLATE = 'report.html'
QUALITY = 88  # JPEG quality


class Section(NamedTuple):
    """Section of a page.

    Attributes:
        key: Anchor of the section.
        title: Heading.
        parts: Results of the functions below.
    """
    key: str
    title: str
    parts: Sequence[dict]


def page(title: str, head: Sequence[dict], sections: Sequence[Section]) -> str:
    """Return the HTML of a page, with links to its sections below its head."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, '.'), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(TEMPLATE).render(title=title, head=head, sections=sections)


def paragraph(text: str, kind: str = '') -> dict:
    """Return a paragraph: plain, or of class 'lead', 'how' (reading aid) or 'note' (what is
    missing)."""
    return dict(part='paragraph', text=text, kind=kind)


def tiles(figures: Sequence[Sequence[str]]) -> dict:
    """Return a row of key figures, given as (value, description) pairs."""
    return dict(part='tiles', figures=figures)


def table(heads: Sequence[str], rows: Sequence[Sequence], left: Collection[str] = (),
          wrap: Collection[str] = (), first: bool = False) -> dict:
    """Return a table that scrolls on its own if it is wider than the page.

    Args:
        heads: Column headings.
        rows: Cells of each row; None is shown as a dash.
        left: Headings of the left-aligned columns; the others are right-aligned.
        wrap: Headings in `left` whose cells may wrap.
        first: Whether to highlight the first row.
    """
    kinds = [' '.join(['left'] * (head in left) + ['wrap'] * (head in wrap)) for head in heads]
    return dict(part='table', heads=heads, rows=rows, kinds=kinds, first=first)


def details(summary: str, *parts: dict) -> dict:
    """Return a block that expands on a click."""
    return dict(part='details', summary=summary, parts=parts)


def figure(name: str, draw: Draw, what: str, how: str, folder: Path) -> dict:
    """Return a figure as wide as the page allows, and save it as PNG.

    Args:
        name: File name without suffix, unique within the page.
        draw: Function that returns the figure.
        what: Text alternative for screen readers.
        how: Caption that explains how to read the figure.
        folder: Directory of ``NAME.png``.
    """
    return dict(part='figure', svg=render(draw, name, folder), what=what, how=how)


def picture(path: Path) -> dict:
    """Return an image file embedded as JPEG."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert('RGB').save(buffer, 'JPEG', quality=QUALITY)
    return dict(part='picture', name=path.stem,
                data=base64.b64encode(buffer.getvalue()).decode())

"""Parts of a page: one HTML file that needs nothing beside it. The template lays them out, and
escapes all text."""
import base64
import io
from pathlib import Path
from typing import Collection, NamedTuple, Sequence

import jinja2
from PIL import Image

from .svg import Draw, render

TEMPLATE = 'report.html'
QUALITY = 88  # of JPEGs


class Section(NamedTuple):
    """Attributes:
        key: Its anchor.
        title: Text.
        parts: From the functions below.
    """
    key: str
    title: str
    parts: Sequence[dict]


def page(title: str, head: Sequence[dict], sections: Sequence[Section]) -> str:
    """The HTML of a page, with links to its sections below its head."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, '.'), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(TEMPLATE).render(title=title, head=head, sections=sections)


def paragraph(text: str, kind: str = '') -> dict:
    """Of class 'lead', 'how' (to read what follows) or 'note' (what is missing), or plain."""
    return dict(part='paragraph', text=text, kind=kind)


def tiles(figures: Sequence[Sequence[str]]) -> dict:
    """A row of figures, each with what it is."""
    return dict(part='tiles', figures=figures)


def table(heads: Sequence[str], rows: Sequence[Sequence], left: Collection[str] = (),
          wrap: Collection[str] = (), first: bool = False) -> dict:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        heads: Of the columns.
        rows: Cells; None gives a dash.
        left: Columns aligned to the left, by their heads; numbers are to the right.
        wrap: Those of `left` that may take several lines.
        first: Whether the first row stands out.
    """
    kinds = [' '.join(['left'] * (head in left) + ['wrap'] * (head in wrap)) for head in heads]
    return dict(part='table', heads=heads, rows=rows, kinds=kinds, first=first)


def details(summary: str, *parts: dict) -> dict:
    """What is shown on a click."""
    return dict(part='details', summary=summary, parts=parts)


def figure(name: str, draw: Draw, what: str, how: str, folder: Path) -> dict:
    """A figure as wide as the page allows; a PNG of it goes to the folder.

    Args:
        name: Of the file.
        draw: Gives the figure.
        what: Tells those who do not see it what it shows.
        how: Tells how to read it.
        folder: For ``NAME.png``.
    """
    return dict(part='figure', svg=render(draw, name, folder), what=what, how=how)


def picture(path: Path) -> dict:
    """An image file, as JPEG inside the page."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert('RGB').save(buffer, 'JPEG', quality=QUALITY)
    return dict(part='picture', name=path.stem,
                data=base64.b64encode(buffer.getvalue()).decode())

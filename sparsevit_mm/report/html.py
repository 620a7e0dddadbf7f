"""Parts of a page: one HTML file that needs nothing beside it. All text is escaped here."""
import base64
import html
import io
import pkgutil
from pathlib import Path
from string import Template
from typing import Collection, NamedTuple, Sequence

from PIL import Image

from .svg import Draw, render

TEMPLATE = 'report.html'
QUALITY = 88  # of JPEGs
NONE = '\N{EN DASH}'  # in a cell without a figure


class Section(NamedTuple):
    """Attributes:
        key: Its anchor.
        title: Text.
        parts: HTML.
    """
    key: str
    title: str
    parts: Sequence[str]


def page(title: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """The HTML of a page, with links to its sections below its head."""
    links = ''.join(f'<a href="#{s.key}">{html.escape(s.title)}</a>' for s in sections)
    body = [f'<header><h1>{html.escape(title)}</h1>', *head, f'<nav>{links}</nav></header>']
    for section in sections:
        body += [f'<section id="{section.key}"><h2>{html.escape(section.title)}</h2>',
                 *section.parts, '</section>']
    template = Template(pkgutil.get_data(__package__, TEMPLATE).decode())
    return template.substitute(title=html.escape(title), body='\n'.join(body))


def paragraph(text: str, kind: str = '') -> str:
    """Of class 'lead', 'how' (to read what follows) or 'note' (what is missing), or plain."""
    return f'<p class="{kind}">{html.escape(text)}</p>' if kind else f'<p>{html.escape(text)}</p>'


def tiles(figures: Sequence[Sequence[str]]) -> str:
    """A row of figures, each with what it is."""
    items = ''.join(f'<div class="tile"><b>{html.escape(figure)}</b>'
                    f'<span>{html.escape(what)}</span></div>' for figure, what in figures)
    return f'<div class="tiles">{items}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence], left: Collection[str] = (),
          wrap: Collection[str] = (), first: bool = False) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        heads: Of the columns.
        rows: Cells; None gives a dash.
        left: Columns aligned to the left, by their heads; numbers are to the right.
        wrap: Those of `left` that may take several lines.
        first: Whether the first row stands out.
    """
    def cells(tag: str, row: Sequence) -> str:
        text = []
        for head, value in zip(heads, row):
            kind = ' '.join(['left'] * (head in left) + ['wrap'] * (head in wrap))
            kind = f' class="{kind}"' if kind else ''
            text.append(f'<{tag}{kind}>{html.escape(NONE if value is None else str(value))}'
                        f'</{tag}>')
        return ''.join(text)

    lines = [f'<tr{" class=first" * (first and i == 0)}>{cells("td", row)}</tr>'
             for i, row in enumerate(rows)]
    return (f'<div class="scroll"><table><thead><tr>{cells("th", heads)}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div>')


def details(summary: str, *parts: str) -> str:
    """What is shown on a click."""
    return f'<details><summary>{html.escape(summary)}</summary>{"".join(parts)}</details>'


def figure(name: str, draw: Draw, what: str, how: str, folder: Path) -> str:
    """A figure for desks and one for phones, of which the page shows one; a PNG goes to the folder.

    Args:
        name: Of the file.
        draw: Width in inches -> figure.
        what: Tells those who do not see it what it shows.
        how: Tells how to read it.
        folder: For ``NAME.png``.
    """
    parts = [f'<div class="{kind}" role="img" aria-label="{html.escape(what)}">{svg}</div>'
             for kind, svg in zip(('wide', 'narrow'), render(draw, name, folder))]
    return f'<figure>{"".join(parts)}<figcaption>{html.escape(how)}</figcaption></figure>'


def picture(path: Path) -> str:
    """An image file, as JPEG inside the page."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert('RGB').save(buffer, 'JPEG', quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (f'<figure><div class="scroll"><img alt="{html.escape(path.stem)}" '
            f'src="data:image/jpeg;base64,{data}"></div></figure>')

"""Figures of kept windows: the number of blocks run, overlaid on the image as colour."""
import textwrap
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from ..files import replacing

COLORS = 'viridis'
OPACITY = .5  # of the overlay, so that the image stays visible
DPI = 100
WIDTH = 10.  # of a figure; all sizes are in inches
GAP, HEAD, TITLE, BAR, LABEL = .15, .27, .24, .13, .42


class Counts(NamedTuple):
    """Number of blocks run at each pixel.

    Attributes:
        name: Name of the stage or stages.
        run: (H, W) int, 0 to `blocks`.
        blocks: Total number of blocks.
    """
    name: str
    run: np.ndarray
    blocks: int

    @property
    def share(self) -> float:
        """Share of the image that ran, averaged over blocks. Padding is excluded, so it may differ
        from the share of windows that the sparsity keeps."""
        return float(self.run.mean()) / self.blocks


def sum_of(stages: Sequence[Counts]) -> Counts:
    """Sum the counts of several stages."""
    return Counts('all stages', sum(s.run for s in stages), sum(s.blocks for s in stages))


def draw_stages(image: np.ndarray, stages: Sequence[Counts], title: str) -> np.ndarray:
    """Draw the image, the blocks run over all stages beside it, and each stage below.

    Args:
        image: (H, W, 3) uint8, RGB.
        stages: Counts of each stage, at the image's size.
        title: Title of the figure.

    Returns:
        (h, w, 3) uint8, RGB: a figure 1000 pixels wide.
    """
    wide, narrow = (_cells(n, image) for n in (2, len(stages)))
    figure, top = new_figure(title, wide.step + narrow.step)
    wide.image(figure, top, 0, image, 'image')
    wide.counts(figure, top, 1, image, sum_of(stages))
    for column, stage in enumerate(stages):
        narrow.counts(figure, top + wide.step, column, image, stage)
    return pixels_of(figure)


def draw_panel(image: np.ndarray, stages: Sequence[Counts], others: Dict[str, np.ndarray],
               title: str) -> np.ndarray:
    """Draw the blocks run over all stages beside other pictures of the image.

    Args:
        image: (H, W, 3) uint8, RGB.
        stages: Counts of each stage, at the image's size.
        others: Title -> RGB picture, with the image's aspect ratio.
        title: Title of the figure.

    Returns:
        (h, w, 3) uint8, RGB: a figure 1000 pixels wide.
    """
    cells = _cells(1 + len(others), image)
    figure, top = new_figure(title, cells.step)
    cells.counts(figure, top, 0, image, sum_of(stages))
    for column, (name, other) in enumerate(others.items(), start=1):
        cells.image(figure, top, column, other, name)
    return pixels_of(figure)


def check_folder(path: Path) -> None:
    """Raise FileExistsError if the folder, or one of its parents, exists as a file."""
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise FileExistsError(f'{place} is a file, not a folder')


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture as PNG. The write is atomic."""
    with replacing(path) as partial:
        imsave(partial, picture, format='png')


class _Cells(NamedTuple):
    """Row of equally sized pictures, each with a title above and room for a colour bar below."""
    width: float
    height: float

    @property
    def step(self) -> float:
        return HEAD + self.height + BAR + LABEL

    def image(self, figure: Figure, top: float, column: int, image: np.ndarray,
              title: str) -> Axes:
        left = GAP + column * (self.width + GAP)
        axes = add_axes(figure, left, top + HEAD, self.width, self.height)
        axes.imshow(image)
        axes.axis('off')
        axes.set_title(title, fontsize=11 if self.width > 3 else 9, pad=4)
        return axes

    def counts(self, figure: Figure, top: float, column: int, image: np.ndarray,
               counts: Counts) -> None:
        axes = self.image(figure, top, column, grey(image),
                          f'{counts.name}: run on {counts.share:.0%} of the image')
        show_counts(axes, counts)
        left = GAP + column * (self.width + GAP) + .1 * self.width
        add_bar(figure, left, top + HEAD + self.height + .06, .8 * self.width, counts.blocks)


def _cells(columns: int, image: np.ndarray) -> _Cells:
    width = (WIDTH - GAP) / columns - GAP
    height, across = image.shape[:2]
    return _Cells(width, width * min(max(height / across, .2), 2.))  # bounds the height


def show_counts(axes: Axes, counts: Counts) -> None:
    """Overlay the counts on a :func:`grey` image that is already in the axes."""
    colors, norm = _colors(counts.blocks)
    axes.imshow(counts.run, cmap=colors, norm=norm, alpha=OPACITY, interpolation='nearest')


def add_bar(figure: Figure, left: float, top: float, width: float, blocks: int) -> None:
    """Add the colour bar of the counts, placed in inches from the figure's top left corner."""
    colors, norm = _colors(blocks)
    bar = figure.colorbar(ScalarMappable(norm, colors), orientation='horizontal',
                          cax=add_axes(figure, left, top, width, BAR),
                          ticks=MaxNLocator(nbins=12, integer=True))
    bar.ax.tick_params(which='both', length=0, labelsize=8, pad=2)
    bar.set_label(f'blocks run, of {blocks}', fontsize=8, labelpad=1)


def _colors(blocks: int) -> Tuple[ListedColormap, BoundaryNorm]:
    colors = ListedColormap(matplotlib.colormaps[COLORS](np.linspace(0, 1, blocks + 1)))
    return colors, BoundaryNorm(np.arange(blocks + 2) - .5, colors.N)


def new_figure(title: str, height: float, width: float = WIDTH) -> Tuple[Figure, float]:
    """Create a figure with a title above content of the given height. Return the figure and the
    content's distance from the top."""
    lines: List[str] = textwrap.wrap(title, int(10 * width)) or ['']
    top = TITLE * (len(lines) + .3)
    figure = Figure(figsize=(width, top + height), dpi=DPI)
    figure.text(.5, 1 - .3 * TITLE / (top + height), '\n'.join(lines), ha='center', va='top',
                fontsize=12, parse_math=False)  # file names may contain $
    return figure, top


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes, placed in inches from the figure's top left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across,
                            height / down))


def grey(image: np.ndarray) -> np.ndarray:
    """Convert an image to grey, so that only the counts have colour. The contrast is stretched to
    stay visible beneath the overlay, without black and white, which would look like lower and
    higher counts."""
    luma = image[..., :3] @ np.array([.299, .587, .114])
    low, high = np.percentile(luma, (1, 99))
    luma = 40 + 180 * ((luma - low) / max(high - low, 1)).clip(0, 1)**.8
    return np.repeat(luma[..., None], 3, axis=2).astype(np.uint8)


def pixels_of(figure: Figure) -> np.ndarray:
    """Render a figure as (h, w, 3) uint8, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()

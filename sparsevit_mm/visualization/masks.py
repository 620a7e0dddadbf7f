"""Masks of sparse training: density by layer, heads and neurons by block, and their history."""
import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - works without a display
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from ..files import replacing
from ..hooks import SparseTrainingHook, StructuredSparseTrainingHook
from ..models.checkpoints import read_checkpoint
from ..weights.masking import unpack

WEIGHTS, UNITS = SparseTrainingHook.record, StructuredSparseTrainingHook.record
MOVED = {WEIGHTS: 'weights_moved', UNITS: 'units_moved'}
KEPT, NEW, GONE = 'C0', 'C1', '0.88'


class TrainedMasks(NamedTuple):
    """Masks of a checkpoint.

    Attributes:
        kind: :data:`WEIGHTS` or :data:`UNITS`.
        now, start: Bool masks at the checkpoint and before the first iteration, by layer, or by
            block and kind of unit.
    """
    kind: str
    now: Dict[str, Tensor]
    start: Dict[str, Tensor]


class History(NamedTuple):
    """Logged changes of the masks.

    Attributes:
        iters: Logged iterations.
        moved: Number of weights or units that the last update moved.
        new: Share of the existing weights or units that did not exist at the start.
    """
    iters: List[int]
    moved: List[float]
    new: List[float]


def read_masks(path: str) -> TrainedMasks:
    """Read the masks of a checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the file is not a checkpoint, or holds no masks of sparse training.
    """
    checkpoint = read_checkpoint(path)
    for kind in (WEIGHTS, UNITS):
        record = checkpoint.get(kind)
        if record:
            now, start = ({name: unpack(bits, record['shapes'][name])
                           for name, bits in record[key].items()} for key in ('masks', 'start'))
            return TrainedMasks(kind, now, start)
    raise ValueError(f'{path} holds no masks: it was not trained with SparseTrainingHook or '
                     f'StructuredSparseTrainingHook')


def find_log(checkpoint: Path) -> Optional[Path]:
    """Return the newest training log in a checkpoint's work directory; None if there is none."""
    return max(checkpoint.parent.glob('*/vis_data/scalars.json'), default=None)


def read_history(log: Path, kind: str) -> History:
    """Read the changes of the masks from mmengine's ``scalars.json``.

    Raises:
        FileNotFoundError: If the log does not exist.
        ValueError: If it logs no masks of this kind.
    """
    if not log.is_file():
        raise FileNotFoundError(f'log {log} does not exist')
    history = History([], [], [])
    for line in log.read_text().splitlines():
        row = json.loads(line)
        if MOVED[kind] in row and 'mask_new' in row:
            history.iters.append(row['iter'])
            history.moved.append(row[MOVED[kind]])
            history.new.append(row['mask_new'])
    if not history.iters:
        raise ValueError(f'{log} logs no {MOVED[kind]}: does it belong to another training?')
    return history


def draw_masks(path: Path, masks: TrainedMasks, history: Optional[History], title: str) -> None:
    """Draw a PNG of the density of each layer, or the heads and neurons of each block, and, with a
    history, of how the masks changed."""
    draw = _draw_weights if masks.kind == WEIGHTS else _draw_units
    rows = len(masks.now) if masks.kind == WEIGHTS else len(masks.now) // 2
    panels = 1 if masks.kind == WEIGHTS else 2
    figure, axes = plt.subplots(
        1, panels + (history is not None), constrained_layout=True, squeeze=False,
        figsize=(2 + 4 * panels + 4 * (history is not None), max(3.2, 1.2 + .2 * rows)))
    draw(axes[0, :panels], masks)
    if history is not None:
        _draw_history(axes[0, -1], history, MOVED[masks.kind].replace('_', ' '))
    figure.suptitle(title)
    with replacing(path) as partial:
        figure.savefig(partial, format='png', dpi=120)
    plt.close(figure)


def shares(now: Tensor, start: Tensor) -> Tuple[float, float]:
    """Return the shares of all weights or units that exist since the start and that grew later."""
    return (float((now & start).float().mean()), float((now & ~start).float().mean()))


def _draw_weights(axes, masks: TrainedMasks) -> None:
    ax, names = axes[0], list(masks.now)
    for row, name in enumerate(names):
        kept, new = shares(masks.now[name], masks.start[name])
        ax.barh(row, kept, .8, color=KEPT, label='since the start' if row == 0 else None)
        ax.barh(row, new, .8, kept, color=NEW, label='new' if row == 0 else None)
    _rows(ax, names)
    ax.set_xlabel('density')
    ax.set_xlim(0, 1)
    ax.legend(loc='lower center', bbox_to_anchor=(.5, 1), ncols=2, frameon=False)


def _draw_units(axes, masks: TrainedMasks) -> None:
    heads, neurons = ({name.rpartition('.')[0]: (mask, masks.start[name])
                       for name, mask in masks.now.items() if name.endswith(kind)}
                      for kind in ('.heads', '.neurons'))
    by_head, by_share = axes
    for row, (now, start) in enumerate(heads.values()):
        colors = [(KEPT if was else NEW) if there else GONE
                  for there, was in zip(now.tolist(), start.tolist())]
        by_head.scatter(range(len(now)), [row] * len(now), s=40, c=colors, marker='s')
    _rows(by_head, list(heads))
    by_head.set_xlabel('head')
    by_head.set_xlim(-.7, max(len(now) for now, _ in heads.values()) - .3)
    for row, (now, start) in enumerate(neurons.values()):
        kept, new = shares(now, start)
        by_share.barh(row, kept, .8, color=KEPT, label='since the start' if row == 0 else None)
        by_share.barh(row, new, .8, kept, color=NEW, label='new' if row == 0 else None)
    by_share.set_yticks([])
    by_share.set_ylim(by_head.get_ylim())
    by_share.set_xlim(0, 1)
    by_share.set_xlabel('share of the FFN neurons')
    by_share.legend(loc='lower center', bbox_to_anchor=(.5, 1), ncols=2, frameon=False)


def _draw_history(ax: Axes, history: History, moved: str) -> None:
    ax.plot(history.iters, [100 * share for share in history.new], color=NEW)
    ax.set_xlabel('iteration')
    ax.set_ylabel('new since the start (%)', color=NEW)
    ax.set_ylim(0)
    other = ax.twinx()
    other.plot(history.iters, history.moved, color=KEPT, linewidth=1)
    other.set_ylabel(f'{moved} by the last update', color=KEPT)
    other.set_ylim(0)


def _rows(ax: Axes, names: List[str]) -> None:
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_ylim(len(names) - .5, -.5)

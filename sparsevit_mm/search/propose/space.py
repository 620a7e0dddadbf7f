"""The points that a search chooses from."""
from itertools import islice, product
from typing import List, Sequence

from ...models import SparseBackbone
from ...models.checkpoints import read_checkpoint
from ...models.unit_order import require_order
from ...operating_point import Knob, PointSpace, width_knobs
from ...sparsity import SparsityConfig, SparsitySpace
from ..request import SearchRequest

REACH = 32  # combinations of knobs that are tried for the fastest


def space_of(backbone: SparseBackbone, request: SearchRequest) -> SparsitySpace:
    """Ratios, and the knobs and widths asked for beside them.

    Raises:
        ValueError: Widths of a backbone without heads and neurons, or where none has a choice.
    """
    own = backbone.space
    ratios = own if request.choices is None else own.of(request.choices)
    return PointSpace.beside(ratios, [*request.knobs, *_widths(backbone, request)])


def _widths(backbone: SparseBackbone, request: SearchRequest) -> List[Knob]:
    if not request.widths:
        return []
    if not backbone.attention_blocks():
        raise ValueError(f'--widths: {type(backbone).__name__} has no heads and neurons that could '
                         f'be left out')
    knobs = width_knobs(request.widths, backbone.all_units())
    if not knobs:
        raise ValueError('--widths: all shares run all heads and neurons')
    return knobs


def check_order(request: SearchRequest) -> None:
    """Raises ValueError where widths are searched and the first heads and neurons of the checkpoint
    are not the most important ones; names the command that makes them so."""
    if request.widths:
        held = read_checkpoint(request.checkpoint)  # the model loads it when it first runs
        require_order(held.get('state_dict', held), '--widths')


def fastest_points(space: SparsitySpace) -> List[SparsityConfig]:
    """Those of a space among which the fastest is: ratios at their highest, widths at their
    smallest, and other knobs at each of their values, up to :data:`REACH` combinations."""
    sparsest = space.of(space.choices[-1:])
    places: List[Sequence[int]] = [(0, )] * sum(sparsest.stage_genes)
    places += [range(len(knob.values))[-1 if knob.is_width else 0:] for knob in sparsest.knobs]
    return list(map(sparsest.decode, islice(product(*places), REACH)))

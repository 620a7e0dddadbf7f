"""Search space of a request."""
from itertools import islice, product
from typing import List, Sequence

from ...models import SparseBackbone
from ...models.checkpoints import read_checkpoint
from ...models.unit_order import require_order
from ...operating_point import Knob, PointSpace, width_knobs
from ...sparsity import SparsityConfig, SparsitySpace
from ..request import SearchRequest

REACH = 32  # maximum number of knob combinations to measure for the fastest point


def space_of(backbone: SparseBackbone, request: SearchRequest) -> SparsitySpace:
    """Return the search space: sparsity ratios with the requested knobs and widths.

    Raises:
        ValueError: If widths are requested but the backbone has no heads and neurons to leave out,
            or all shares run all of them.
    """
    own = backbone.space
    ratios = own if request.choices is None else own.of(request.choices)
    return PointSpace.beside(ratios, [*request.knobs, *_widths(backbone, request)])


def _widths(backbone: SparseBackbone, request: SearchRequest) -> List[Knob]:
    if not request.widths:
        return []
    if not backbone.attention_blocks():
        raise ValueError(f'--widths: {type(backbone).__name__} has no heads and neurons that can '
                         f'be left out')
    knobs = width_knobs(request.widths, backbone.all_units())
    if not knobs:
        raise ValueError('--widths: none of the shares leaves out any heads or neurons')
    return knobs


def check_order(request: SearchRequest) -> None:
    """Check that the heads and neurons of the checkpoint are sorted if widths are searched.

    Raises:
        ValueError: If they are not sorted by importance. The message names the command to sort
            them.
    """
    if request.widths:
        held = read_checkpoint(request.checkpoint)  # the model loads it on its first evaluation
        require_order(held.get('state_dict', held), '--widths')


def fastest_points(space: SparsitySpace) -> List[SparsityConfig]:
    """Return the points of a space that may be the fastest.

    They have the highest ratios, the smallest widths and all values of the other knobs, up to
    :data:`REACH` combinations.
    """
    sparsest = space.of(space.choices[-1:])
    places: List[Sequence[int]] = [(0, )] * sum(sparsest.stage_genes)
    places += [range(len(knob.values))[-1 if knob.is_width else 0:] for knob in sparsest.knobs]
    return list(map(sparsest.decode, islice(product(*places), REACH)))

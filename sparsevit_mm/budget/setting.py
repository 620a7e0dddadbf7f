"""A latency budget at run time: one checkpoint, as sparse as the moment asks for."""
import warnings
from pathlib import Path
from typing import List, Optional, Union

from torch import nn

from ..cost.latency import device_name
from ..cost.table import LatencyTable, backbone_identity
from ..models import SparseBackbone, get_sparse_backbone
from ..models.checkpoints import fingerprint, same_weights
from ..models.knobs import KnobSetter
from ..sparsity import SparsityConfig
from ..widths import is_width
from .front import Front


def set_latency_budget(model: nn.Module,
                       ms: float,
                       front: Union[Front, str, Path],
                       table: Optional[LatencyTable] = None) -> SparsityConfig:
    """Makes a loaded model as good as it can be within a latency.

    The backbone gets the front's configuration with the best metric among those that fit, and the
    model its knobs and widths, where the search set some. Weights stay as they are, and so do
    graphs that compiled or captured execution has made: results are those of a fresh model of that
    sparsity. To be called between forward passes.

    Where the front was found on another device, under another execution or with other weights,
    which its figures then say little of, a warning says so: once for each front and model.

    Args:
        model: A detector or segmentor with a sparse backbone, wrapped or not.
        ms: Milliseconds that the front's ``setting['of']`` may take: the whole model, or its
            backbone.
        front: What a search of this checkpoint found, or its file; a Front where the budget changes
            often, for the file is read at each call.
        table: Latency on the device and in the setting that the model runs in, for a front that was
            found in another. By default the front's own latencies count.

    Returns:
        The configuration set, an OperatingPoint where there are knobs. An image scale among them is
        for the caller to follow: the model takes images as they come, see
        :func:`~.operating_point.image_scale`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No configuration is as fast (names the fastest); `ms` is no positive number; the
            front is of a backbone of other depths, or the table of another backbone (names the
            differences), or there is one and the front has widths; it has, and the model's units
            are in no order; the file is no front; or the model holds no sparse backbone. The model
            then stays as it was.
    """
    backbone = get_sparse_backbone(model)
    if not isinstance(front, Front):
        front = Front.load(front)
    if front.depths != backbone.depths:
        raise ValueError(f'the front is of a backbone of depths {front.depths}, '
                         f'the model\'s has {backbone.depths}')
    _compare(front, backbone, table is None)
    latency = None
    if table is not None:
        if any(is_width(name) for p in front.points for name, _ in p.config.knobs):
            raise ValueError('the front has widths: a latency table knows of ratios alone')
        here, latency = backbone_identity(backbone), table.predict
        differences = [f'{key}: {table.backbone.get(key)} in the table, {value} here'
                       for key, value in here.items() if table.backbone.get(key) != value]
        if differences:
            raise ValueError('the latency table is of another backbone: ' + '; '.join(differences))
    point = front.within(ms, latency).config
    if any(map(is_width, dict(point.knobs))):
        backbone.unit_order.require('the front has widths')
    names = {name for p in front.points for name, _ in p.config.knobs}
    set_knobs = KnobSetter(model, sorted(names))
    backbone.sparsity = point
    set_knobs(point)
    return point


def _compare(front: Front, backbone: SparseBackbone, latencies_count: bool) -> None:
    """Warns of what differs between the front's search and the model at hand."""
    key = (front.checkpoint, str(front.setting), front.metric)
    if getattr(backbone, '_compared_with', None) == key:
        return
    backbone._compared_with = key
    differences: List[str] = []
    if latencies_count:
        here = dict(device=device_name(str(next(backbone.parameters()).device)),
                    execution=backbone.execution)
        differences += [f'{name} {front.setting[name]}, here {value}'
                        for name, value in here.items()
                        if front.setting.get(name, value) != value]
    if front.weights is not None and not same_weights(front.weights, fingerprint(backbone)):
        differences.append('another checkpoint')
    if differences:
        warnings.warn('the front was found under other conditions, its figures may not hold: '
                      + '; '.join(differences), stacklevel=3)

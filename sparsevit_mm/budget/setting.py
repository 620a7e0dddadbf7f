"""Set a latency budget at run time: one checkpoint, at the sparsity that fits the budget."""
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
    """Set a loaded model to its best configuration within a latency budget.

    The backbone gets the configuration of the front with the best metric among those that fit, and
    the model its knobs and widths, if the search set any. Weights, and the graphs of compiled or
    captured execution, are kept; results equal those of a new model with that sparsity. Call it
    between forward passes.

    If the front was found on another device, with another execution or with other weights, its
    latencies or metrics may not hold. A warning says so, once per model until the front changes.

    Args:
        model: Detector or segmentor with a sparse backbone, wrapped or not.
        ms: Budget in milliseconds for what the front's ``setting['of']`` names: the whole model or
            its backbone.
        front: Front of a search of this checkpoint, or its file. Pass a Front if the budget changes
            often, since a file is read at each call.
        table: Latency table of the device and setting that the model runs in, for a front found in
            another setting. By default the latencies of the front are used.

    Returns:
        The new configuration, an OperatingPoint if it has knobs. If it sets an image scale, the
        caller has to resize images, since the model does not, see
        :func:`~.operating_point.image_scale`.

    Raises:
        FileNotFoundError: If the file of the front does not exist.
        ValueError: If no configuration is fast enough (the message names the fastest); `ms` is not
            positive; the file is not a front; the model has no sparse backbone, other depths than
            the front, or lacks a knob of the front; the table is of another backbone (the message
            lists the differences), or is given and the front has widths; or the configuration has
            widths and the units of the model are not sorted. The model is not changed.
    """
    backbone = get_sparse_backbone(model)
    if not isinstance(front, Front):
        front = Front.load(front)
    if front.depths != backbone.depths:
        raise ValueError(f'the front is for a backbone with depths {front.depths}, '
                         f'but the model\'s has {backbone.depths}')
    _compare(front, backbone, table is None)
    latency = None
    if table is not None:
        if any(is_width(name) for p in front.points for name, _ in p.config.knobs):
            raise ValueError('the front has widths, but a latency table only covers sparsity '
                             'ratios')
        here, latency = backbone_identity(backbone), table.predict
        differences = [f'{key}: {table.backbone.get(key)} in the table, {value} here'
                       for key, value in here.items() if table.backbone.get(key) != value]
        if differences:
            raise ValueError('the latency table is for another backbone: ' + '; '.join(differences))
    point = front.within(ms, latency).config
    if any(map(is_width, dict(point.knobs))):
        backbone.unit_order.require('the front has widths')
    names = {name for p in front.points for name, _ in p.config.knobs}
    set_knobs = KnobSetter(model, sorted(names))
    backbone.sparsity = point
    set_knobs(point)
    return point


def _compare(front: Front, backbone: SparseBackbone, latencies_count: bool) -> None:
    """Warn about differences between the model of the front's search and this one."""
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
        warnings.warn('the front was found under other conditions, so its values may not hold: '
                      + '; '.join(differences), stacklevel=3)

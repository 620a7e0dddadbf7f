"""Check that labels exist and fit their images and the model: segmentation here, detection in
:mod:`.boxes`.

mm reports a bad label only when it loads it, often without the file name, and some not at all.
"""
import logging
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope
from PIL import Image

from .boxes import check_boxes
from .data import is_annotation_loader, leaves, step_name
from .reading import walk

HEADERS = 3000  # images and labels to read per dataset: about a second from a local disk
LOADED = 8  # labels per dataset to load for their values
PLAIN_LOADERS = {'LoadImageFromFile', 'LoadAnnotations'}


class Classes(NamedTuple):
    """Classes of a segmentation dataset.

    Attributes:
        number: Number of classes, labelled from 0; None if neither data nor model tell.
        ignored: Other values that a label may have.
    """
    number: Optional[int]
    ignored: Set[int]


def check_labels(cfg: Config, *splits: str) -> None:
    """Check that the segmentation data, and detection data in COCO format
    (:func:`~.boxes.check_boxes`), of data splits can be used for training and scoring, before
    anything is built or written. Other and remote datasets are skipped.

    For segmentation, every file must exist, and the number of classes must be that of the model.
    If only mm's own transforms load and change the labels, these must also have the size of their
    images (checked by the headers of up to 3000 images spread over the split) and contain only
    known classes (checked in 8 labels).

    Args:
        cfg: Config with the data loaders and the model.
        splits: 'train', 'val' or 'test'.

    Raises:
        FileNotFoundError: If images or labels are missing. The message names the first ones.
        ValueError: If a label or head does not fit. The message names the file or head, with both
            numbers.
    """
    for split in splits:
        check_boxes(cfg, split)
        for leaf in leaves(cfg[f'{split}_dataloader']['dataset']):
            if not _is_labelled(leaf):
                continue
            init_default_scope(cfg.get('default_scope', 'mmengine'))
            # Serialization fails on an empty dataset.
            dataset = DATASETS.build({**leaf, 'pipeline': [], 'serialize_data': False})
            if isinstance(dataset, BaseDataset):
                try:
                    _check_dataset(dataset, leaf['pipeline'], cfg.get('model') or {})
                except (ValueError, FileNotFoundError) as error:
                    raise type(error)(f'{split} data: {error}') from None


def check_classes(model: Dict, classes: Sequence[str]) -> None:
    """Check that the heads of a segmentor have as many classes as the data.

    Heads with one output, and auxiliary heads with two, are skipped: they separate one thing from
    the rest, such as boundaries.

    Raises:
        ValueError: If the numbers differ. The message names the head and both numbers.
    """
    for place, head in _heads(model):
        number = head['num_classes']
        binary = 1 in (number, head.get('out_channels')) or (
            number == 2 and place.startswith('model.auxiliary_head'))
        if number != len(classes) and not binary:
            raise ValueError(f'{len(classes)} classes, {place}.num_classes is {number}')


def _is_labelled(dataset: ConfigDict) -> bool:
    prefix = dataset.get('data_prefix')
    loaders = list(filter(is_annotation_loader, dataset.get('pipeline', ())))
    remote = any(part.get('backend_args') for part in [dataset, *loaders])
    return (isinstance(prefix, dict) and prefix.get('seg_map_path') is not None
            and bool(loaders) and not remote)


def _check_dataset(dataset: BaseDataset, pipeline: Sequence[Dict], model: Dict) -> None:
    names = dataset.metainfo.get('classes')
    if names:
        check_classes(model, names)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    if not infos:
        raise ValueError(f'no image in {dataset.data_prefix.get("img_path")}')
    for kind, key in (('images', 'img_path'), ('labels', 'seg_map_path')):
        missing = [info[key] for info in infos if key in info and not os.path.exists(info[key])]
        if missing:
            raise FileNotFoundError(f'{len(missing)} of {len(infos)} {kind} are missing: '
                                    + ', '.join(missing[:3]) + ', ...' * (len(missing) > 3))
    if _is_plain(pipeline):
        heads = [head for _, head in _heads(model)]
        number = len(names) if names else max((h['num_classes'] for h in heads), default=None)
        ignored = {part.get('ignore_index', 255) for part in [vars(dataset), *heads]}
        loaders = [step for step in pipeline if step_name(step) in PLAIN_LOADERS]
        doubtful = [info for info in _spread(infos, HEADERS) if not _agree(info)]
        classes, seen = Classes(number, ignored), set()
        for info in doubtful[:LOADED] + _spread(infos, LOADED):
            seen |= _check_loaded(info, loaders, classes)
        if number and number > 1 and len(seen - ignored) < 2:
            print_log(f'in {min(LOADED, len(infos))} labels, such as {infos[0]["seg_map_path"]}, '
                      f'of {number} classes only {sorted(seen - ignored)} occur, and the values '
                      f'{sorted(seen & ignored)} are ignored: should a mask with the values 0 '
                      f'and 255 have 0 and 1 instead?', 'current', logging.WARNING)


def _heads(model: Dict) -> Iterator[Tuple[str, Dict]]:
    """Yield the heads of a segmentor that set a number of classes, with their key path."""
    for kind in ('decode_head', 'auxiliary_head'):
        for keys, node in walk(model.get(kind), ('model', kind)):
            name = [key for key in keys if not key.isdigit()][-1]
            if name.endswith('head') and isinstance(node.get('num_classes'), int):
                yield '.'.join(keys), node


def _is_plain(pipeline: Sequence[Dict]) -> bool:
    """Whether mm's plain transforms load the labels, and only transforms of mm change them. Other
    transforms may read labels from any file, with any values for classes.
    """
    names = {step_name(step) for step in pipeline if step_name(step).startswith('Load')}
    kinds = [step['type'] for _, step in walk(list(pipeline), ()) if 'type' in step]
    with TRANSFORMS.switch_scope_and_registry(None) as registry:  # of the default scope
        kinds = [registry.get(kind) if isinstance(kind, str) else kind for kind in kinds]
    return names == PLAIN_LOADERS and all(
        getattr(kind, '__module__', '').startswith('mm') for kind in kinds)


def _spread(infos: List[Dict], most: int) -> List[Dict]:
    """Return at most `most` of the items, evenly spaced from first to last."""
    return [infos[i] for i in np.linspace(0, len(infos) - 1, min(most, len(infos))).astype(int)]


def _agree(info: Dict) -> bool:
    """Whether image and label have the same size by their headers. A mismatch is not final: loading
    knows more formats, and applies the rotation stored in photographs.
    """
    try:
        return _header(info['img_path']) == _header(info['seg_map_path'])
    except Exception:  # its type depends on the format
        return False


def _header(path: str) -> Tuple[int, int]:
    """Return width and height. Raises an error of any type if the file is not an image or is
    truncated.
    """
    with open(path, 'rb') as file:
        image = Image.open(file)
        if image.format == 'PNG':
            file.seek(-8, os.SEEK_END)
            if file.read(4) != b'IEND':
                raise ValueError('no end')
        return image.size


def _check_loaded(info: Dict, loaders: Sequence[Dict], classes: Classes) -> Set[int]:
    """Load and check a label, and return its values."""
    results = dict(info)
    for step in loaders:
        path = info['seg_map_path' if is_annotation_loader(step) else 'img_path']
        try:
            results = TRANSFORMS.build(step)(results)
        except Exception as error:  # its type depends on the backend
            raise ValueError(f'{path} cannot be loaded: {" ".join(str(error).split())}') from None
        if results is None:  # the loader has ignore_empty set
            return set()
    path, label, shape = info['seg_map_path'], results['gt_seg_map'], results['ori_shape']
    if label.ndim != 2:
        raise ValueError(f'{path} has {label.shape[-1]} channels, a label must have one')
    if label.shape != shape:
        raise ValueError(f'{path} has {label.shape[0]}x{label.shape[1]} pixels, its image '
                         f'{info["img_path"]} has {shape[0]}x{shape[1]}')
    values = set(np.unique(label).tolist())
    unknown = values - classes.ignored
    if classes.number and max(unknown, default=0) >= classes.number:
        raise ValueError(f'{path} has the value {max(unknown)}, but the {classes.number} classes '
                         f'end at {classes.number - 1}')
    return values

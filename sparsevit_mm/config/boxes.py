"""Check whether annotation files in COCO format can be used for training and scoring detectors.

pycocotools and mmdet report missing fields only by a KeyError, and missing objects by a metric of
-1.
"""
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope

from .data import is_annotation_loader, leaves
from .reading import is_type, walk

LARGEST = 200 << 20  # bytes; reading a larger file costs more time than a mistake


class Use(NamedTuple):
    """How an annotation file is used.

    Attributes:
        scored: Whether an evaluator scores its objects.
        from_file: Whether the evaluator reads the file itself.
        masks: Whether masks are trained or scored.
    """
    scored: bool
    from_file: bool
    masks: bool


def check_boxes(cfg: Config, split: str) -> None:
    """Check that the local COCO files of a data split ('train', 'val', 'test') fit the config.

    The classes must be in the file, the heads must predict as many, there must be objects, and each
    annotation must have the fields that are read. Where results are only written
    (``format_only``), the file needs no annotations.

    Raises:
        ValueError: If the data does not fit. The message names the file and the annotation, class
            or head.
        FileNotFoundError: If images are missing. The message names some.
    """
    for leaf in leaves(cfg[f'{split}_dataloader']['dataset']):
        if not (is_type(leaf, 'CocoDataset') and leaf.get('ann_file')):
            continue
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        classes, path = classes_of(leaf), _local_file(leaf)
        if not leaf.get('return_classes'):  # else names are prompts, and heads take any number
            _check_heads(cfg, leaf, classes)
        if path is None:
            continue
        use = _use(cfg, split, leaf)
        needed = split == 'train' or use.scored
        record = read_annotations(path, needed)
        _check_classes(path, record, classes)
        _check_annotations(path, record, classes, use)
        _check_images(path, record, leaf)
        if needed:
            check_objects(path, record, classes)


def read_annotations(path: Path, needed: bool = True) -> Dict[str, Any]:
    """Read a COCO file.

    If `needed` is false, a file without annotations, such as those of test-dev, gets an empty
    list.

    Raises:
        ValueError: If it is not a COCO file. The message says what is missing.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from None
    if isinstance(record, dict) and not needed:
        record.setdefault('annotations', [])
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise ValueError(f'{path} has no list of {key}, which training and scoring '
                             f'need')
    return record


def objects_of(record: Dict, classes: Sequence[str]) -> List[Dict]:
    """Return the annotations that a metric counts.

    These are the annotations of the given classes, or of all if none are given, except crowds.
    """
    ids = _ids(record, classes)
    return [a for a in record['annotations'] if a.get('category_id') in ids
            and not a.get('iscrowd')]


def check_objects(path: Path, record: Dict, classes: Sequence[str]) -> None:
    """Check that a file has objects that a metric counts, without which pycocotools returns -1.

    Raises:
        ValueError: If there are none.
    """
    if not objects_of(record, classes):
        raise ValueError(f'{path} has 0 objects of the {len(_ids(record, classes))} classes on '
                         f'{len(record["images"])} images, not counting crowds: no metric is '
                         f'defined')


def _ids(record: Dict, classes: Sequence[str]) -> Set[int]:
    return {c['id'] for c in record['categories'] if not classes or c['name'] in classes}


def _use(cfg: Config, split: str, leaf: ConfigDict) -> Use:
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    coco = [e for e in evaluators if is_type(e, 'CocoMetric') and not e.get('format_only')]
    kinds = {kind for e in coco for kind in _texts(e.get('metric', 'bbox'))}
    loaded = any(step.get('with_mask') for step in leaf.get('pipeline') or ()
                 if is_annotation_loader(step))
    return Use(bool(coco), any(e.get('ann_file') for e in coco), 'segm' in kinds or loaded)


def _texts(value) -> List[str]:
    return [value] if isinstance(value, str) else list(value)


def _local_file(leaf: ConfigDict) -> Optional[Path]:
    """Return the annotation file of a dataset if it is local and not too large."""
    if leaf.get('backend_args'):
        return None
    path = Path(leaf.get('data_root') or '') / leaf['ann_file']
    return path if path.is_file() and path.stat().st_size <= LARGEST else None


def classes_of(leaf: Dict) -> Tuple[str, ...]:
    """Return the class names of a dataset, by default those of the dataset's type."""
    built = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
    return tuple(built.metainfo.get('classes') or ())


def _check_classes(path: Path, record: Dict, classes: Sequence[str]) -> None:
    names = [category['name'] for category in record['categories']]
    missing = [name for name in classes if name not in names]
    if missing:
        folded = {name.lower(): name for name in names}
        alike = [f'{name} is {folded[name.lower()]!r} there' for name in missing
                 if name.lower() in folded]
        raise ValueError(f'{path} has no category {", ".join(map(repr, missing[:5]))} of the '
                         f'{len(classes)} classes of the config (metainfo); it has '
                         f'{", ".join(names[:10])}{", ..." * (len(names) > 10)}'
                         + ''.join(f'; {text}' for text in alike[:3]))


def _check_heads(cfg: Config, leaf: ConfigDict, classes: Sequence[str]) -> None:
    for place, number in _heads(cfg.get('model') or {}):
        if classes and number != len(classes):
            raise ValueError(f'{leaf.get("ann_file")}: {len(classes)} classes (metainfo), '
                             f'{place}.num_classes is {number}')


def _heads(model: Dict) -> Iterator[Tuple[str, int]]:
    """Yield the box and mask heads with their number of classes."""
    for keys, node in walk(model, ('model', )):
        names = [key for key in keys if not key.isdigit()]
        if names and names[-1] in ('bbox_head', 'mask_head') and isinstance(
                node.get('num_classes'), int):
            yield '.'.join(keys), node['num_classes']


def _check_annotations(path: Path, record: Dict, classes: Sequence[str], use: Use) -> None:
    for kind in ('images', 'annotations'):
        twice = [i for i, n in Counter(item.get('id') for item in record[kind]).items() if n > 1]
        if twice:
            raise ValueError(f'{path}: {kind[:-1]} id {twice[0]} occurs twice')
    ids = _ids(record, classes)
    for annotation in record['annotations']:
        problem = _problem(annotation, annotation.get('category_id') in ids, use)
        if problem:
            raise ValueError(f'{path}: annotation {annotation.get("id")} {problem}')


def _problem(annotation: Dict, counts: bool, use: Use) -> str:
    """Return what mmdet's CocoDataset or pycocotools would fail on, or ''.

    The former skips annotations marked `ignore` and boxes without an area, the latter skips other
    classes.
    """
    for key in ('image_id', 'category_id'):
        if annotation.get(key) is None:
            return f'has no {key!r}'
    if annotation.get('ignore') and not use.from_file:
        return ''
    box = annotation.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or any(
            not isinstance(v, (int, float)) or not math.isfinite(v) for v in box):
        return f'has the box {box}, not [x, y, width, height]'
    if annotation.get('area') is None:
        return "has no 'area'"
    if not counts:
        return ''
    if use.from_file and 'iscrowd' not in annotation:
        return "has no 'iscrowd'"
    passed_over = not use.from_file and (annotation['area'] <= 0 or min(box[2:]) < 1)
    if use.masks and not passed_over and not annotation.get('segmentation'):
        return 'has no segmentation, and the config trains or scores masks'
    return ''


def _check_images(path: Path, record: Dict, leaf: ConfigDict) -> None:
    """Check that all images exist and have the fields that are read.

    A missing image would stop training halfway.
    """
    for image in record['images']:
        lacking = [key for key in ('file_name', 'height', 'width') if image.get(key) is None]
        if lacking:
            raise ValueError(f'{path}: image {image.get("id")} has no {lacking[0]!r}')
    folder = Path(leaf.get('data_root') or '') / (leaf.get('data_prefix') or {}).get('img', '')
    present: Dict[Path, Set[str]] = {}  # listing a folder is faster than checking each file
    missing = []
    for image in record['images']:
        file = folder / image['file_name']
        if file.parent not in present:
            present[file.parent] = set(os.listdir(file.parent)) if file.parent.is_dir() else set()
        if file.name not in present[file.parent]:
            missing.append(image['file_name'])
    if missing:
        raise FileNotFoundError(f'{path}: {len(missing)} of {len(record["images"])} images are not '
                                f'in {folder}: {", ".join(missing[:3])}'
                                + ', ...' * (len(missing) > 3))

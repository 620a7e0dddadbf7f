"""Annotation files of detection data in COCO's form: whether they can be trained and scored on.

pycocotools and mmdet tell of a gap by a KeyError, or of no object by a metric of -1.
"""
import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope

from .data import is_annotation_loader, leaves
from .reading import is_type, walk

FILES = 3000  # images whose files are looked for
LARGEST = 200 << 20  # bytes; a larger file takes longer to read than a slip costs


def check_boxes(cfg: Config, split: str) -> None:
    """Makes sure that the local COCO files of a split ('train', 'val', 'test') fit the config: its
    classes are in the file, the heads tell as many apart, there are objects, and every annotation
    has what is read of it.

    Raises:
        ValueError: Names file and annotation, class, or head.
        FileNotFoundError: Names images.
    """
    evaluators = cfg.get(f'{split}_evaluator') or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    kinds = {kind for e in evaluators if is_type(e, 'CocoMetric')
             for kind in _texts(e.get('metric', 'bbox'))}
    for leaf in leaves(cfg[f'{split}_dataloader']['dataset']):
        path = _local_file(leaf)
        if path is None:
            continue
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        classes = _classes(leaf)
        masks = 'segm' in kinds or any(step.get('with_mask') for step in leaf.get('pipeline') or ()
                                       if is_annotation_loader(step))
        record = read_annotations(path)
        _check_classes(cfg, path, record, classes)
        _check_annotations(path, record, masks)
        _check_images(path, record, leaf)
        if split != 'test' or kinds:
            _check_objects(path, record, classes)


def read_annotations(path: Path) -> Dict[str, Any]:
    """A COCO file.

    Raises:
        ValueError: It is no such file; says what is missing.
    """
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} is no JSON: {error}') from None
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise ValueError(f'{path} holds no list of {key}: nothing can be trained or scored on '
                             f'it')
    return record


def _texts(value) -> List[str]:
    return [value] if isinstance(value, str) else list(value)


def _local_file(leaf: ConfigDict) -> Optional[Path]:
    """Its annotation file, if that is a local one of moderate size that mmdet's class reads."""
    if not is_type(leaf, 'CocoDataset') or leaf.get('backend_args') or not leaf.get('ann_file'):
        return None
    path = Path(leaf.get('data_root') or '') / leaf['ann_file']
    return path if path.is_file() and path.stat().st_size <= LARGEST else None


def _classes(leaf: ConfigDict) -> Tuple[str, ...]:
    built = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
    return tuple(built.metainfo.get('classes') or ())


def _check_classes(cfg: Config, path: Path, record: Dict, classes: Sequence[str]) -> None:
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
    for place, number in _heads(cfg.get('model') or {}):
        if classes and number != len(classes):
            raise ValueError(f'{path}: {len(classes)} classes (metainfo), {place}.num_classes is '
                             f'{number}')


def _heads(model: Dict) -> Iterator[Tuple[str, int]]:
    """Heads of boxes and masks, with their numbers of classes."""
    for keys, node in walk(model, ('model', )):
        names = [key for key in keys if not key.isdigit()]
        if names and names[-1] in ('bbox_head', 'mask_head') and isinstance(
                node.get('num_classes'), int):
            yield '.'.join(keys), node['num_classes']


def _check_annotations(path: Path, record: Dict, masks: bool) -> None:
    for kind in ('images', 'annotations'):
        twice = [i for i, n in Counter(item.get('id') for item in record[kind]).items() if n > 1]
        if twice:
            raise ValueError(f'{path}: {kind[:-1]} id {twice[0]} is there twice')
    for annotation in record['annotations']:
        problem = _problem(annotation, masks)
        if problem:
            raise ValueError(f'{path}: annotation {annotation.get("id")} {problem}')


def _problem(annotation: Dict, masks: bool) -> str:
    box = annotation.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or any(
            not isinstance(v, (int, float)) for v in box):
        return f'has the box {box}, not [x, y, width, height]'
    for key in ('image_id', 'category_id', 'area', 'iscrowd'):
        if key not in annotation:
            return f'has no {key!r}'
    if masks and not annotation.get('segmentation'):
        return 'has no segmentation, and the config trains or scores masks'
    return ''


def _check_images(path: Path, record: Dict, leaf: ConfigDict) -> None:
    """A sample of the image files: a missing one would end a training in its midst."""
    folder = Path(leaf.get('data_root') or '') / (leaf.get('data_prefix') or {}).get('img', '')
    step = max(1, len(record['images']) // FILES)
    missing = [image['file_name'] for image in record['images'][::step]
               if not (folder / image.get('file_name', '')).is_file()]
    if missing:
        raise FileNotFoundError(f'{path}: {len(missing)} of {len(record["images"][::step])} images '
                                f'are not in {folder}: {", ".join(missing[:3])}'
                                + ', ...' * (len(missing) > 3))


def _check_objects(path: Path, record: Dict, classes: Sequence[str]) -> None:
    ids = {c['id'] for c in record['categories'] if not classes or c['name'] in classes}
    number = sum(a['category_id'] in ids for a in record['annotations'])
    if not number:
        raise ValueError(f'{path} holds {number} objects of the {len(ids)} classes on '
                         f'{len(record["images"])} images: no metric is defined there')

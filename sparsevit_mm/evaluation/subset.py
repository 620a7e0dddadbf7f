"""Evaluation on a subset of a split. A config transformation for each evaluator makes the metrics
equal to those of an annotation file with only these images."""
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, List, Optional, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.fileio import get_local_path, load
from mmengine.registry import DATASETS, init_default_scope

from ..config.boxes import check_objects, classes_of, objects_of, read_annotations
from ..config.data import nuscenes_version
from ..config.reading import is_type
from .nuscenes_subset import INFOS, write_frames


def restrict_to_subset(cfg: Config, split: str, num_samples: int, seed: int,
                       work_dir: str) -> None:
    """Change a config so that a split loads and scores only `num_samples` random images.

    Args:
        cfg: Config, changed in place.
        split: 'val' or 'test'.
        num_samples: Number of images to keep; all if there are fewer.
        seed: Seed of the draw. The same seed and number give the same images in any process.
        work_dir: Directory for a smaller annotation file, if one is needed.

    Raises:
        ValueError: If `num_samples` is below 1, the evaluator or data set is not supported, a COCO
            file has no objects, or the nuScenes frames cannot be scored (see
            :func:`~sparsevit_mm.evaluation.nuscenes_subset.write_frames`).
        FileNotFoundError: If the nuScenes tables do not exist.
    """
    if num_samples < 1:
        raise ValueError(f'--num-samples {num_samples}: at least one image is needed')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = cfg[f'{split}_dataloader']['dataset']
    evaluators = cfg[f'{split}_evaluator']
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    for evaluator in evaluators:
        transform = next((t for name, t in _TRANSFORMS.items() if is_type(evaluator, name)), None)
        if transform is None or 'pipeline' not in dataset:
            raise ValueError(
                f'--num-samples does not support {evaluator.get("type")} on '
                f'{dataset.get("type")}, only {", ".join(_TRANSFORMS)} on unwrapped data sets')
        transform(dataset, evaluator, num_samples, seed, work_dir)


def choose(total: int, num_samples: int, seed: int,
           labelled: Optional[Sequence[bool]] = None) -> List[int]:
    """Return the indices of a random subset, ascending. If no drawn image is `labelled` but others
    are, one of them replaces the last drawn image: metrics are undefined without objects."""
    order = np.random.default_rng(seed).permutation(total).tolist()
    chosen = order[:num_samples]
    if labelled is not None and not any(labelled[i] for i in chosen):
        chosen[-1:] = [i for i in order if labelled[i]][:1] or chosen[-1:]
    return sorted(chosen)


def _coco(dataset: Dict, evaluator: Dict, num_samples: int, seed: int, work_dir: str) -> None:
    """Give the data set and the evaluator a smaller annotation file, since CocoMetric counts all
    images of its file."""
    if not evaluator.get('ann_file'):
        return _as_shown(dataset, evaluator, num_samples, seed, work_dir)
    with get_local_path(evaluator['ann_file'], backend_args=evaluator.get('backend_args')) as path:
        annotations = read_annotations(Path(path), not evaluator.get('format_only'))
    images = sorted(annotations['images'], key=lambda image: image['id'])
    classes = classes_of(dataset)
    if not evaluator.get('format_only'):
        check_objects(evaluator['ann_file'], annotations, classes)
    labelled = {a['image_id'] for a in objects_of(annotations, classes)}
    chosen = choose(len(images), num_samples, seed,
                    [image['id'] in labelled for image in images])
    images = [images[i] for i in chosen]
    ids = {image['id'] for image in images}
    annotations['images'] = images
    annotations['annotations'] = [a for a in annotations['annotations'] if a['image_id'] in ids]

    name = Path(evaluator['ann_file']).stem
    target = Path(work_dir).resolve() / f'{name}_{len(images)}_images_seed{seed}.json'
    target.parent.mkdir(parents=True, exist_ok=True)
    # Other processes may be writing the same file
    with TemporaryDirectory(dir=target.parent, prefix='.partial_') as partial:
        whole = Path(partial) / target.name
        whole.write_text(json.dumps(annotations))
        whole.replace(target)
    dataset['ann_file'] = evaluator['ann_file'] = str(target)
    evaluator['backend_args'] = None  # the new file is local


def _as_shown(dataset: Dict, evaluator: Dict, num_samples: int, seed: int, work_dir: str) -> None:
    """Restrict only the data set: these evaluators score the images they receive."""
    total = len(DATASETS.build({**dataset, 'indices': None}))
    given = dataset.get('indices')
    given = range(total) if given is None else range(total)[:given] if isinstance(
        given, int) else given
    dataset['indices'] = [given[i] for i in choose(len(given), num_samples, seed)]


def _nuscenes(dataset: Dict, evaluator: Dict, num_samples: int, seed: int,
              work_dir: str) -> None:
    """Write smaller infos and tables, since NuScenesMetric scores all samples of its split. It uses
    ``sample_idx`` as the position of a frame in the infos."""
    if dataset.get('indices') is not None:
        raise ValueError('--num-samples can not restrict a nuScenes data set that has `indices`')
    ann_file = os.path.join(dataset.get('data_root') or '', dataset['ann_file'])
    infos = load(ann_file)
    labelled = list(map(_shows_objects, infos['data_list']))
    frames = [infos['data_list'][i]
              for i in choose(len(infos['data_list']), num_samples, seed, labelled)]
    infos['data_list'] = [{**frame, 'sample_idx': i} for i, frame in enumerate(frames)]
    folder = write_frames(infos, evaluator['data_root'], nuscenes_version(dataset), work_dir,
                          f'{Path(ann_file).stem}_{len(frames)}_frames_seed{seed}')
    dataset['ann_file'] = evaluator['ann_file'] = str(folder / INFOS)
    evaluator['data_root'] = str(folder)
    evaluator['backend_args'] = None  # the new file is local


def _shows_objects(frame: Dict) -> bool:
    """Whether mmdet3d's infos list an object of a scored class in a frame."""
    return any(i.get('bbox_label_3d', -1) >= 0 for i in frame.get('instances') or ())


_TRANSFORMS = {'CocoMetric': _coco, 'IoUMetric': _as_shown, 'CityscapesMetric': _as_shown,
               'NuScenesMetric': _nuscenes, 'Accuracy': _as_shown}

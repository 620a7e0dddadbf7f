"""Datasets of a config: find them within their wrappers, and check that their files exist."""
import json
from pathlib import Path
from typing import Dict, Iterator, Optional

from mmengine.config import Config, ConfigDict
from mmengine.utils import to_2tuple

from .reading import is_type, walk


def leaves(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the datasets within wrappers such as RepeatDataset and ConcatDataset."""
    inner = dataset.get('datasets') or dataset.get('dataset')
    if inner is None:
        yield dataset
    else:
        for one in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from leaves(one)


def step_name(step) -> str:
    """Return the class name, without scope and module, of a pipeline step given as config or built.
    """
    kind = step.get('type') if isinstance(step, dict) else type(step)
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]


def is_annotation_loader(step) -> bool:
    """Whether a pipeline step, given as config or built, loads annotations."""
    name = step_name(step)
    return name.startswith('Load') and name.endswith(('Annotation', 'Annotations'))


def nuscenes_version(dataset: Dict) -> str:
    """Return the nuScenes version in the metainfo of a NuScenesDataset, or that class's default."""
    return (dataset.get('metainfo') or {}).get('version', 'v1.0-trainval')


def input_shape(cfg: Config):
    """Return the (H, W) of the images that the test pipeline makes.

    Raises:
        ValueError: If the pipeline sets no fixed size.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    for step in dataset.get('pipeline', []):
        if step_name(step) == 'Resize' and step.get('scale') is not None:
            width, height = scale = to_2tuple(step['scale'])
            if step.get('keep_ratio'):  # the larger value of `scale` bounds the longer side
                width, height = max(scale), min(scale)
            return height, width
        if step_name(step) == 'CenterCrop':  # in classifiers, after ResizeEdge
            return to_2tuple(step['crop_size'])[::-1]
        if step_name(step) == 'ImageAugmentation':
            return tuple(step['size'])
    raise ValueError('the test pipeline has no Resize of fixed scale: give --shape H W')


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the annotation files and image folders of data splits exist, before anything is
    built or written.

    For a dataset with a `modality`, only the folders of its sensors are checked. For a
    NuScenesMetric, the tables and maps of the devkit are checked too.

    Args:
        cfg: Config with the data loaders and evaluators.
        splits: 'train', 'val' or 'test'.

    Raises:
        ValueError: If the config has no data loader for a split.
        FileNotFoundError: If a file or folder is missing. The message names each.
    """
    missing = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            raise ValueError(f'the config has no {split}_dataloader')
        for _, dataset in walk(loader['dataset'], ('dataset', )):
            missing += [f'{split} {path}' for path in _local_paths(dataset) if not path.exists()]
        for _, metric in walk(dict(_=cfg.get(f'{split}_evaluator')), ()):
            if metric.get('ann_file') and not Path(metric['ann_file']).exists():
                missing.append(f'{split} evaluator {metric["ann_file"]}')
            if is_type(metric, 'NuScenesMetric'):
                version = nuscenes_version(next(leaves(loader['dataset'])))
                missing += [f'{split} evaluator {path}'
                            for path in _devkit_paths(Path(metric['data_root']), version)
                            if not path.exists()]
    if missing:
        raise FileNotFoundError('missing files or folders: ' + ', '.join(dict.fromkeys(missing)))


def _local_paths(dataset: ConfigDict) -> Iterator[Path]:
    if 'type' not in dataset or dataset.get('backend_args'):
        return
    root = Path(dataset.get('data_root') or '')
    parts = [dataset.get('ann_file')]
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, dict):
        parts += [part for key, part in prefix.items()
                  if _is_used(key, dataset.get('modality'))]
    else:
        parts.append(prefix)
    if dataset.get('data_root'):
        parts.append('')
    yield from (root / part for part in parts if isinstance(part, str))


def _is_used(key: str, modality: Optional[Dict]) -> bool:
    """Whether an mmdet3d dataset reads the folder under `key` of its data_prefix."""
    sensor = ('use_lidar' if key in ('pts', 'sweeps') else
              'use_camera' if key.startswith(('img', 'CAM_')) else None)
    return modality is None or sensor is None or bool(modality.get(sensor))


def _devkit_paths(data_root: Path, version: str) -> Iterator[Path]:
    """Yield the folder of tables and the map files that the nuScenes devkit requires."""
    yield data_root / version
    maps = data_root / version / 'map.json'
    if maps.exists():
        yield from (data_root / row['filename'] for row in json.loads(maps.read_text()))

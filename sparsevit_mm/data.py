"""The data that a config names: its data sets within their wrappers, and whether they are there."""
from pathlib import Path
from typing import Iterator

from mmengine.config import Config, ConfigDict

from .config import walk


def leaves(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets within wrappers such as RepeatDataset and ConcatDataset."""
    inner = dataset.get('datasets') or dataset.get('dataset')
    if inner is None:
        yield dataset
    else:
        for one in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from leaves(one)


def step_name(step) -> str:
    """Class of a pipeline's step, as config or as built, without scope and module."""
    kind = step.get('type') if isinstance(step, dict) else type(step)
    return getattr(kind, '__name__', str(kind)).rsplit('.', 1)[-1]


def is_annotation_loader(step) -> bool:
    """Whether a pipeline's step, as config or as built, loads annotations."""
    name = step_name(step)
    return name.startswith('Load') and name.endswith(('Annotation', 'Annotations'))


def check_data(cfg: Config, *splits: str) -> None:
    """Makes sure that the annotation files and image folders of `splits` ('train', 'val', 'test')
    are there, before anything is built or written.

    Raises:
        ValueError: The config has no data loader for the split.
        FileNotFoundError: Names each file and folder that is missing.
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
    if missing:
        raise FileNotFoundError('not there: ' + ', '.join(dict.fromkeys(missing)))


def _local_paths(dataset: ConfigDict) -> Iterator[Path]:
    if 'type' not in dataset or dataset.get('backend_args'):
        return
    root = Path(dataset.get('data_root') or '')
    parts = [dataset.get('ann_file')]
    prefix = dataset.get('data_prefix') or {}
    parts += list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    if dataset.get('data_root'):
        parts.append('')
    yield from (root / part for part in parts if isinstance(part, str))

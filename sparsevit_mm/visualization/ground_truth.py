"""Ground truth of image files from the datasets of a config, in original image coordinates."""
import os
from functools import lru_cache
from typing import Callable, Dict, List, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement

from ..config.data import check_data, is_annotation_loader, leaves, step_name

SPLITS = ('test', 'val', 'train')
Step = Callable[[dict], dict]


def split_leaves(cfg: Config, split: str) -> List[ConfigDict]:
    """Return the dataset configs of 'test', 'val' or 'train', without their wrappers."""
    loader = cfg.get(f'{split}_dataloader') or {}
    return list(leaves(loader['dataset'])) if 'dataset' in loader else []


def find_ground_truths(cfg: Config, paths: Sequence[str],
                       model: BaseModel) -> Dict[str, BaseDataElement]:
    """Find the ground truth of image files in the test, validation and training data.

    Splits whose files do not exist are skipped. A dataset whose own pipeline loads no annotations,
    as is common for test pipelines, uses the first pipeline that does.

    Returns:
        Path as given -> data sample, for the images found.
    """
    found: Dict[str, BaseDataElement] = {}
    datasets = [leaf for split in SPLITS for leaf in split_leaves(cfg, split)]
    pipelines = [steps for steps in (loading_steps(leaf.get('pipeline', ())) for leaf in datasets)
                 if steps]
    if not pipelines:
        return found
    for split in SPLITS:
        missing = [path for path in paths if path not in found]
        if not missing or not _is_there(cfg, split):
            continue
        for leaf in split_leaves(cfg, split):
            steps = loading_steps(leaf.get('pipeline', ())) or pipelines[0]
            dataset = DATASETS.build({**leaf, 'pipeline': [], 'filter_cfg': None})
            found.update(ground_truths_in(dataset, missing, Compose(steps).transforms, model))
    return found


def loading_steps(pipeline: Sequence) -> list:
    """Return the loading and packing steps of a pipeline, without those that resize, flip or pad;
    empty if the pipeline loads no annotations."""
    if not any(map(is_annotation_loader, pipeline)):
        return []
    return [step for step in pipeline if step_name(step).startswith(('Load', 'Pack'))]


def ground_truths_in(dataset: BaseDataset, paths: Sequence[str], steps: Sequence[Step],
                     model: BaseModel) -> Dict[str, BaseDataElement]:
    """Find the ground truth of image files in one dataset, as the model's data preprocessor returns
    it.

    Args:
        dataset: Dataset that may hold the images.
        paths: Image files.
        steps: Transforms that load and pack.
        model: Model whose data preprocessor is used.

    Returns:
        Path as given -> data sample, for the images found.
    """
    wanted = {absolute(path) for path in paths}
    found: Dict[str, BaseDataElement] = {}
    for index in range(len(dataset)):
        if not wanted:
            break
        info = dataset.get_data_info(index)
        path = absolute(info.get('img_path', ''))
        if path in wanted:
            wanted.remove(path)
            for step in steps:
                info = step(info)
            batch = model.data_preprocessor(pseudo_collate([info]), False)
            found[path] = batch['data_samples'][0]
    return {path: found[absolute(path)] for path in paths if absolute(path) in found}


def check_split(cfg: Config, split: str) -> None:
    """Run :func:`~sparsevit_mm.config.data.check_data` without the evaluator's files."""
    check_data(Config({f'{split}_dataloader': cfg.get(f'{split}_dataloader')}), split)


def _is_there(cfg: Config, split: str) -> bool:
    try:
        check_split(cfg, split)
    except (ValueError, FileNotFoundError):
        return False
    return True


def absolute(path: str) -> str:
    """Return the canonical path of a file: its folder resolved, its name as given."""
    folder, name = os.path.split(path)
    return os.path.join(_real(folder), name)


_real = lru_cache(maxsize=4096)(os.path.realpath)  # there are few folders, often symlinks

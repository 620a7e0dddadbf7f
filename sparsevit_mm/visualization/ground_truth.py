"""Ground truth of image files, found in the data sets of a config, in the image's own pixels."""
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
    """The data sets of 'test', 'val' or 'train', without their wrappers."""
    loader = cfg.get(f'{split}_dataloader') or {}
    return list(leaves(loader['dataset'])) if 'dataset' in loader else []


def find_ground_truths(cfg: Config, paths: Sequence[str],
                       model: BaseModel) -> Dict[str, BaseDataElement]:
    """Ground truth of image files that the test, validation or training data hold.

    Data sets whose files are not there are passed over. Annotations are loaded by the first
    pipeline that loads any: test pipelines often do not.

    Returns:
        Path, as given -> data sample, for the images found.
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
    """The steps that load image and annotations and pack them, without those that resize, flip or
    pad; none if the pipeline loads no annotations."""
    if not any(map(is_annotation_loader, pipeline)):
        return []
    return [step for step in pipeline if step_name(step).startswith(('Load', 'Pack'))]


def ground_truths_in(dataset: BaseDataset, paths: Sequence[str], steps: Sequence[Step],
                     model: BaseModel) -> Dict[str, BaseDataElement]:
    """Ground truth of image files in one data set, as the model's preprocessor hands it on.

    Args:
        dataset: It is asked for the paths of its images.
        paths: Files.
        steps: Transforms that load and pack.
        model: Its preprocessor is used.
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
    """As :func:`~sparsevit_mm.config.data.check_data`, without the evaluator's files."""
    check_data(Config({f'{split}_dataloader': cfg.get(f'{split}_dataloader')}), split)


def _is_there(cfg: Config, split: str) -> bool:
    try:
        check_split(cfg, split)
    except (ValueError, FileNotFoundError):
        return False
    return True


def absolute(path: str) -> str:
    """The one path of a file that is named in several ways."""
    folder, name = os.path.split(path)
    return os.path.join(_real(folder), name)


_real = lru_cache(maxsize=4096)(os.path.realpath)  # folders are often links, and few

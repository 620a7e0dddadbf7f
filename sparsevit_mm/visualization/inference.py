"""Inference on image files: the windows that ran and the prediction, at original image size."""
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..evaluation.loading import load_model, prepare
from ..models import get_sparse_backbone
from .ground_truth import SPLITS, absolute, is_annotation_loader, split_leaves
from .overlay import Counts
from .windows import Placement, count_blocks


class Inference(NamedTuple):
    """Result of one image file.

    Attributes:
        image: (H, W, 3) uint8, RGB, at its original size.
        stages: Blocks run at each pixel, for each stage.
        prediction: Data sample returned by the model.
    """
    image: np.ndarray
    stages: List[Counts]
    prediction: BaseDataElement


class FileInferencer:
    """Run a model of any toolkit on image files, with the config's test pipeline.

    Args:
        cfg: Config of the whole model, which sets the sparsity of its backbone.
        checkpoint: Path of the checkpoint.
        device: Name of a torch device.

    Attributes:
        model: The model, in eval mode.
        dataset_meta: Classes and palette, see :func:`dataset_meta`.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the config has no test pipeline or not exactly one sparse backbone, the
            checkpoint is broken or does not fit the model, or torch cannot use the device.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = 'cpu'):
        prepare(cfg, device)
        self.pipeline = Compose(file_pipeline(cfg))
        self.model, meta = load_model(cfg, checkpoint, device)
        self.dataset_meta = dataset_meta(cfg, meta)
        self.backbone = get_sparse_backbone(self.model)

    def __call__(self, path: str) -> Inference:
        """Run one image file. Raises ValueError, see :func:`~.windows.count_blocks`."""
        image = read_image(path)
        packed = self.pipeline(dict(img_path=str(path), img_id=0))
        prediction, maps = run_recorded(self.model, packed)
        placement = Placement.from_metainfo(prediction.metainfo)
        stages = count_blocks(self.backbone, maps, image.shape[:2], placement)
        return Inference(image, stages, prediction)


def run_recorded(model: BaseModel, packed: Dict) -> Tuple[BaseDataElement, List[List[Tensor]]]:
    """Run a model on the output of a pipeline. Return its data sample, and the maps of the
    backbone's ``recording()``."""
    with torch.no_grad(), get_sparse_backbone(model).recording() as maps:
        return model.test_step(pseudo_collate([packed]))[0], maps


def file_pipeline(cfg: Config) -> List[Dict]:
    """Return the config's test pipeline without the steps that load annotations.

    Raises:
        ValueError: If there is none.
    """
    pipelines = [leaf.get('pipeline') for leaf in split_leaves(cfg, 'test')]
    steps = next(filter(None, [*pipelines, cfg.get('test_pipeline')]), None)
    if steps is None:
        raise ValueError('the config has no test pipeline: neither its test_dataloader nor '
                         'test_pipeline defines one')
    return [step for step in steps if not is_annotation_loader(step)]


def dataset_meta(cfg: Config, checkpoint_meta: Dict) -> Optional[Dict]:
    """Return classes and palette of the checkpoint, completed from the config's datasets of the
    same classes; None if neither names classes."""
    meta = {key.lower(): value for key, value in
            (checkpoint_meta.get('dataset_meta') or checkpoint_meta).items()}
    meta = {key: meta[key] for key in ('classes', 'palette') if meta.get(key)}
    for leaf in (leaf for split in SPLITS for leaf in split_leaves(cfg, split)):
        if len(meta) == 2:
            break
        theirs = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True}).metainfo
        if theirs.get('classes') and tuple(meta.get('classes', theirs['classes'])) == tuple(
                theirs['classes']):
            meta = {**theirs, **meta}
    return meta if 'classes' in meta else None


def check_images(paths: Sequence[str]) -> None:
    """Check that image files can be read.

    Raises:
        FileNotFoundError: If files do not exist; the message lists them.
        ValueError: If files are not readable images; the message lists them.
    """
    missing = [str(path) for path in paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f'no such image files: {", ".join(missing)} (a single-image '
                                'config takes image files; sample tokens are for multi-camera '
                                'configs)')
    broken = []
    for path in paths:
        try:
            read_image(path)
        except ValueError:
            broken.append(str(path))
    if broken:
        raise ValueError(f'not readable as images: {", ".join(broken)}')


def read_image(path: str) -> np.ndarray:
    """Read an image as (H, W, 3) uint8, RGB, rotated by its EXIF data as the toolkits do.

    Raises:
        ValueError: If mmcv cannot read the file as an image.
    """
    content = Path(path).read_bytes()
    image = mmcv.imfrombytes(content) if content else None
    if image is None:
        raise ValueError(f'{path} is not readable as an image')
    return mmcv.bgr2rgb(image)


def output_names(paths: Sequence[str]) -> Dict[str, str]:
    """Map each file to a unique name without folder and suffix: NAME, then NAME-2, NAME-3 for other
    files of that name. A file given twice is listed once."""
    names: Dict[str, str] = {}
    given = set()
    for path in map(str, paths):
        if absolute(path) in given:
            continue
        given.add(absolute(path))
        stem = name = Path(path).stem
        number = 1
        while name in names.values():
            number += 1
            name = f'{stem}-{number}'
        names[path] = name
    return names

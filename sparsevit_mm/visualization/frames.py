"""Inference on multi-camera frames: the windows that ran in each image, and the 3D boxes."""
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from ..config.data import step_name
from ..evaluation.loading import load_model, prepare
from ..models import get_sparse_backbone
from .camera_panel import GROUND_TRUTH, PREDICTION, View
from .ground_truth import check_split
from .inference import file_pipeline, run_recorded
from .windows import Placement, count_blocks

LOADER = 'LoadCameras'
SCORE = .3  # minimum score of drawn boxes, as in mmdet's visualizers
CAMERA_KEYS = ('cameras', 'cam2img', 'lidar2cam', 'img_aug_matrix')


class Frame(NamedTuple):
    """Arguments of :func:`~.camera_panel.draw_frame`."""
    views: List[View]
    boxes: Dict[str, np.ndarray]
    area: Sequence[Tuple[float, float]]


class FrameInferencer:
    """Run a multi-camera model on frames of a dataset.

    Args:
        cfg: Config of the whole model, which sets the sparsity of its backbone. The model must have
            an ``img_view_transformer`` with a ground ``grid``, as :class:`BEVDet` has.
        checkpoint: Path of the checkpoint.
        dataset: Result of :func:`open_test_split`.
        device: Name of a torch device.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the config does not hold exactly one sparse backbone, the checkpoint is
            broken or does not fit the model, or torch cannot use the device.
    """

    def __init__(self, cfg: Config, checkpoint: str, dataset: BaseDataset, device: str = 'cpu'):
        prepare(cfg, device)
        self.dataset = dataset
        self.model, _ = load_model(cfg, checkpoint, device)
        self.backbone = get_sparse_backbone(self.model)

    def __call__(self, index: int) -> Frame:
        """Run the frame at a position of the dataset.

        The result holds the ground truth if the dataset has any, and the predicted boxes with a
        score of at least 0.3.

        Raises:
            ValueError: See :func:`~.windows.count_blocks`. Also if the pipeline does not keep the
                camera parameters.
        """
        packed = self.dataset[index]
        images = packed['inputs']['img'].numpy()[:, ::-1].transpose(0, 2, 3, 1)  # BGR to RGB
        prediction, maps = run_recorded(self.model, packed)
        meta = prediction.metainfo
        missing = [key for key in CAMERA_KEYS if key not in meta]
        if missing:
            raise ValueError(f'the test pipeline must keep {", ".join(missing)} in the meta_keys '
                             'of its packing step')
        shape = images.shape[1:3]
        views = [View(camera, image,
                      count_blocks(self.backbone, maps, shape, Placement(shape), view),
                      img_aug @ cam2img @ lidar2cam[:3])
                 for view, (image, camera, cam2img, lidar2cam, img_aug) in enumerate(
                     zip(images, *(meta[key] for key in CAMERA_KEYS)))]
        found = prediction.pred_instances_3d
        boxes = {PREDICTION: _corners(found.bboxes_3d)[(found.scores_3d >= SCORE).cpu().numpy()]}
        info = self.dataset.get_data_info(index)
        truth = info.get('eval_ann_info') or info.get('ann_info')
        if truth:
            corners = _corners(truth['gt_bboxes_3d'])[truth['gt_labels_3d'] >= 0]
            boxes = {GROUND_TRUTH: corners, **boxes}
        grid = self.model.img_view_transformer.grid
        return Frame(views, boxes, (grid.x[:2], grid.y[:2]))


def loads_cameras(cfg: Config) -> bool:
    """Whether the config's test pipeline loads several cameras. ValueError if there is none."""
    return LOADER in map(step_name, file_pipeline(cfg))


def open_test_split(cfg: Config) -> BaseDataset:
    """Build the test dataset of a config.

    Raises:
        ValueError: If the config has no test_dataloader.
        FileNotFoundError: If files or folders are missing; the message lists them.
    """
    check_split(cfg, 'test')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return DATASETS.build(cfg.test_dataloader.dataset)


def find_frames(dataset: BaseDataset, names: Sequence[str]) -> Dict[str, int]:
    """Map the named samples to their positions in the dataset, without duplicates.

    Args:
        dataset: Result of :func:`open_test_split`.
        names: Sample tokens, or positions as decimal numbers.

    Returns:
        Sample token -> position.

    Raises:
        ValueError: If names are neither; the message lists them.
    """
    tokens = [dataset.get_data_info(i)['token'] for i in range(len(dataset))]
    places = {**{str(i): i for i in range(len(tokens))}, **{t: i for i, t in enumerate(tokens)}}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise ValueError(f'not samples of the test split: {", ".join(unknown)} (a multi-camera '
                         'config takes sample tokens of this split, or positions in it from 0 to '
                         f'{len(tokens) - 1}, not image files)')
    return {tokens[places[name]]: places[name] for name in names}


def _corners(boxes) -> np.ndarray:
    """Return the (N, 8, 3) float64 corners of mmdet3d's boxes."""
    return boxes.corners.double().cpu().numpy()

"""A model on frames of several cameras: its windows that run in each image, and its 3D boxes."""
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
SCORE = .3  # of the boxes drawn at least, as in mmdet's visualizers
CAMERA_KEYS = ('cameras', 'cam2img', 'lidar2cam', 'img_aug_matrix')


class Frame(NamedTuple):
    """What :func:`~.camera_panel.draw_frame` draws: see there."""
    views: List[View]
    boxes: Dict[str, np.ndarray]
    area: Sequence[Tuple[float, float]]


class FrameInferencer:
    """Runs a model of several cameras on frames of a data set.

    Args:
        cfg: The config; the sparsity is that of its backbone. Its model has an
            ``img_view_transformer`` with a ``grid`` on the ground, as :class:`BEVDet`.
        checkpoint: File.
        dataset: From :func:`open_test_split`.
        device: Name of a torch device.

    Raises:
        FileNotFoundError, ValueError: As find_backbone and check_fits; no such device.
    """

    def __init__(self, cfg: Config, checkpoint: str, dataset: BaseDataset, device: str = 'cpu'):
        prepare(cfg, device)
        self.dataset = dataset
        self.model, _ = load_model(cfg, checkpoint, device)
        self.backbone = get_sparse_backbone(self.model)

    def __call__(self, index: int) -> Frame:
        """Runs the frame at a position of the data set.

        Ground truth is drawn where the data set holds any, and of the predicted boxes those with
        a score of 0.3 or more.

        Raises:
            ValueError: As :func:`~.windows.count_blocks`; the pipeline does not keep the cameras.
        """
        packed = self.dataset[index]
        images = packed['inputs']['img'].numpy()[:, ::-1].transpose(0, 2, 3, 1)  # of BGR
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
    """Whether the config's test pipeline loads several cameras. Raises as file_pipeline."""
    return LOADER in map(step_name, file_pipeline(cfg))


def open_test_split(cfg: Config) -> BaseDataset:
    """The data set that the config tests on.

    Raises:
        ValueError: The config has no test data loader.
        FileNotFoundError: Names each file and folder that is missing.
    """
    check_split(cfg, 'test')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return DATASETS.build(cfg.test_dataloader.dataset)


def find_frames(dataset: BaseDataset, names: Sequence[str]) -> Dict[str, int]:
    """Positions in the data set by sample token, each once.

    Args:
        dataset: From :func:`open_test_split`.
        names: Sample tokens, and positions as decimal numbers.

    Raises:
        ValueError: Names all that are neither.
    """
    tokens = [dataset.get_data_info(i)['token'] for i in range(len(dataset))]
    places = {**{str(i): i for i in range(len(tokens))}, **{t: i for i, t in enumerate(tokens)}}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise ValueError(f'no samples of the test split: {", ".join(unknown)} (a config of several '
                         'cameras takes sample tokens of this split, or positions in it, from 0 '
                         f'to {len(tokens) - 1}; not image files)')
    return {tokens[places[name]]: places[name] for name in names}


def _corners(boxes) -> np.ndarray:
    """(N, 8, 3) float64 of mmdet3d's boxes."""
    return boxes.corners.double().cpu().numpy()

"""Kept windows of the winner of a search, on a few images of its data."""
from pathlib import Path
from typing import List

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..visualization.camera_panel import draw_frame
from ..visualization.frames import FrameInferencer, loads_cameras
from ..visualization.ground_truth import check_split, find_ground_truths, split_leaves
from ..visualization.inference import FileInferencer, output_names, prepare
from ..visualization.overlay import draw_stages, write_png
from ..visualization.panel import PanelPainter


def draw_kept_windows(cfg: Config, checkpoint: str, number: int, folder: Path,
                      device: str = 'cpu') -> List[Path]:
    """Draw the figures of ``tools/visualize_windows.py`` for images of val, or of test if the files
    of val do not exist.

    Args:
        cfg: Config of the winner.
        checkpoint: Path of a checkpoint that fits the config.
        number: Number of images, evenly spaced over the dataset.
        folder: Directory of the PNGs, created if needed.
        device: Name of a torch device.

    Returns:
        Paths of NAME_panel.png and NAME_windows.png for each image, or of TOKEN_windows.png for
        each multi-camera frame.

    Raises:
        FileNotFoundError, ValueError: See check_split, FileInferencer and FrameInferencer.
    """
    prepare(cfg, device)
    split = _split(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    draw = _draw_frames if loads_cameras(cfg) else _draw_images
    return draw(cfg, checkpoint, split, number, folder, device)


def _split(cfg: Config) -> str:
    try:
        check_split(cfg, 'val')
        return 'val'
    except FileNotFoundError:
        check_split(cfg, 'test')
        return 'test'


def _spread(size: int, number: int) -> List[int]:
    """Return `number` indices, each in the middle of an equal part of the dataset."""
    number = min(size, number)
    return [int((i + .5) * size / number) for i in range(number)]


def _draw_images(cfg: Config, checkpoint: str, split: str, number: int, folder: Path,
                 device: str) -> List[Path]:
    dataset = DATASETS.build({**split_leaves(cfg, split)[0], 'pipeline': []})
    images = [dataset.get_data_info(i)['img_path'] for i in _spread(len(dataset), number)]
    infer = FileInferencer(cfg, checkpoint, device)
    truths = find_ground_truths(cfg, images, infer.model)
    painter = PanelPainter(cfg.get('visualizer'), infer.dataset_meta)
    drawn: List[Path] = []
    for path, name in output_names(images).items():
        image, stages, prediction = infer(path)
        title = f'{Path(path).name}, sparsity {infer.backbone.sparsity.label}'
        drawn += [
            _write(folder / f'{name}_panel.png',
                   painter.panel(image, stages, title, prediction, truths.get(path))),
            _write(folder / f'{name}_windows.png', draw_stages(image, stages, title))]
    return drawn


def _draw_frames(cfg: Config, checkpoint: str, split: str, number: int, folder: Path,
                 device: str) -> List[Path]:
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    infer = FrameInferencer(cfg, checkpoint, dataset, device)
    drawn: List[Path] = []
    for place in _spread(len(dataset), number):
        token = dataset.get_data_info(place)['token']
        title = f'sample {token}, sparsity {infer.backbone.sparsity.label}'
        drawn.append(_write(folder / f'{token}_windows.png', draw_frame(*infer(place), title)))
    return drawn


def _write(path: Path, picture: np.ndarray) -> Path:
    write_png(path, picture)
    return path

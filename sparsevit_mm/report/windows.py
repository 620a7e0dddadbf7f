"""The windows that a search's winner runs, on a few images of the data it was searched on."""
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
    """Draws what ``tools/visualize_windows.py`` draws, of images of val, or of test where val is
    not there.

    Args:
        cfg: Config of the winner.
        checkpoint: Checkpoint that fits it.
        number: Of images, spread over the data.
        folder: Gets the PNGs; made if it is not there.
        device: Name of a torch device.

    Returns:
        NAME_panel.png and NAME_windows.png of each image, TOKEN_windows.png of each frame of
        several cameras.

    Raises:
        FileNotFoundError, ValueError: As check_split, FileInferencer and FrameInferencer.
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
    """Places in the middle of equal parts of a data set."""
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

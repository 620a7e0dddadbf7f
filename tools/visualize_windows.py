"""Draws, for each image, how many blocks ran where, and beside it prediction and ground truth."""
import argparse
from pathlib import Path

import torch
from mmengine.config import DictAction

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config import load_config, set_sparsity
from sparsevit_mm.visualization.ground_truth import find_ground_truths
from sparsevit_mm.visualization.inference import FileInferencer, check_images, output_names
from sparsevit_mm.visualization.overlay import check_folder, draw_stages, write_png
from sparsevit_mm.visualization.panel import PanelPainter


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/windows'), metavar='DIR',
                        help='gets NAME_windows.png and NAME_panel.png (default: '
                        'work_dirs/windows)')
    parser.add_argument('--sparsity', help='as in test.py (default: the config\'s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings merged into the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = load_config(args.config, args.cfg_options)
        check_folder(args.out)
        check_images(args.images)
        if args.sparsity is not None:
            set_sparsity(cfg, args.sparsity)
        infer = FileInferencer(cfg, args.checkpoint, args.device)
        names = output_names(args.images)
        truths = find_ground_truths(cfg, list(names), infer.model)
        painter = PanelPainter(cfg.get('visualizer'), infer.dataset_meta)
        args.out.mkdir(parents=True, exist_ok=True)
        for path, name in names.items():
            image, stages, prediction = infer(path)
            title = f'{Path(path).name}, sparsity {infer.backbone.sparsity.label}'
            windows, panel = (args.out / f'{name}_{kind}.png' for kind in ('windows', 'panel'))
            write_png(windows, draw_stages(image, stages, title))
            write_png(panel, painter.panel(image, stages, title, prediction, truths.get(path)))
            print(f'{path}: {windows}, {panel}', flush=True)
            if path not in truths:
                print(f'{path}: no ground truth, in none of the config\'s data sets on this disk')


if __name__ == '__main__':
    main()

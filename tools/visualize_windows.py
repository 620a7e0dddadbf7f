"""Draw how many blocks ran at each place of an image. For single images, also draw the prediction
and the ground truth; for multi-camera frames, the 3D boxes in each image and from above."""
import argparse
from pathlib import Path

from arguments import add_config_options, add_device, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE_OR_SAMPLE',
                        help='image files; if the test pipeline loads several cameras '
                        '(LoadCameras), sample tokens of the test split or indices in it, '
                        'counted from 0')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/windows'), metavar='DIR',
                        help='folder for NAME_windows.png and NAME_panel.png of each image, or '
                        'TOKEN_windows.png of each sample (default: work_dirs/windows)')
    parser.add_argument('--budget', action='store_true',
                        help='also draw how the windows that run shift between the cameras from '
                        'sample to sample: budget.png')
    parser.add_argument('--sparsity',
                        help='in the format of test.py (default: that of the config)')
    add_device(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, default_device
    from sparsevit_mm.config.reading import load_config, set_sparsity
    from sparsevit_mm.visualization.frames import loads_cameras
    from sparsevit_mm.visualization.overlay import check_folder
    args.device = args.device or default_device()
    with clear_errors(args.traceback):
        cfg = load_config(args.config, args.cfg_options)
        check_folder(args.out)
        if args.sparsity is not None:
            set_sparsity(cfg, args.sparsity)
        if loads_cameras(cfg):
            draw_frames(cfg, args)
        elif args.budget:
            raise ValueError('--budget needs frames of several cameras')
        else:
            draw_images(cfg, args)


def draw_images(cfg, args: argparse.Namespace) -> None:
    from sparsevit_mm.visualization.ground_truth import find_ground_truths
    from sparsevit_mm.visualization.inference import FileInferencer, check_images, output_names
    from sparsevit_mm.visualization.overlay import draw_stages, write_png
    from sparsevit_mm.visualization.panel import PanelPainter
    check_images(args.inputs)
    infer = FileInferencer(cfg, args.checkpoint, args.device)
    names = output_names(args.inputs)
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
            print(f'{path}: no ground truth found in the config\'s data sets')


def draw_frames(cfg, args: argparse.Namespace) -> None:
    from sparsevit_mm.visualization.camera_budget import budget_of, correlation, draw_budgets
    from sparsevit_mm.visualization.camera_panel import GROUND_TRUTH, draw_frame
    from sparsevit_mm.visualization.frames import FrameInferencer, find_frames, open_test_split
    from sparsevit_mm.visualization.overlay import write_png
    dataset = open_test_split(cfg)
    places = find_frames(dataset, args.inputs)
    infer = FrameInferencer(cfg, args.checkpoint, dataset, args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    budgets, sparsity = [], infer.backbone.sparsity.label
    for token, place in places.items():
        frame = infer(place)
        budgets.append(budget_of(frame.views, frame.boxes))
        path = args.out / f'{token}_windows.png'
        title = f'sample {token}, sparsity {sparsity}'
        write_png(path, draw_frame(*frame, title))
        print(f'{token}: {path}', flush=True)
        if GROUND_TRUTH not in frame.boxes:
            print(f'{token}: no ground truth in the test split')
    if args.budget:
        path = args.out / 'budget.png'
        title = f'sparsity {sparsity}, scope {infer.backbone.selection.scope}'
        write_png(path, draw_budgets(budgets, title))
        print(f'{path}; the share of windows and the number of objects in view correlate by '
              f'{correlation(budgets):.2f}')


if __name__ == '__main__':
    main()

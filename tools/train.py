"""Train any mmdet, mmseg or mmdet3d config with mmengine's Runner."""
import argparse

from arguments import add_runner_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    add_runner_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (CUDA)')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='resume from CHECKPOINT, or from the latest in the work directory')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, config_from
    from sparsevit_mm.config.building import build_runner, use_amp
    from sparsevit_mm.config.data import check_data
    from sparsevit_mm.config.labels import check_labels
    from sparsevit_mm.models.checkpoints import read_checkpoint
    with clear_errors(args.traceback):
        cfg = config_from(args)
        splits = ['train'] + (['val'] if cfg.get('val_dataloader') else [])
        check_data(cfg, *splits)
        check_labels(cfg, *splits)
        if args.amp:
            use_amp(cfg)
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.get('load_from'):
            read_checkpoint(cfg.load_from)
        runner = build_runner(cfg)
    runner.train()


if __name__ == '__main__':
    main()

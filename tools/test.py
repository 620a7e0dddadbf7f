"""Test a checkpoint with any mmdet, mmseg or mmdet3d config and its own evaluator."""
import argparse

from arguments import add_runner_arguments, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file, or mmdet::path/in/the/toolkit.py')
    parser.add_argument('checkpoint', nargs='?',
                        help='checkpoint file (default: load_from of the config)')
    add_runner_arguments(parser)
    parser.add_argument('--sparsity', help='0.6, or one ratio per stage, pair or block: '
                        '"[[.3,.3],[0,0],[.1,.1,.2,.2,.2,.2],[0,0]]" (default: that of the '
                        'config)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation with tta_model '
                        'and tta_pipeline of the config')
    parser.add_argument('--split', choices=('test', 'val'), default='test',
                        help='val: the images that a search evaluates on')
    parser.add_argument('--num-samples', type=int, metavar='N',
                        help='test on only N images, the same as a search with N')
    parser.add_argument('--seed', type=int, default=0,
                        help='seed that selects the N images (default: 0)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors, config_from
    from sparsevit_mm.config.building import build_runner
    from sparsevit_mm.config.data import check_data
    from sparsevit_mm.config.labels import check_labels
    from sparsevit_mm.config.reading import set_sparsity
    from sparsevit_mm.config.tta import use_tta
    from sparsevit_mm.evaluation.subset import restrict_to_subset
    from sparsevit_mm.models.checkpoints import check_fits
    with clear_errors(args.traceback):
        cfg = config_from(args)
        cfg.load_from = args.checkpoint or cfg.get('load_from')
        if not cfg.load_from:
            raise ValueError(f'{args.config} has no load_from: pass a checkpoint')
        if args.split == 'val':
            cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
        if args.tta:
            use_tta(cfg)
        check_data(cfg, 'test')
        check_labels(cfg, 'test')
        if args.sparsity is not None:
            set_sparsity(cfg, args.sparsity)
        if args.num_samples is not None:
            restrict_to_subset(cfg, 'test', args.num_samples, args.seed, cfg.work_dir)
        runner = build_runner(cfg)
        check_fits(runner.model, cfg.load_from)
    runner.test()


if __name__ == '__main__':
    main()

"""Write the config and the checkpoint of a smaller dense model, without the heads and FFN neurons
that structured sparse training pruned or that the `widths` of a searched config leave out."""
import argparse
from pathlib import Path

from arguments import add_config_options, make_parser


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file that the model was trained with')
    parser.add_argument('checkpoint', help='checkpoint file of the whole model')
    parser.add_argument('-o', '--out', type=Path, metavar='NEW.py',
                        help='config to write; the checkpoint goes to NEW.pth (default: '
                        'NAME_compact.py in the current folder)')
    parser.add_argument('--overwrite', action='store_true', help='replace NEW.py and NEW.pth')
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.compact import compact_model
    out = args.out or Path(f'{Path(args.config.replace("::", "/")).stem}_compact.py')
    with clear_errors(args.traceback):
        made = compact_model(args.config, args.checkpoint, out, args.overwrite, args.cfg_options)
    print(f'heads of each block: {" ".join(heads_of(made.after))} of '
          f'{" ".join(heads_of(made.before))}')
    print(f'neurons of each block: {" ".join(neurons_of(made.after))} of '
          f'{" ".join(neurons_of(made.before))}')
    sizes = [sum(p.numel() for p in model.parameters()) / 1e6
             for model in (made.before, made.after)]
    print(f'backbone: {sizes[1]:.2f} of {sizes[0]:.2f} M parameters; outputs differ by '
          f'{made.difference:.1e} at most, relative to the largest value')
    print(f'wrote {made.config} and {made.checkpoint}')


def heads_of(backbone) -> list:
    return _numbers(backbone, 'heads')


def neurons_of(backbone) -> list:
    return _numbers(backbone, 'neurons')


def _numbers(backbone, kind: str) -> list:
    from sparsevit_mm.weights import unit_groups
    return [str(group.number) for group in unit_groups(backbone).values() if group.kind == kind]


if __name__ == '__main__':
    main()

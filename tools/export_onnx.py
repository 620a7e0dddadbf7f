"""Export the backbone of a config to ONNX, check the file, and time it in onnxruntime."""
import argparse
import tempfile
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from arguments import add_config_options, make_parser

SEEDS = range(3)


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?',
                        help='checkpoint of the whole model (default: random weights)')
    parser.add_argument('--out', metavar='FILE.onnx',
                        help='file to write (default: work_dirs/CONFIG.onnx)')
    parser.add_argument('--sparsity',
                        help='in the format of test.py (default: that of the config)')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='input in pixels (default: the size of the test pipeline)')
    parser.add_argument('--batch-size', type=int, default=1, metavar='B')
    parser.add_argument('--dynamic-batch', action='store_true',
                        help='let the file take any batch size; B is only used for timing')
    parser.add_argument('--torch-export', metavar='FILE.pt2',
                        help='also write a torch.export program')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads (default: torch\'s)')
    parser.add_argument('--rounds', type=int, default=15, help='number of runs of each model')
    add_config_options(parser)
    return parser.parse_args()


def describe(path: Path) -> str:
    """Describe the size, inputs and outputs of an ONNX file."""
    from sparsevit_mm.deploy import open_session
    session = open_session(path)
    values = [*session.get_inputs(), *session.get_outputs()]
    lines = [f'{path}: {path.stat().st_size / 2**20:.1f} MiB']
    lines += [f'  {value.name}: {" x ".join(map(str, value.shape))}' for value in values]
    return '\n'.join(lines)


def main() -> None:
    args = parse_args()
    from sparsevit_mm.cli import clear_errors
    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.config.data import input_shape
    from sparsevit_mm.config.reading import load_config
    from sparsevit_mm.cost.latency import LatencySetting
    from sparsevit_mm.deploy import (check_onnx, check_program, export_onnx, export_program,
                                     measure_onnx)
    with clear_errors(args.traceback):
        cfg = load_config(args.config, args.cfg_options)
        backbone = build_backbone(cfg, args.checkpoint)
        if not args.checkpoint:
            print('no checkpoint given: the weights are random')
        if args.sparsity is not None:
            backbone.sparsity = args.sparsity
        shape = args.shape or input_shape(cfg)
        setting = LatencySetting(shape, args.batch_size, num_threads=args.threads)
        out = Path(args.out or f'work_dirs/{Path(args.config).stem}.onnx')
        if not args.out:
            out.parent.mkdir(exist_ok=True)
        how = dict(shape=shape, batch_size=args.batch_size, dynamic_batch=args.dynamic_batch)
        export_onnx(backbone, out, **how)
        print(describe(out))
        worst = check_onnx(out, backbone, [args.batch_size], SEEDS)
        print(f'  largest difference from PyTorch: {worst:.1e}, on {len(SEEDS)} random inputs')
        if args.torch_export:
            export_program(backbone, args.torch_export, **how)
            worst = check_program(args.torch_export, backbone, [args.batch_size], SEEDS)
            print(f'{args.torch_export}: largest difference from PyTorch: {worst:.1e}')
        with tempfile.TemporaryDirectory() as folder:
            files, backbones = [out], [backbone]
            if not backbone.sparsity.is_dense:
                dense = deepcopy(backbone)
                dense.sparsity = 0.
                files.insert(0, Path(folder, 'dense.onnx'))
                backbones.insert(0, dense)
                export_onnx(dense, files[0], **how)
            latencies = measure_onnx(files, backbones, setting, args.rounds)
    table = Table(title=f'Backbone latency: {setting}, onnxruntime {version("onnxruntime")}',
                  title_justify='left')
    for column in ('sparsity', 'onnxruntime', 'of dense', 'PyTorch', 'of dense'):
        table.add_column(column, justify='left' if column == 'sparsity' else 'right')
    for model, file, eager in zip(backbones, *latencies):
        table.add_row(model.sparsity.label, str(file), f'{file.ratio:.3f}', str(eager),
                      f'{eager.ratio:.3f}')
    Console().print(table)


if __name__ == '__main__':
    main()

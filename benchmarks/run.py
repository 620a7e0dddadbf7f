"""Compare the latency of the sparse backbone with other implementations of Swin.

Subjects run in turn in one process, so that a slowdown of the machine affects all of them; ratios
are taken within a round. Writes results.json, results.md and latency.png, updated after every
setting, and prints the tables.
"""
import argparse
import json
import sys
from datetime import date
from pathlib import Path

import torch
from measure import latencies, overlap, product_shares, training
from report import draw, markdown
from subjects import MODELS, make_image, ours, peers, toolkit_swin

from sparsevit_mm.compat import torch_threads
from sparsevit_mm.cost.latency import DTYPES, device_name
from sparsevit_mm.models.execution import EXECUTIONS
from sparsevit_mm.models.swin.kernels.triton_attention import is_available

# Height, width, batch size on the CPU, batch size on CUDA.
SETTINGS = {'672': (672, 672, 1, 4), 'nuscenes': (256, 704, 6, 6), 'cityscapes': (1024, 2048, 1, 1)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument('--device', default='cuda' if cuda else 'cpu')
    parser.add_argument('--model', choices=MODELS, default='swin-t')
    parser.add_argument('--settings', nargs='*', choices=SETTINGS, default=list(SETTINGS),
                        help='settings to measure; none: only training')
    parser.add_argument('--batch-size', type=int, help='replaces the batch size of the settings')
    parser.add_argument('--dtype', nargs='+', choices=DTYPES, default=['fp32'])
    parser.add_argument('--execution', nargs='+', choices=EXECUTIONS,
                        default=list(EXECUTIONS) if cuda else ['eager'])
    parser.add_argument('--triton', action='store_true',
                        help='add the Triton kernel as a subject')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--training-rounds', type=int, default=7,
                        help='rounds of training; 0: no training')
    parser.add_argument('--threads', type=int, default=0, help='CPU threads (default: torch\'s)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks'))
    args = parser.parse_args()
    if args.rounds < 1 or args.training_rounds < 0 or args.threads < 0:
        parser.error('--rounds must be positive, --training-rounds and --threads not negative')
    if 'captured' in args.execution and not args.device.startswith('cuda'):
        parser.error('captured execution needs CUDA')
    if args.triton and not is_available(torch.device(args.device)):
        parser.error('the Triton kernel needs Triton 3 and a GPU that it supports')
    return args


def measure_setting(args: argparse.Namespace, name: str, dtype: str) -> dict:
    height, width, *batch_sizes = SETTINGS[name]
    batch_size = args.batch_size or batch_sizes[args.device.startswith('cuda')]
    image = make_image(batch_size, (height, width), dtype, args.device)
    with torch.no_grad():
        others, state, missing = peers(args.model, image)
    subjects = others + ours(args.model, image, args.execution, args.triton, state)
    title = f'{args.model}, {batch_size} x {height}x{width}, {dtype}'
    times = latencies(subjects, image, args.rounds, title)
    rows = [dict(name=s.name, execution=s.execution, macs=s.macs, uniform=s.uniform, times=t)
            for s, t in zip(subjects, times)]
    for subject, row in zip(subjects, rows):
        if subject.execution == 'eager' and subject.name.split()[1] in ('dense', '60%'):
            row['shares'] = product_shares(subject, image)
    shared = None if dtype == 'fp32' else overlap(args.model, state, image, .6)
    return dict(title=title, subjects=rows, missing=missing, overlap=shared)


def measure_training(args: argparse.Namespace) -> dict:
    height, width, *batch_sizes = SETTINGS['672']
    batch_size = args.batch_size or batch_sizes[args.device.startswith('cuda')]
    image = make_image(batch_size, (height, width), 'fp32', args.device)
    name, swin = toolkit_swin()
    rows = training(swin(**MODELS[args.model]).to(args.device), name, image, args.model,
                    args.training_rounds)
    memory = 'peak memory' if args.device.startswith('cuda') else 'kept for the backward pass'
    return dict(title=f'{args.model}, forward and backward, {batch_size} x {height}x{width}, fp32',
                memory=memory, rows=rows)


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    threads = args.threads or torch.get_num_threads()
    record = dict(
        environment=dict(
            command=' '.join(['python benchmarks/run.py', *sys.argv[1:]]),
            device=device_name(args.device), threads=threads, torch=torch.__version__,
            date=str(date.today())),
        groups=[], training=None)
    with torch_threads(threads):
        for dtype in args.dtype:
            for name in args.settings:
                record['groups'].append(measure_setting(args, name, dtype))
                save(record, args.out)
        if args.training_rounds:
            record['training'] = measure_training(args)
            save(record, args.out)
    print(markdown(record))


def save(record: dict, out: Path) -> None:
    (out / 'results.json').write_text(json.dumps(record, indent=1))
    (out / 'results.md').write_text(markdown(record) + '\n')
    if record['groups']:
        draw(record, out / 'latency.png')


if __name__ == '__main__':
    main()

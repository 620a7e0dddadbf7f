"""Check and benchmark the backbones on a GPU in one command: whether results agree with the CPU,
how fast they are, and where the time goes.

Needs torch, mmengine and the Python part of mmcv; uses Triton, mmsegmentation, timm and torchvision
if installed. Each part runs in a separate process within a share of --budget and writes PART.json;
finished parts are not run again. gpu.md contains the tables. --quick tries everything in a minute,
also on the CPU.
"""
import argparse
import json
import multiprocessing
import os
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, Iterator, List

# Looking for a GPU must not initialise CUDA: the parts run in forked processes.
os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')

import torch  # noqa: E402
from gpu_checks import equality, executions, triton_kernel  # noqa: E402
from gpu_report import markdown  # noqa: E402
from gpu_speed import (latency_table, profiled, swin_latency, training_step,  # noqa: E402
                       vit_latency)

from sparsevit_mm.cost.latency import device_name  # noqa: E402
from sparsevit_mm.files import replacing  # noqa: E402

# Maps each part to the function that yields its rows and to its share of the budget.
PARTS = {
    'equality': (lambda a: equality(a.device, a.quick), .1),
    'execution': (lambda a: executions(a.device, a.quick), .15),
    'triton': (lambda a: triton_kernel(a.device, a.quick), .05),
    'latency': (lambda a: swin_latency(a.device, a.quick, a.rounds), .35),
    'vit': (lambda a: vit_latency(a.device, a.quick, a.rounds), .08),
    'training': (lambda a: training_step(a.device, a.quick, a.rounds), .1),
    'profile': (lambda a: profiled(a.device, a.quick), .05),
    'table': (lambda a: latency_table(a.device, a.quick), .12),
}
GRACE = 20.  # seconds that a part may exceed its share before it is killed


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--budget', type=float, default=540., metavar='SECONDS',
                        help='total time for all parts (default: 540)')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--quick', action='store_true', help='narrow models, small images')
    args = parser.parse_args()
    if args.device == 'cpu' and not args.quick:
        parser.error('no GPU found: use --quick to try the parts on the CPU')
    return args


def run_part(name: str, args: argparse.Namespace) -> None:
    """Run a part and save its rows after each of them; if it raises, save the traceback too."""
    make, share = PARTS[name]
    end, result = time.monotonic() + share * args.budget, args.out / f'{name}.json'
    record: Dict = dict(part=name, quick=args.quick, done=False, rows=[], **environment(args))
    try:
        for row in within(make(args), end):
            record['rows'].append(row)
            save(result, record)
        record['done'] = True
    except TimeoutError as error:
        record['stopped'] = str(error)
    except Exception:
        record['error'] = traceback.format_exc()
    save(result, record)


def within(rows: Iterator[Dict], end: float) -> Iterator[Dict]:
    """Yield rows until the time is over; raise a TimeoutError if there are more."""
    for row in rows:
        yield row
        if time.monotonic() > end:
            if next(rows, None) is not None:
                raise TimeoutError('its share of --budget is used up; run it with a larger one')
            return


def environment(args: argparse.Namespace) -> Dict:
    cuda = args.device != 'cpu'
    return dict(device=device_name(args.device), torch=torch.__version__,
                cuda=torch.version.cuda if cuda else None, date=time.strftime('%Y-%m-%d'))


def save(path: Path, record: Dict) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(record, indent=1))


def is_done(path: Path, quick: bool) -> bool:
    record = json.loads(path.read_text()) if path.exists() else {}
    return record.get('done', False) and record['quick'] == quick


def in_process(run: Callable, seconds: float, *args) -> bool:
    """Run a function in a process, so that a GPU error does not affect later parts.

    Returns:
        Whether the function succeeded within the given seconds; after that it is killed.
    """
    process = multiprocessing.get_context('fork').Process(target=run, args=args)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0


def main() -> None:
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        path = args.out / f'{name}.json'
        if is_done(path, args.quick):
            print(f'{name}: {path} exists')
            continue
        start = time.monotonic()
        ended = in_process(run_part, PARTS[name][1] * args.budget + GRACE, name, args)
        record = json.loads(path.read_text()) if path.exists() else {}
        state = 'done' if record.get('done') else 'failed' if record.get('error') else (
            'stopped' if ended else 'killed')
        print(f'{name}: {state}, {time.monotonic() - start:.0f} s', flush=True)
    records: List[Dict] = [json.loads(path.read_text()) for path in (
        args.out / f'{name}.json' for name in PARTS) if path.exists()]
    with replacing(args.out / 'gpu.md') as partial:
        partial.write_text(markdown(records))
    print(markdown(records))
    failed = [row['what'] for record in records for row in record['rows']
              if row.get('ok') is False]
    broken = [record['part'] for record in records if record.get('error')]
    if failed or broken:
        raise SystemExit(f'{len(failed)} checks failed, parts with errors: {broken}')


if __name__ == '__main__':
    main()

"""Compare the latency of models compacted to 60% of heads and neurons with the dense models, and
with the ratio of MACs. Both models run in turn in every round; figures are medians over rounds.

The weights are random: which heads and neurons are removed does not influence the latency.
"""
import argparse
from typing import Dict

import numpy as np
import torch
from mmengine.registry import MODELS
from rich.console import Console
from rich.table import Table

from sparsevit_mm.compat import timer, torch_threads
from sparsevit_mm.weights import compact, unit_groups
from sparsevit_mm.weights.unit_masking import UnitMasks, first_units

SETTINGS: Dict[str, tuple] = {
    'swin-t': (dict(type='SparseSwinTransformer'), 672),
    'deit-s': (dict(type='EvoVisionTransformer', embed_dims=384, num_heads=6, sparsity=0.,
                    norm_cfg=dict(type='LN', eps=1e-6)), 224)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--density', type=float, default=.6, help='density of heads and neurons')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def compacted(config: dict, density: float):
    """Build a dense backbone and its compacted counterpart, in eval mode."""
    dense = MODELS.build(config).eval()
    pruned = MODELS.build(config)
    pruned.load_state_dict(dense.state_dict())
    groups = unit_groups(pruned)
    masks = first_units(groups, dict(heads=density, neurons=density))
    UnitMasks(groups, masks).apply_to_weights()
    made = compact(pruned, masks)
    small = MODELS.build(dict(config, block_heads=made.block_heads, ffn_widths=made.ffn_widths))
    small.load_state_dict(made.state)
    return dense, small.eval()


def measure(models, image: torch.Tensor, rounds: int) -> np.ndarray:
    """Measure the latencies in seconds, (rounds, models), after one warm-up round."""
    times = []
    for _ in range(rounds + 1):
        row = []
        for model in models:
            start = timer()
            model(image)
            row.append(timer() - start)
        times.append(row)
    return np.array(times[1:])


def main() -> None:
    args = parse_args()
    table = Table(title=f'{args.density:.0%} of heads and neurons, {args.threads} threads, fp32, '
                  f'torch {torch.__version__}', title_justify='left')
    for column in ('', 'dense ms', 'compacted ms', 'of dense (quartiles)', 'MACs of dense',
                   'time over MACs'):
        table.add_column(column)
    with torch_threads(args.threads), torch.inference_mode():
        for name in args.settings:
            config, side = SETTINGS[name]
            models = compacted(config, args.density)
            times = measure(models, torch.randn(1, 3, side, side), args.rounds)
            low, _, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
            dense, small = np.median(times, 0) * 1e3
            macs = [model.macs((side, side), model.space.config(0)) for model in models]
            share = macs[1] / macs[0]
            table.add_row(f'{name}, {side}x{side}', f'{dense:.1f}', f'{small:.1f}',
                          f'{small / dense:.3f} ({low:.3f} to {high:.3f})', f'{share:.3f}',
                          f'{small / dense / share:.3f}')
    Console(width=120).print(table)


if __name__ == '__main__':
    main()

"""Latency of a plain ViT with token evolution beside dense, and beside mmseg's class: medians of
rounds in turn, with the ratio of MACs.

Random weights: which patches run has no influence on the time.
"""
import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sparsevit_mm import EvoVisionTransformer
from sparsevit_mm.compat import timer, torch_threads

DEIT_S = dict(embed_dims=384, num_heads=6, num_layers=12, norm_cfg=dict(type='LN', eps=1e-6))
SETTINGS = {'224': (224, 224, 16), '512': (512, 512, 1)}
HALF = [0] * 4 + [.5] * 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def subjects(height: int, width: int) -> dict:
    """Name -> (model, share of the dense MACs)."""
    def make(**changes):
        return EvoVisionTransformer(img_size=(height, width), **DEIT_S, **changes).eval()

    from mmseg.models.backbones import VisionTransformer
    dense = make()
    whole = dense.macs((height, width), dense.sparsity)
    found = {'dense': (dense, 1.)}
    for fast in ('representative', 'copy'):
        for reselect in ('layer', 'stage'):
            sparsity = HALF if reselect == 'layer' else [0, .5, .5]
            model = make(fast=fast, reselect=reselect, sparsity=sparsity)
            found[f'keep .5 in 8 of 12, {fast}, {reselect}-wise'] = (
                model, model.macs((height, width), model.sparsity) / whole)
    peer = VisionTransformer(img_size=(height, width), **DEIT_S)
    peer.train(False)
    found['mmseg'] = (peer, 1.)
    return found


def main() -> None:
    args = parse_args()
    for name in args.settings:
        height, width, batch = SETTINGS[name]
        models = subjects(height, width)
        image = torch.randn(batch, 3, height, width)
        times = np.zeros((args.rounds + 1, len(models)))
        with torch_threads(args.threads), torch.inference_mode():
            for row in times:
                for i, (model, _) in enumerate(models.values()):
                    start = timer()
                    model(image)
                    row[i] = timer() - start
        ratios = times[1:] / times[1:, :1]
        table = Table(title=f'DeiT-S, {batch} x {height}x{width}, {args.threads} threads, fp32, '
                      f'torch {torch.__version__}', title_justify='left')
        for column in ('', 'ms', 'of dense (quartiles)', 'MACs of dense', 'time over MACs'):
            table.add_column(column)
        for i, (label, (_, macs)) in enumerate(models.items()):
            low, median, high = np.percentile(ratios[:, i], (25, 50, 75))
            table.add_row(label, f'{np.median(times[1:, i]) * 1e3:.0f}',
                          f'{median:.3f} ({low:.3f} to {high:.3f})', f'{macs:.3f}',
                          f'{median / macs:.3f}')
        Console(width=120).print(table)


if __name__ == '__main__':
    main()

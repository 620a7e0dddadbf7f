"""Latency of a plain ViT with token evolution: each model dense and pruned, in turn, and ours dense
compared with mmseg's class. Figures are medians over rounds, with the ratio of MACs.

The weights are random: which patches run does not influence the latency.
"""
import argparse
from typing import Sequence

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


def variants(height: int, width: int) -> dict:
    """Build the pruned models, by name."""
    return {f'keep .5 in 8 of 12, {fast}, {reselect}-wise': EvoVisionTransformer(
        img_size=(height, width), fast=fast, reselect=reselect,
        sparsity=HALF if reselect == 'layer' else [0, .5, .5], **DEIT_S).eval()
        for fast in ('representative', 'copy') for reselect in ('layer', 'stage')}


def seconds(model, image: torch.Tensor) -> float:
    start = timer()
    model(image)
    return timer() - start


def measure(model, sparsities: Sequence, image: torch.Tensor, rounds: int) -> np.ndarray:
    """Measure seconds of a model at several sparsities, in turn, after one warm-up round.

    Returns:
        Array of shape (rounds, configurations).
    """
    times = []
    for _ in range(rounds + 1):
        row = []
        for sparsity in sparsities:
            model.sparsity = sparsity
            row.append(seconds(model, image))
        times.append(row)
    return np.array(times[1:])


def peer_times(height: int, width: int, image: torch.Tensor, rounds: int) -> np.ndarray:
    """Measure seconds of ours dense and of mmseg's class, (rounds, 2)."""
    from mmseg.models.backbones import VisionTransformer
    peer = VisionTransformer(img_size=(height, width), **DEIT_S)
    peer.train(False)
    ours = EvoVisionTransformer(img_size=(height, width), **DEIT_S).eval()
    return np.array([[seconds(ours, image), seconds(peer, image)] for _ in range(rounds + 1)])[1:]


def add(table: Table, label: str, times: np.ndarray, macs: float) -> None:
    low, median, high = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
    dense, other = np.median(times, 0) * 1e3
    table.add_row(label, f'{dense:.0f}', f'{other:.0f}',
                  f'{median:.3f} ({low:.3f} to {high:.3f})', f'{macs:.3f}', f'{median / macs:.3f}')


def main() -> None:
    args = parse_args()
    for name in args.settings:
        height, width, batch = SETTINGS[name]
        image = torch.randn(batch, 3, height, width)
        table = Table(title=f'DeiT-S, {batch} x {height}x{width}, {args.threads} threads, fp32, '
                      f'torch {torch.__version__}', title_justify='left')
        for column in ('', 'dense ms', 'ms', 'of dense (quartiles)', 'MACs of dense',
                       'time over MACs'):
            table.add_column(column)
        with torch_threads(args.threads), torch.inference_mode():
            for label, model in variants(height, width).items():
                config = model.sparsity
                share = model.macs((height, width), config) / model.macs(
                    (height, width), model.space.config(0))
                add(table, label, measure(model, (0, config), image, args.rounds), share)
            add(table, "mmseg's class", peer_times(height, width, image, args.rounds), 1.)
        Console(width=120).print(table)


if __name__ == '__main__':
    main()

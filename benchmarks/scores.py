"""Cost of the scores: the time of each on the feature maps of all four stages of Swin-T, relative
to a dense forward pass in the same run.

A forward pass scores every pruned stage once, whatever its sparsity.
"""
import argparse
from functools import partial
from typing import Dict, Tuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sparsevit_mm.compat import timer
from sparsevit_mm.models import SparseSwinTransformer
from sparsevit_mm.models.selection.importance import TOKEN_SCORES
from sparsevit_mm.models.selection.ranking import Selection

SHAPES = {'672x672': (1, 672, 672), '6 x 256x704': (6, 256, 704)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=11,
                        help='number of rounds; each runs all scores')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    return parser.parse_args()


def score_maps(name: str, backbone: SparseSwinTransformer, image: torch.Tensor) -> None:
    """Score feature maps of the sizes of all stages."""
    height, width = (side // backbone.patch_size for side in image.shape[-2:])
    for stage, x in zip(backbone.stages, backbone.maps):
        TOKEN_SCORES[name](x, stage.map_info((height, width)))
        height, width = -(-height // 2), -(-width // 2)


def shares(shape: Tuple[int, int, int], rounds: int) -> Dict[str, np.ndarray]:
    """Measure the time of each score relative to the dense backbone, (rounds,)."""
    batch, height, width = shape
    backbone = SparseSwinTransformer(importance='learned').eval()
    backbone.selection = Selection('selector')  # also creates the selector's weights
    image = torch.randn(batch, 3, height, width)
    sizes = [(height // 4, width // 4)]
    for _ in range(3):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    backbone.maps = [torch.randn(batch, h * w, channels)
                     for (h, w), channels in zip(sizes, backbone.num_features)]
    runs = {'dense': partial(backbone, image)}
    runs.update({name: partial(score_maps, name, backbone, image) for name in TOKEN_SCORES})
    times = {name: np.empty(rounds + 1) for name in runs}
    with torch.inference_mode():
        for i in range(rounds + 1):
            for name, run in runs.items():
                start = timer()
                run()
                times[name][i] = timer() - start
    return {name: times[name][1:] / times['dense'][1:] for name in TOKEN_SCORES}


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f'scores over a dense forward pass, Swin-T, fp32, {args.threads} threads')
    table.add_column('score')
    found = {}
    for title, shape in SHAPES.items():
        table.add_column(title)
        found[title] = shares(shape, args.rounds)
    for name in next(iter(found.values())):
        cells = []
        for by_name in found.values():
            low, middle, high = np.percentile(by_name[name], (25, 50, 75))
            cells.append(f'{middle:.2%} ({low:.2%} to {high:.2%})')
        table.add_row(name, *cells)
    Console(width=100).print(table)


if __name__ == '__main__':
    main()

"""How evenly does the search cover the cost? Plot the MACs of draws, and of generations bred
without selection.

Compares the search's draws, crossover and mutation (sparsevit_mm/search/propose/genes.py) with the
published ones: independent draws sorted within the stage, uniform crossover, and mutation that
redraws single genes.
"""
import argparse
from pathlib import Path
from typing import Callable, List

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - no screen is needed
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from sparsevit_mm.cli import clear_errors
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.data import input_shape
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.search.propose.genes import MUTATION, Genes
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

BINS = 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file with a SparseSwinTransformer')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'),
                        help='input in pixels (default: the size of the test pipeline)')
    parser.add_argument('--count', type=int, default=1000, help='configurations of each kind')
    parser.add_argument('--generations', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/sampling.png'))
    return parser.parse_args()


def published_child(space: SparsitySpace, rng: np.random.Generator) -> Callable:
    def child(a: SparsityConfig, b: SparsityConfig) -> SparsityConfig:
        a, b = map(np.array, (space.encode(a), space.encode(b)))
        genes = np.where(rng.random(len(a)) < .5, a, b)
        fresh = rng.integers(len(space.choices), size=len(a))
        return space.decode(np.where(rng.random(len(a)) < MUTATION, fresh, genes).tolist())

    return child


def breed(population: List[SparsityConfig], child: Callable, generations: int,
          rng: np.random.Generator) -> List[SparsityConfig]:
    """Breed generations from random parents, to show the bias of the operators themselves."""
    for _ in range(generations):
        pairs = rng.integers(len(population), size=(len(population), 2))
        population = [child(population[i], population[j]) for i, j in pairs]
    return population


def main() -> None:
    args = parse_args()
    with clear_errors():
        cfg = load_config(args.config)
        backbone = build_backbone(cfg)
        shape = args.shape or input_shape(cfg)
    space, rng = SparsitySpace(backbone.depths), np.random.default_rng(args.seed)
    genes = Genes(space, lambda config: backbone_macs(backbone, shape, 1, config), rng)
    draws = [genes.draw() for _ in range(args.count)]
    kinds = {
        'published draws': [space.sample(rng) for _ in range(args.count)],
        'draws of this search': draws,
        f'published operators, {args.generations} generations': breed(
            draws, published_child(space, rng), args.generations, rng),
        f'operators of this search, {args.generations} generations': breed(
            draws, lambda a, b: genes.mutate(genes.cross(a, b)), args.generations, rng)
    }
    table = Table(title=f'MACs of {args.count} configurations, of dense; depths {space.depths}, '
                  f'{space.count():,} configurations', title_justify='left')
    for column in ('', '5%', 'median', '95%', 'deviation', 'distinct'):
        table.add_column(column, justify='right' if column else 'left')
    figure, axes = plt.subplots(figsize=(7.5, 3.6), constrained_layout=True)
    for (name, configs), style in zip(kinds.items(), ('C1-', 'C0-', 'C1:', 'C0:')):
        macs = np.array([genes.cost(config) for config in configs]) / genes.high
        low, middle, high = np.percentile(macs, (5, 50, 95))
        table.add_row(name, f'{low:.2f}', f'{middle:.2f}', f'{high:.2f}', f'{macs.std():.3f}',
                      str(len(set(configs))))
        edges = np.linspace(genes.low / genes.high, 1, BINS + 1)
        share, _ = np.histogram(macs, edges)
        axes.stairs(share / len(macs), edges, color=style[:2], linestyle=style[2:], label=name)
    axes.set_xlabel(f'MACs of the backbone, of dense; depths {space.depths}')
    axes.set_ylabel('share of configurations')
    axes.legend(frameon=False, fontsize=8)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    Console(width=110).print(table)
    print(f'figure: {args.out}')


if __name__ == '__main__':
    main()

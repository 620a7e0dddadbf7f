"""How many evaluations does a search need to come within 0.1 of the best metric (on the scale of 0
to 100)?

Every sampler searches fully known landscapes (benchmarks/landscapes.py): surrogates of recorded
searches, and a synthetic one. As in a real search, the uniform configurations come first, no
configuration is evaluated twice, and none outside the limit is evaluated: those are PRUNED trials,
which only cost a latency measurement. Writes search.md and search.png.
"""
import argparse
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List

import matplotlib

matplotlib.use('Agg')  # noqa: E402 - no screen is needed
import matplotlib.pyplot as plt
import numpy as np
import optuna
from landscapes import Landscape, recorded, synthetic
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from sparsevit_mm.search.propose.genes import Genes
from sparsevit_mm.search.propose.sampler import (SAMPLERS, from_params, make_sampler, search_space,
                                                 to_params)

HERE = Path(__file__).resolve().parent
NEAR = .1  # distance from the best metric
POPULATION = 20
PATIENCE, DRAWS = 20, 2000  # see sparsevit_mm/search/study.py
REFERENCE = 'published'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('csv', type=Path, nargs='*',
                        default=sorted((HERE / 'landscapes').glob('*.csv')),
                        help='candidates.csv of searches (default: those in benchmarks/landscapes)')
    parser.add_argument('--synthetic', action=argparse.BooleanOptionalAction, default=True,
                        help='also search the synthetic landscape')
    parser.add_argument('--samplers', nargs='+', choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument('--limit', nargs='+', type=share, default=[.7], metavar='P%',
                        help='cost limits relative to dense (default: 70%%)')
    parser.add_argument('--noise', type=float, default=0.,
                        help='standard deviation of the noise added to every evaluated metric')
    parser.add_argument('--seeds', type=int, default=20,
                        help='number of searches per sampler, landscape and limit')
    parser.add_argument('--cap', type=int, default=1500,
                        help='maximum number of evaluations per search')
    parser.add_argument('--jobs', type=int, default=2, help='number of parallel processes')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/search_benchmark'))
    return parser.parse_args()


def share(text: str) -> float:
    return float(text.rstrip('%')) / 100


@dataclass
class Result:
    """Searches of one sampler on one landscape.

    Attributes:
        evaluations: Evaluations until one was within 0.1 of the best, by seed; inf if none was.
        trials: Proposed configurations per evaluated one, mean over seeds.
    """
    landscape: Landscape
    limit: float
    sampler: str
    evaluations: np.ndarray
    trials: float

    @property
    def title(self) -> str:
        return f'{self.landscape.name} at {self.limit:.0%}'

    @property
    def quartiles(self) -> np.ndarray:
        return np.percentile(self.evaluations, (25, 50, 75), method='higher')


def search(landscape: Landscape, limit: float, sampler: str, noise: float, cap: int,
           seed: int) -> tuple:
    """Run one search.

    Returns:
        Evaluations until one was within 0.1 of the best, inf if none was; trials per evaluation.
    """
    space, best = landscape.space, landscape.best(limit)
    memo, rng = set(), np.random.default_rng((seed, 1))
    genes = Genes(space, lambda config: landscape.cost[landscape.row(config)],
                        np.random.default_rng(seed))
    study = optuna.create_study(
        direction='maximize',
        sampler=make_sampler(sampler, genes, memo.__contains__, POPULATION, seed))
    for config in space.uniform():
        study.enqueue_trial(to_params(space, config))
    evaluated = misses = trials = 0
    while evaluated < cap:
        if misses >= PATIENCE:
            unseen = (c for c in (genes.draw() for _ in range(DRAWS)) if c not in memo)
            study.enqueue_trial(to_params(space, next(unseen)))
        trial = study.ask(search_space(space))
        config = space.decode(from_params(trial.params))
        row = landscape.row(config)
        trials += 1
        if config in memo or landscape.cost[row] > limit:
            study.tell(trial, state=TrialState.PRUNED)
            memo.add(config)
            misses += 1
            continue
        memo.add(config)
        evaluated, misses = evaluated + 1, 0
        if landscape.metric[row] >= best - NEAR:
            return evaluated, trials / evaluated
        study.tell(trial, landscape.metric[row] + noise * rng.normal())
    return np.inf, trials / evaluated


def run(landscape: Landscape, limit: float, args: argparse.Namespace) -> List[Result]:
    results = []
    with ProcessPoolExecutor(args.jobs, initializer=quiet) as pool:
        for sampler in args.samplers:
            runs = pool.map(partial(search, landscape, limit, sampler, args.noise, args.cap),
                            range(args.seeds))
            evaluations, trials = np.array(list(runs)).T
            results.append(Result(landscape, limit, sampler, evaluations, trials.mean()))
            print(f'{results[-1].title}, {sampler}: {results[-1].quartiles}', flush=True)
    return results


def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)


def rows(results: List[Result]) -> List[List[str]]:
    """Return the cells of the table, one row per landscape, limit and sampler."""
    reference = {r.title: r.quartiles[1] for r in results if r.sampler == REFERENCE}
    cells = []
    for r in results:
        low, median, high = (f'{q:.0f}' if np.isfinite(q) else 'more' for q in r.quartiles)
        known = np.isfinite([reference.get(r.title, np.inf), r.quartiles[1]]).all()
        cells.append([r.title, r.sampler, median, f'{low} to {high}',
                      f'{np.isfinite(r.evaluations).mean():.0%}',
                      f'{reference[r.title] / r.quartiles[1]:.1f}' if known else '',
                      f'{r.trials:.1f}'])
    return cells


def draw(results: List[Result], cap: int, path: Path) -> None:
    """Plot the share of searches within 0.1 of the best over the number of evaluations."""
    titles = list(dict.fromkeys(r.title for r in results))
    figure, axes = plt.subplots(1, len(titles), figsize=(1.2 + 3 * len(titles), 3.2), sharey=True,
                                squeeze=False, constrained_layout=True)
    for title, ax in zip(titles, axes[0]):
        for r in (r for r in results if r.title == title):
            reached = np.sort(r.evaluations[np.isfinite(r.evaluations)])
            shares = np.arange(len(reached) + 1) / len(r.evaluations)
            ax.step([1, *reached, cap], [*shares, shares[-1]], where='post',
                    color=f'C{SAMPLERS.index(r.sampler)}', label=r.sampler)
        ax.set(title=title, xscale='log', xlabel='evaluations', xlim=(9, cap), ylim=(0, 1.02))
        ax.grid(alpha=.3)
    axes[0, 0].set_ylabel('searches within 0.1 of the best')
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse_args()
    landscapes = [recorded(path) for path in args.csv] + [synthetic()] * args.synthetic
    for landscape in landscapes:
        print(f'{landscape.name}: depths {landscape.space.depths}, {len(landscape.genes):,} '
              f'configurations; {landscape.about}')
    results = [result for landscape in landscapes for limit in args.limit
               for result in run(landscape, limit, args)]
    header = ['landscape', 'sampler', 'evaluations', 'quartiles', 'got there',
              f'times fewer than {REFERENCE}', 'trials each']
    table = Table(title=f'Evaluations until within {NEAR} of the best; {args.seeds} searches of at '
                  f'most {args.cap}, noise {args.noise:g}', title_justify='left')
    for column in header:
        table.add_column(column, justify='left' if column in header[:2] else 'right')
    lines = ['| ' + ' | '.join(header) + ' |', '|---' * len(header) + '|']
    for cells in rows(results):
        table.add_row(*cells)
        lines.append('| ' + ' | '.join(cells) + ' |')
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'search.md').write_text('\n'.join(lines) + '\n')
    draw(results, args.cap, args.out / 'search.png')
    Console(width=110).print(table)
    print(f'table and figure: {args.out}/search.md, search.png')


if __name__ == '__main__':
    main()

"""Tables for the result of a comparison of scores."""
from typing import Iterator, List, Optional, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .compare import ScoreComparison
from .survey import StageRow


def comparison_table(comparison: ScoreComparison, title: str) -> Table:
    """Return a table with the metric, its difference to the config's score, and the share of the
    objects' area that ran, for each score."""
    table = _table(title)
    figure = comparison.metric.rsplit('/', 1)[-1]
    drawn = f'(95% over {comparison.rows[0].intervals[0].unit})'
    for label in comparison.labels:
        table.add_column(f'{figure}, {label}\n{drawn}', justify='right')
    table.add_column(f'mean minus {comparison.own!r}\n{drawn}', justify='right')
    shares = any(row.shares for row in comparison.rows)
    for label in comparison.labels if shares else ():
        table.add_column(f'object area run\n{label}', justify='right')
    form = '.1f' if max(max(row.values) for row in comparison.rows) > 1 else '.3f'
    for row in comparison.rows:
        cells = [f'{value:{form}} ({interval.ends(form)})'
                 for value, interval in zip(row.values, row.intervals)]
        less = '' if row.less_own is None else row.less_own.text('+' + form)
        table.add_row(_name(comparison, row.name), *cells, less,
                      *(f'{share:.1%}' for share in row.shares or ()))
        if row.name == 'dense':
            table.add_section()
    return table


def stage_table(rows: Sequence[StageRow], labelled: Optional[str]) -> Table:
    """Return a table with the spread and rank correlations of each score in each stage."""
    table = _table('scores in each stage; rank correlations within an image')
    table.add_column('score')
    table.add_column('spread', justify='right')
    table.add_column('with update', justify='right')
    if labelled:
        table.add_column('with gradient x update', justify='right')
    for previous, row in zip([None, *rows], rows):
        first = previous is None or row.stage != previous.stage
        if first and previous is not None:
            table.add_section()
        cells = [_cell(row.spread, '.2g'), _cell(row.update, '+.2f')]
        table.add_row(f'stage {row.stage}' if first else '', row.score, *cells,
                      *([_cell(row.gain, '+.2f')] if labelled else []))
    return table


def notes(rows: Sequence[StageRow], labelled: Optional[str]) -> Iterator[str]:
    """Yield explanations of the columns of :func:`stage_table`."""
    yield ('spread: coefficient of variation over the windows or tokens of an image; update: norm '
           'of what the blocks that share a choice add to them, in a dense pass')
    yield (f'gradient x update: on {labelled}' if labelled else
           'no column with gradients: neither val nor train gives the loss of this model')
    if any(row.update is None for row in rows):
        yield 'a blank: too few windows or tokens for a rank, or all have one score'


def _table(title: str) -> Table:
    table = Table(title=title, title_justify='left', box=SIMPLE_HEAD, pad_edge=False)
    table.add_column('', no_wrap=True)
    return table


def _name(comparison: ScoreComparison, name: str) -> str:
    says: List[str] = []
    if name == comparison.own:
        says.append('the config\'s')
    if name == comparison.adapted_to:
        says.append('adapted with it')
    return f'{name} ({", ".join(says)})' if says else name


def _cell(value: Optional[float], spec: str) -> str:
    return '' if value is None else format(value, spec)

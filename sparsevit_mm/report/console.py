"""Terminal output of a search: progress bar and final table."""
import os

from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn)
from rich.table import Table

from ..evaluation.scores.tables import comparison_table
from ..search import SearchResult, Watch
from ..search.pipeline import SearchPipeline
from ..search.request import SearchRequest
from ..search.study import SparsitySearch
from ..search.summary import Summary
from .statistics import backbone_alone, less_dense, less_dense_heading

SAID_EVERY = 60.  # seconds between printed lines while waiting
DRIFT = .05  # relative drift of the dense latency above which it is reported
COLUMNS = (TextColumn('search'), BarColumn(), MofNCompleteColumn(),
           TextColumn('{task.description}'), TimeElapsedColumn(), TextColumn('left'),
           TimeRemainingColumn())


class SearchConsole(Watch):
    """Watch that prints each step, then shows a progress bar."""

    def __init__(self):
        self.bar = Progress(*COLUMNS, console=Console(stderr=True))
        self.task = None
        self._said = 0.  # seconds waited at the last printed line

    def say(self, text: str) -> None:
        if os.environ.get('RANK', '0') == '0':  # there may be no process group yet
            print(f'{text} ...', flush=True)

    def prepared(self, pipeline: SearchPipeline) -> None:
        check = pipeline.score_check
        if check is not None:  # the basis of --importance auto
            Console(width=140).print(
                comparison_table(check, f'scores on {check.num_images} images of val'))
            print(check.sentence, flush=True)
        print(estimate(pipeline.search.record.summary(), pipeline.request,
                       pipeline.search.num_evaluated), flush=True)
        self.task = self.bar.add_task('', total=pipeline.request.num_trials,
                                      completed=pipeline.search.num_evaluated)
        self.bar.start()

    def candidate(self, search: SparsitySearch) -> None:
        best = search.best
        text = f'best {best.metric:.4f} at {best.latency:.1f} ms, ' if best else ''
        self.bar.update(self.task, completed=search.num_evaluated,
                        description=f'{text}{len(search.candidates)} tried')

    def waiting(self, worker: str, key: str, seconds: float) -> None:
        text = f'waiting for worker {worker} for {seconds:.0f} s: {key}'
        if self.task is not None:
            self.bar.update(self.task, description=text)
        self._said = min(self._said, seconds)  # a shorter wait is a new one
        if seconds - self._said >= SAID_EVERY:
            self._said = seconds
            print(text, flush=True)

    def ended(self) -> None:
        self.bar.stop()


def estimate(summary: Summary, request: SearchRequest, done: int) -> str:
    """Describe how long the search may take, judging by its dense evaluation."""
    left = max(0, request.num_trials - done)
    seconds = summary.dense.seconds or 0.
    text = (f'{left} candidates of up to {seconds:.0f} s each, up to {left * seconds / 3600:.1f} h '
            f'with one worker')
    if request.first_look is not None:
        text += ', less if the first look screens candidates out'
    ends = request.finalists * (len(request.points) if request.pareto else 1)
    if request.num_samples is not None:
        text += f'; then up to {ends} evaluations on all of val'
    return text


def show_search(result: SearchResult) -> None:
    """Print the result table and notes about the measurement."""
    summary, dense = result.summary, result.summary.dense
    on_some = summary.dense_full is not None
    of_model = any(f.backbone for f in summary.finalists)
    table = Table(title=f'{summary.metric}; latency of {result.setting}', title_justify='left')
    for column in ('', summary.metric.rsplit('/', 1)[-1], less_dense_heading(summary),
                   *['in the search'] * on_some, 'latency', 'of dense', *['backbone'] * of_model,
                   'sparsity'):
        table.add_column(column)
    table.add_row('dense', f'{summary.dense_metric:.4f}', '', *[f'{dense.metric:.4f}'] * on_some,
                  f'{summary.dense_latency:.1f} ms', '1.00', *[''] * of_model, '0')
    for finalist in summary.finalists:
        table.add_row(finalist.name, f'{summary.metric_of(finalist):.4f}',
                      less_dense(summary, finalist),
                      *[f'{finalist.candidate.metric:.4f}'] * on_some,
                      f'{finalist.measured:.1f} ms',
                      f'{finalist.measured / summary.dense_latency:.2f}',
                      *backbone_alone(finalist), finalist.label)
    Console(width=150).print(table)
    setting = result.setting
    evaluated_in = summary.identity['evaluated in']
    if (setting.dtype, setting.execution) != (evaluated_in, 'eager'):
        print(f'latency was measured in {setting.dtype}, {setting.execution}; {summary.metric} was '
              f'evaluated in {evaluated_in}, eager')
    if abs(summary.drift) > DRIFT:
        print(f'the dense model took {dense.latency:.1f} ms at the start and '
              f'{summary.dense_latency:.1f} ms at the end ({summary.drift:+.0%}): was other work '
              f'running on this machine? Limits were checked against the latter')
    total = result.spent.get('all')
    if total:
        shares = {what: result.spent.get(what, 0.) / total for what in ('evaluation', 'latency')}
        print(f'the candidates took {total:.0f} s: ' + ', '.join(
            f'{what} {share:.1%}' for what, share in shares.items())
            + f', the rest {1 - sum(shares.values()):.1%}')

"""Report of a search: one HTML page, and its figures as PNG."""
from pathlib import Path
from typing import List, Optional, Sequence

import optuna

from ..evaluation.intervals import interval
from ..files import replacing
from ..search.candidates import EVALUATED, Candidate, within_noise
from ..search.limits import Limits
from ..version import __version__
from .figures import draw_ratios, draw_tradeoff, limits_of, short
from .html import Section, details, figure, page, paragraph, table, tiles
from .sections import (check_section, first_look_section, importance_section, progress_section,
                       sensitivity_section, windows_section)
from .source import SearchRecord
from .statistics import backbone_alone, less_dense, less_dense_heading

REPORT, FIGURES = 'report.html', 'report'  # in the work directory
NO_REFERENCES = 'Not recorded: run the search with --references.'


def write_report(record: SearchRecord, images: int = 2, device: str = 'cpu') -> Path:
    """Write ``report.html`` and the PNGs of ``report/`` to the work directory.

    Args:
        record: Result of :func:`~.source.read_search`.
        images: Number of images on which to show the winner's kept windows; 0 for none.
        device: Device on which the winner runs for these images.

    Returns:
        Path of the page. The write is atomic: a failure keeps the previous page.

    Raises:
        ValueError: If `images` is negative.
    """
    if images < 0:
        raise ValueError(f'--images {images}: must be 0 or more')
    folder = record.work_dir / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    summary = record.summary
    alike = [] if record.pareto or record.best is None else within_noise(
        [c for c in summary.candidates if c.state == EVALUATED], summary.front[-1])
    sections = [
        _tradeoff(record, alike, folder), _finalists(record, alike, folder),
        importance_section(record, folder), sensitivity_section(record, folder),
        progress_section(record, folder), check_section(record, folder),
        first_look_section(record, folder), windows_section(record, images, folder, device),
        _candidates(record), _provenance(record)]
    title = f'Sparsity search: {summary.study}'
    text = page(title, _head(record, alike), sections)
    path = record.work_dir / REPORT
    with replacing(path) as partial:
        partial.write_text(text, encoding='utf-8')
    return path


def _head(record: SearchRecord, alike: Sequence[Candidate]) -> List[dict]:
    summary, dense, best = record.summary, record.summary.dense, record.best
    where = f'{_images(record)}; latency setting: {_setting(record)}.'
    if best is None:
        return [paragraph('No candidate has been evaluated yet.', 'lead'), paragraph(where, 'how')]
    winner = summary.finalists[0] if summary.finalists and not record.pareto else None
    latency, of_dense = (winner.measured, summary.dense_latency) if winner else (
        best.latency, dense.latency)
    metric, dense_metric = (summary.metric_of(winner), summary.dense_metric) if winner else (
        best.metric, dense.metric)
    change, saved = metric - dense_metric, 1 - latency / of_dense
    said = (f'{short(summary.metric)} {metric:.4g} against {dense_metric:.4g} dense '
            f'({change:+.4f}), at {latency:.2f} ms against {of_dense:.2f} ms ({-saved:+.1%})')
    if winner and winner.full is not None:
        said += (f'. This is on all of val; on the images of the search it has '
                 f'{best.metric:.4g} against {dense.metric:.4g}')
    if record.pareto:
        front = summary.front
        lead = (f'The front has {len(front)} configurations, from {front[0].latency:.2f} ms to '
                f'{front[-1].latency:.2f} ms. The best of them, trial {best.trial}, has {said}.')
    else:
        who = 'winner' if summary.finalists else 'best so far'
        lead = f'The {who}, trial {best.trial}, has {said}.'
    if not summary.finalists:
        lead = f'The search has not ended. {lead}'
    figures = [
        (f'{change:+.4f}', f'{short(summary.metric)} against dense'),
        (f'{of_dense / latency:.2f}\N{MULTIPLICATION SIGN}', 'as fast as dense'),
        (f'{1 - best.macs / dense.macs:.0%}', 'fewer MACs in the backbone')]
    if record.pareto and summary.finalists:
        figures = [(f'{summary.metric_of(f):.4f}',
                    f'{short(summary.metric)} at {f.measured:.2f} ms')
                   for f in summary.finalists]
    parts = [paragraph(lead, 'lead'), tiles([
        *figures,
        (f'{len(summary.evaluated)}', f'evaluated of {len(summary.candidates)} candidates')])]
    if alike:
        parts.append(paragraph(
            f'{len(alike)} of {len(summary.evaluated)} evaluated candidates, including the best, '
            f'are within noise of the best: these images cannot tell them apart.'))
    return parts + [paragraph(where, 'how')]


def _tradeoff(record: SearchRecord, alike: Sequence[Candidate], folder: Path) -> Section:
    summary = record.summary
    parts = [figure(
        'tradeoff', lambda: draw_tradeoff(record, alike),
        f'{short(summary.metric)} over latency of all evaluated candidates',
        'Further up and to the left is better. Each dot is a candidate; the line is the Pareto '
        'front. Vertical bars are 95% bootstrap confidence intervals, dashed lines the limits of '
        'the search.', folder)]
    if not summary.references:
        parts.append(paragraph(f'Uniform ratios and smaller images: {NO_REFERENCES}', 'note'))
    elif all(r.kind != 'resolution' for r in summary.references):
        parts.append(paragraph('Smaller images: not recorded, because the data cannot be scaled.',
                               'note'))
    return Section('tradeoff', 'Metric over latency', parts)


def _finalists(record: SearchRecord, alike: Sequence[Candidate], folder: Path) -> Section:
    summary, dense = record.summary, record.summary.dense
    title = 'Chosen points' if record.pareto else 'Finalists'
    if not summary.finalists:
        return Section('finalists', title, [paragraph(
            'Not recorded: the search has not ended.', 'note')])
    noisy = {c.trial for c in alike}

    on_some = summary.dense_full is not None
    of_model = any(f.backbone for f in summary.finalists)
    heads = ['at most' if record.pareto else 'rank', 'trial', short(summary.metric),
             less_dense_heading(summary), *['in the search'] * on_some, 'search (ms)',
             'remeasured (ms)', 'of dense', *['backbone alone'] * of_model, 'within noise',
             'sparsity']
    rows = []
    for place, finalist in enumerate(summary.finalists, 1):
        c = finalist.candidate
        rows.append([
            f'{finalist.point:.2f} ms' if record.pareto else place, c.trial,
            f'{summary.metric_of(finalist):.4f}', less_dense(summary, finalist),
            *[f'{c.metric:.4f}'] * on_some, f'{c.latency:.2f}', f'{finalist.measured:.2f}',
            f'{finalist.measured / summary.dense_latency:.1%}', *backbone_alone(finalist),
            ('yes' if c.trial in noisy else 'no') if alike else None, finalist.label])
    rows.append(['dense', None, f'{summary.dense_metric:.4f}', None,
                 *[f'{dense.metric:.4f}'] * on_some, f'{dense.latency:.2f}',
                 f'{summary.dense_latency:.2f}', '100.0%', *[None] * of_model, None, None])
    labels = [f'\N{LESS-THAN OR EQUAL TO} {f.point:.1f} ms' if record.pareto
              else f'{place}. trial {f.candidate.trial}'
              for place, f in enumerate(summary.finalists, 1)]
    kind = 'the table' if record.manifest.get('table') else 'the search'
    return Section('finalists', title, [
        paragraph(f'{"One for each requested latency." if record.pareto else "Best first."} '
                  f'Latencies are those of {kind}, and those remeasured at the end with more '
                  f'rounds. {short(summary.metric)} and its interval are on all of val'
                  + (f'; the column "in the search" is on {_images(record)}.'
                     if on_some else '.'), 'how'),
        table(heads, rows, left=['sparsity'], first=not record.pareto),
        figure('ratios', lambda: draw_ratios(record, labels),
               'Ratios of each stage of the finalists',
               'Share of windows that each (plain, shifted) pair of blocks prunes; 0 runs all of '
               'them. Ratios never decrease within a stage.', folder)])


def _candidates(record: SearchRecord) -> Section:
    metric = short(record.summary.metric)
    evaluated = sorted(record.summary.evaluated, key=lambda c: (-c.metric, c.latency))
    rows = [[c.trial, f'{c.metric:.4f}', _interval(c), f'{c.latency:.2f}', f'{c.macs / 1e9:.2f}',
             None if c.first_look is None else f'{c.first_look:.4f}',
             None if c.seconds is None else f'{c.seconds:.0f}', c.state, c.config.label]
            for c in evaluated]
    heads = ['trial', metric, '95% interval', 'latency (ms)', 'GMACs', 'first look', 'seconds',
             'state', 'sparsity']
    return Section('candidates', 'All evaluated candidates', [
        details(f'{len(rows)} candidates, best first',
                table(heads, rows, left=['state', 'sparsity'])),
        paragraph('candidates.csv also lists all metrics, and the candidates that were not '
                  'evaluated.', 'how')])


def _provenance(record: SearchRecord) -> Section:
    identity, limits = record.summary.identity, limits_of(record)
    rows = [['study', record.summary.study], ['storage', record.storage],
            ['limits', f'{limits.min_latency:.2f} to {limits.max_latency:.2f} ms'
             if limits != Limits() else 'none'],
            *([f'{key} file', record.manifest.get(key)]
              for key in ('config', 'checkpoint', 'table')),
            *((key, value) for key, value in identity.items() if '\n' not in str(value)),
            ['report by', f'sparsevit_mm {__version__}, Optuna {optuna.__version__}']]
    texts = [[key, value] for key, value in identity.items() if '\n' in str(value)]
    parts = [table(['what', 'value'], rows, left=['what', 'value'], wrap=['what', 'value'])]
    if texts:
        parts.append(details('Parts of the config that affect the results', table(
            ['part', 'text'], texts, left=['part', 'text'], wrap=['text'])))
    return Section('provenance', 'What the results depend on', parts)


def _images(record: SearchRecord) -> str:
    identity = record.summary.identity
    if identity.get('num_samples') is None:
        return 'all of val'
    return f'{identity["num_samples"]} images of val (seed {identity.get("seed")})'


def _setting(record: SearchRecord) -> str:
    return str(record.summary.identity.get('latency setting', 'an unknown setting'))


def _interval(candidate: Candidate) -> Optional[str]:
    if candidate.resampled is None:
        return None
    return interval(candidate.resampled).ends('.4f')

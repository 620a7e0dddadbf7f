"""Sections of the search report: importances, sensitivity, progress, checks and kept windows."""
from collections import Counter
from pathlib import Path
from typing import List

import numpy as np
from mmengine.config import Config

from ..config.export import settings_of
from ..config.reading import load_config
from ..cost.table import LatencyTable
from ..search.candidates import DUPLICATE, EVALUATED, FAILED, OUTSIDE, REJECTED, SCREENED
from ..search.propose.screening import PAIRS, agreement
from .figures import (draw_check, draw_first_look, draw_importances, draw_progress,
                      draw_sensitivity, short)
from .html import Section, details, figure, paragraph, picture, table
from .source import SearchRecord
from .statistics import importances
from .windows import draw_kept_windows

STATES = {EVALUATED: 'evaluated', REJECTED: 'evaluated, but outside the limits when remeasured',
          OUTSIDE: 'outside the limits, not evaluated', SCREENED: 'screened out at the first look',
          DUPLICATE: 'duplicate', FAILED: 'failed: metric NaN or evaluation error'}


def importance_section(record: SearchRecord, folder: Path) -> Section:
    title, parts = 'What matters', []
    try:
        shares = importances(record.summary.evaluated)
    except (ValueError, ImportError) as error:
        return Section('importances', title, [paragraph(
            f'Not shown: {str(error).splitlines()[0]}.', 'note')])
    parts = [
        figure('importances', lambda: draw_importances(shares),
               'Importance of each stage and knob',
               'What separates good candidates from bad ones: the longer a bar, the more of the '
               'metric\'s variation among the evaluated candidates is explained by the ratios of '
               'that stage, or by that knob. Each segment is one pair of blocks. Within latency '
               'limits stages trade off against each other, so this is not cause and effect.',
               folder),
        details('By pair', table(
            ['pair', 'importance'],
            [[f'{name}, pair {pair}', f'{share:.1%}'] for name, pairs in shares.items()
             if name.startswith('stage ') for pair, share in enumerate(pairs)],
            left=['pair']))]
    return Section('importances', title, parts)


def sensitivity_section(record: SearchRecord, folder: Path) -> Section:
    title, summary = 'Each stage alone', record.summary
    alone = [r for r in summary.references if r.kind == 'stage']
    if not alone:
        return Section('sensitivity', title, [paragraph(
            'Not recorded: run the search with --references.', 'note')])
    dense = summary.dense
    rows = [[f'stage {r.stage}', f'{r.ratio:g}', f'{r.metric:.4f}',
             f'{r.metric - dense.metric:+.4f}', f'{r.latency:.2f}',
             f'{r.latency / dense.latency - 1:+.1%}'] for r in alone]
    return Section('sensitivity', title, [
        figure('sensitivity', lambda: draw_sensitivity(record),
               'Metric when one stage alone is pruned',
               'One stage is pruned, the others are dense. In the upper plot, the lower a line '
               'falls, the more the metric depends on that stage; in the lower plot, a line that '
               'runs far to the left before it falls saves time at little cost.', folder),
        details('As a table', table(
            ['stage', 'ratio', short(summary.metric), 'vs dense', 'latency (ms)', 'latency change'],
            rows, left=['stage']))])


def progress_section(record: SearchRecord, folder: Path) -> Section:
    title, summary = 'Progress', record.summary
    counts = Counter(c.state for c in summary.candidates)
    seconds = {state: [c.seconds for c in summary.candidates
                       if c.state == state and c.seconds is not None] for state in counts}
    parts: List[dict] = []
    if any(j.candidate.metric is not None for j in record.judged):
        reached = ('the area under the front of metric over latency, as a share of its final '
                   'value' if record.pareto else 'the best metric so far')
        parts.append(figure(
            'progress', lambda: draw_progress(record),
            'Progress over evaluations and over hours',
            f'The line is {reached}; if it is flat at the end, more evaluations promise little. '
            f'Each mark is an evaluation; gaps in the lower plot are times when no worker ran.',
            folder))
    parts.append(table(
        ['candidates', 'number', 'median seconds'],
        [[words, counts[state],
          f'{np.median(seconds[state]):.1f}' if seconds.get(state) else None]
         for state, words in STATES.items() if counts[state]], left=['candidates']))
    workers = dict.fromkeys(j.worker for j in record.judged)
    rows = []
    for number, worker in enumerate(workers, 1):
        own = [j for j in record.judged if j.worker == worker]
        rows.append([number, worker or 'unnamed', len(own),
                     sum(j.candidate.metric is not None for j in own),
                     f'{min(j.start for j in own):%Y-%m-%d %H:%M}',
                     f'{max(j.end for j in own):%Y-%m-%d %H:%M}'])
    parts.append(details(f'{len(workers)} worker{"s" * (len(workers) != 1)}', table(
        ['worker', 'name', 'candidates', 'evaluated', 'first', 'last'], rows, left=['name'])))
    return Section('progress', title, parts)


def check_section(record: SearchRecord, folder: Path) -> Section:
    title, parts = 'Latency prediction check', []
    latencies = {c.trial: c.latency for c in record.summary.candidates}
    changes = np.array([again / latencies[trial] - 1 for trial, again in record.again.items()])
    path = record.manifest.get('table')
    if changes.size:
        how = 'predicted by the table' if path else 'measured in the search'
        parts = [
            paragraph(f'The latencies of {changes.size} candidates were {how}, then remeasured at '
                      f'the end: the median difference is {np.median(np.abs(changes)):.1%}, the '
                      f'largest {changes[np.abs(changes).argmax()]:+.1%}.'),
            figure('check', lambda: draw_check(record),
                   'Remeasured latency against that of the search',
                   'On the line both agree; above it a candidate is slower than in the search. '
                   'Choosing the best of many noisy measurements favours lucky ones, so expect a '
                   'small increase.', folder)]
    else:
        parts = [paragraph('Not recorded: the search has not ended.', 'note')]
    beside = [c.dense for c in record.summary.candidates if c.dense is not None]
    if beside and record.summary.dense_again is not None:
        summary = record.summary
        parts.append(paragraph(
            f'The dense model took {summary.dense.latency:.2f} ms at the start, '
            f'{min(beside):.2f} to {max(beside):.2f} ms next to the candidates, and '
            f'{summary.dense_again:.2f} ms at the end ({summary.drift:+.1%}). Candidates are '
            f'measured relative to it; limits in ms are checked against the last value.'))
    if not path:
        parts.append(paragraph('Check of a latency table: not recorded, because the search '
                               'measured each candidate (--latency-table predicts latencies).',
                               'note'))
        return Section('check', title, parts)
    try:
        parts.append(paragraph(f'The table\'s own check: {LatencyTable.load(path).check}.'))
    except (ValueError, FileNotFoundError) as error:
        parts.append(paragraph(f'The table\'s own check cannot be shown: {error}', 'note'))
    return Section('check', title, parts)


def first_look_section(record: SearchRecord, folder: Path) -> Section:
    title, metric = 'First look', record.summary.metric
    looked = [c for c in record.summary.evaluated if c.first_look is not None]
    if not looked:
        return Section('first-look', title, [paragraph(
            'Not recorded: the search fully evaluated every candidate within the limits '
            '(--first-look N evaluates N images first).', 'note')])
    unselected = sum(c.sampled for c in looked)
    correlation = agreement(looked, record.pareto)
    words = (f'needs {PAIRS} candidates' if correlation is None
             else f'is {correlation:.2f} over the {unselected}')
    return Section('first-look', title, [
        paragraph(f'The rank correlation (Spearman{", given the latency" * record.pareto}) between '
                  f'the first look on few images and the full evaluation {words} that were '
                  f'evaluated regardless of their first look. The figure shows all {len(looked)} '
                  f'with both values; those selected by their first look make any correlation look '
                  f'lower than it is.'),
        figure('first_look', lambda: draw_first_look(looked, metric),
               'Metric of the full evaluation over that of the first look',
               'The closer the dots are to a rising line, the better few images rank candidates.',
               folder)])


def winner_config(record: SearchRecord) -> Config:
    """Return the searched config at the winner's operating point.

    The point comes from the study; configs written to the work directory are not executed.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If the search has not ended.
    """
    finalists = record.summary.finalists
    if not finalists:
        raise ValueError('the search has not ended')
    winner = finalists[0]
    cfg = load_config(str(record.manifest.get('config')), record.manifest.get('options'))
    cfg.merge_from_dict(settings_of(cfg, winner.candidate.config, winner.scope,
                                    record.summary.importance))
    return cfg


def windows_section(record: SearchRecord, images: int, folder: Path, device: str) -> Section:
    title = 'Kept windows of the winner'
    if images == 0:
        parts = [paragraph('Not drawn: --images 0.', 'note')]
        return Section('windows', title, parts)
    try:
        drawn = draw_kept_windows(winner_config(record), str(record.manifest.get('checkpoint')),
                                  images, folder, device)
    except Exception as error:  # a model and its data may raise anything
        parts = [paragraph(f'Not drawn: {_first_line(error)}', 'note')]
        return Section('windows', title, parts)
    return Section('windows', title, [
        paragraph('Before fine-tuning. Brighter means that more blocks ran.', 'how'),
        *map(picture, drawn)])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

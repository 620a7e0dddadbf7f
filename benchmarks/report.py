"""Results of run.py as markdown and as a figure."""
from pathlib import Path
from typing import List

import matplotlib
import numpy as np

matplotlib.use('Agg')  # noqa: E402 - no screen is needed
import matplotlib.pyplot as plt


def markdown(record: dict) -> str:
    """Format the tables; ratios are medians over rounds of the ratio within a round."""
    environment = record['environment']
    lines = [f'`{environment["command"]}`', '',
             f'{environment["device"]}, {environment["threads"]} threads, '
             f'torch {environment["torch"]}, {environment["date"]}.', '']
    for group in record['groups']:
        lines += _group(group)
    if record['training']:
        lines += _training(record['training'])
    return '\n'.join(lines)


def _group(group: dict) -> List[str]:
    rows, dense = group['subjects'], _dense(group)
    peer = np.array(rows[0]['times'])
    lines = [f'### {group["title"]}', '',
             f'| backbone | execution | median | quartiles | of {rows[0]["name"]} | of ours dense '
             '| MACs of dense | outside products |', '|---|---|---|---|---|---|---|---|']
    for row in rows:
        times = np.array(row['times'])
        low, median, high = np.percentile(times, (25, 50, 75))
        own = dense.get(row['execution'])
        lines.append('| ' + ' | '.join([
            row['name'], row['execution'], f'{median:.4g} ms', f'{low:.4g} to {high:.4g}',
            f'{np.median(times / peer):.3f}',
            f'{np.median(times / np.array(own["times"])):.3f}' if own and row['macs'] else '',
            f'{row["macs"] / own["macs"]:.3f}' if own and row['macs'] else '',
            f'{row["shares"]["other"]:.0%}' if row.get('shares') else '']) + ' |')
    notes = [f'Not compared: {reason}.' for reason in group['missing']]
    if group.get('overlap'):
        notes.append('At 60%, windows kept that fp32 keeps too, by stage: '
                     + ', '.join(f'{share:.1%}' for share in group['overlap']) + '.')
    return [*lines, '', *notes, '']


def _dense(group: dict) -> dict:
    """Return our dense model in each execution."""
    return {row['execution']: row for row in group['subjects'] if row['name'] == 'ours dense'}


def _training(training: dict) -> List[str]:
    rows = training['rows']
    peer, dense = (np.array(rows[i]['times']) for i in (0, 1))
    lines = [f'### {training["title"]}', '',
             f'| backbone | median | quartiles | of {rows[0]["name"]} | of ours dense '
             f'| {training["memory"]} | of ours dense |', '|---|---|---|---|---|---|---|']
    for row in rows:
        times = np.array(row['times'])
        low, median, high = np.percentile(times, (25, 50, 75))
        lines.append(
            f'| {row["name"]} | {median:.4g} ms | {low:.4g} to {high:.4g} '
            f'| {np.median(times / peer):.3f} | {np.median(times / dense):.3f} '
            f'| {row["memory"] / 2**20:.0f} MiB | {row["memory"] / rows[1]["memory"]:.2f} |')
    return lines + ['']


def draw(record: dict, path: Path) -> None:
    """Plot the latency relative to dense over uniform sparsity, with the ratio of MACs as a rough
    lower bound; one panel per group."""
    groups = record['groups']
    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.8), squeeze=False,
                                sharey=True, constrained_layout=True)
    for axis, group in zip(axes[0], groups):
        for execution, dense in _dense(group).items():
            rows = [row for row in group['subjects']
                    if row['execution'] == execution and row['uniform'] is not None]
            base = np.array(dense['times'])
            quartiles = np.array([np.percentile(np.array(row['times']) / base, (25, 50, 75))
                                  for row in rows])
            sparsity = [row['uniform'] for row in rows]
            axis.errorbar(sparsity, quartiles[:, 1], np.abs(quartiles[:, [0, 2]].T
                                                            - quartiles[:, 1]),
                          marker='o', capsize=3, label=f'latency, {execution}')
        axis.plot(sparsity, [row['macs'] / dense['macs'] for row in rows], 'k--', label='MACs')
        axis.set(title=group['title'], xlabel='sparsity of every block', ylim=(0, 1.05))
        axis.title.set_fontsize(10)
        axis.grid(alpha=.3)
        axis.legend()
    axes[0, 0].set_ylabel('of ours dense')
    figure.savefig(path, dpi=90)
    plt.close(figure)

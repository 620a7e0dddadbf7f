"""Markdown tables of the results of gpu.py."""
from typing import Dict, List


def markdown(records: List[Dict]) -> str:
    lines: List[str] = []
    for record in records:
        where = f'{record["device"]}, torch {record["torch"]}, {record["date"]}'
        lines += [f'## {record["part"]}', '', where + '.' + _state(record), '']
        rows = record['rows']
        for row in rows:
            if 'skipped' in row:
                lines += [f'{row["what"]}: {row["skipped"]}.', '']
        lines += _checks([row for row in rows if 'ok' in row])
        for row in rows:
            if 'rows' in row:
                lines += _timed(row)
            elif 'top' in row:
                lines += _profile(row)
            elif 'check' in row:
                lines += [f'{row["what"]}: {row["check"]} (dense {row["dense"]:.3f} ms)', '']
    return '\n'.join(lines)


def _state(record: Dict) -> str:
    if record.get('error'):
        return f' Failed:\n\n```\n{record["error"].strip()}\n```'
    if not record['done']:
        return f' Not complete: {record.get("stopped", "it was killed")}.'
    return ''


def _checks(rows: List[Dict]) -> List[str]:
    if not rows:
        return []
    wrong = [row for row in rows if not row['ok']]
    lines = [f'{len(rows) - len(wrong)} of {len(rows)} checks are within their bounds.', '',
             '| check | difference | bound | |', '|---|---|---|---|']
    for row in rows:
        shown = (f'{row["difference"]:.1e} | {row["bound"]:.0e}' if 'difference' in row else
                 f'{row["share"]:.1%} | ' if 'share' in row else f'{row["error"]} | ')
        lines.append(f'| {row["what"]} | {shown} | {"" if row["ok"] else "**no**"} |')
    return [*lines, '']


def _timed(group: Dict) -> List[str]:
    memory = any(row.get('megabytes') is not None for row in group['rows'])
    lines = [f'### {group["what"]}', '',
             '| | execution | median | of the first | of ours dense | MACs |'
             + ' memory |' * memory, '|---|---|---|---|---|---|' + '---|' * memory]
    for row in group['rows']:
        cells = [row['name'], row['execution'], f'{row["median"]:.4g} ms',
                 f'{row["of_first"]:.3f}', *(
                     '' if row.get(key) is None else f'{row[key]:.3f}'
                     for key in ('of_dense', 'macs'))]
        if memory:
            cells.append('' if row.get('megabytes') is None else f'{row["megabytes"]:.0f} MiB')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return [*lines, '', *(f'Not compared: {reason}.' for reason in group.get('missing', [])), '']


def _profile(row: Dict) -> List[str]:
    waiting = '' if row['waiting'] is None else f', the device waits {row["waiting"]:.0%}'
    lines = [f'### {row["what"]}', '',
             f'{row["milliseconds"]:.3g} ms, {row["busy"]:.3g} ms in {row["launches"]} kernels or '
             f'operators{waiting}', '', '| | ms | times |', '|---|---|---|']
    lines += [f'| `{top["name"]}` | {top["ms"]:.3g} | {top["count"]} |' for top in row['top']]
    return [*lines, '']

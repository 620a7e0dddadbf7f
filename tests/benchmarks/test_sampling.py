"""The benchmark of the search's draws."""
import runpy
import sys
from unittest import mock

from helpers import ROOT


def test_the_table_and_the_figure_of_draws(tmp_path, capsys):
    config = ROOT / 'demo' / 'configs' / 'mask_rcnn_sparsevit-narrow_mini_coco.py'
    arguments = ['sampling.py', config, '--count', 60, '--generations', 2, '--out',
                 tmp_path / 'folder' / 'a.png']
    with mock.patch.object(sys, 'argv', list(map(str, arguments))):
        runpy.run_path(str(ROOT / 'benchmarks' / 'sampling.py'), run_name='__main__')
    output = capsys.readouterr().out
    rows = [line.split('│')[1:-1] for line in output.splitlines() if line.startswith('│')]
    deviations = {row[0].strip(): float(row[4]) for row in rows}
    assert deviations['draws of this search'] > deviations['published draws']
    assert len(deviations) == 4 and '6,561 configurations' in output
    assert (tmp_path / 'folder' / 'a.png').read_bytes().startswith(b'\x89PNG')

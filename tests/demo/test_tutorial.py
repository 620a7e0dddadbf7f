"""The notebook runs from its first cell to its last, and shows what it was run with."""
import json
import sys

import matplotlib
import pytest
from helpers import ROOT
from mmengine.config import Config

from sparsevit_mm.cost.latency import LatencyMeter
from sparsevit_mm.cost.macs import backbone_macs

PATH = ROOT / 'demo' / 'tutorial.ipynb'
NOTEBOOK = json.loads(PATH.read_text())
CODE = [(cell['id'], ''.join(cell['source'])) for cell in NOTEBOOK['cells']
        if cell['cell_type'] == 'code']


def test_the_stored_outputs_are_those_of_a_run_without_errors():
    assert (NOTEBOOK['nbformat'], NOTEBOOK['nbformat_minor']) == (4, 5)
    counts = [cell['execution_count'] for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
    assert counts == list(range(1, len(CODE) + 1))
    outputs = [output for cell in NOTEBOOK['cells'] for output in cell.get('outputs', ())]
    assert not [output for output in outputs if output['output_type'] == 'error']
    assert any('image/png' in output.get('data', ()) for output in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_all_cells_run(tmp_path, monkeypatch):
    (tmp_path / 'configs').symlink_to(ROOT / 'demo' / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / 'demo'))
    matplotlib.use('Agg')
    # Milliseconds by MACs: a busy machine must not decide what meets the limit.
    monkeypatch.setattr(LatencyMeter, '_run', lambda meter, config: backbone_macs(
        meter.backbone, meter.image.shape[-2:], len(meter.image), config) / 1e7)
    names = {'__name__': '__main__'}
    monkeypatch.setitem(sys.modules, '__main__', type(sys)('__main__'))
    for name, source in CODE:
        exec(compile(source, f'{PATH.name}, {name}', 'exec'), names)
    work = tmp_path / 'work_dirs' / 'tutorial'
    winner = Config.fromfile(work / 'search' / 'winner.py')
    assert winner.model.backbone.type == 'SparseSwinTransformer'
    assert winner.load_from == names['adapted'] != names['dense']
    assert names['winner'].candidate.config.to_list() == winner.model.backbone.sparsity
    assert names['winner'].candidate.latency <= .9 * names['result'].summary.dense.latency
    assert names['picture'].ndim == 3 and names['picture'].std() > 0

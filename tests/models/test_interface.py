"""A second backbone, which nothing but tests/token_mixer.py knows, adapts, is measured, searched,
exported and drawn."""
from itertools import count

import numpy as np
import pytest
import torch
from helpers import run_tool, toy_config, train_toy
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from token_mixer import TokenMixer

from sparsevit_mm import SparsityConfig, SparsitySpace, get_sparse_backbone
from sparsevit_mm.cost import runs
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.models import backbone_names
from sparsevit_mm.visualization.windows import Placement, count_blocks

MODEL = dict(type='ToyModel', backbone=dict(type='TokenMixer'))
FALLING = [[0, .8, .3]]


def test_the_space_says_what_it_takes():
    model = TokenMixer()
    model.sparsity = FALLING
    assert model.sparsity == SparsityConfig(FALLING, (3, ))
    model.sparsity = .5
    assert model.sparsity.to_list() == [[0, .5, .5]]  # the first block never prunes
    model.sparsity = '0.8'  # of a command line
    assert model.sparsity.to_list() == [[0, .8, .8]]
    with pytest.raises(ValueError, match='per block'):
        model.sparsity = [.1, .2]
    space = SparsitySpace((3, ), (0, .5, .8), group=1, nested=False, dense=1)
    assert space.count() == 9 == len({space.decode((a, b)) for a in range(3) for b in range(3)})
    assert all(space.decode(space.encode(c)) == c for c in (
        space.decode((a, b)) for a in range(3) for b in range(3)))
    assert SparsityConfig([[.5, .5, .5]], (3, )) not in space


def test_models_and_configs_find_it(tmp_path):
    assert 'TokenMixer' in backbone_names() and 'EvolvingBackbone' not in backbone_names()
    model = torch.nn.Sequential(TokenMixer())
    assert get_sparse_backbone(model) is model[0]


def test_it_adapts(tmp_path):
    hook = dict(type='SparsityAdaptationHook', distillation=1.)
    runner, spy = train_toy(tmp_path, model=MODEL, custom_hooks=[hook])
    space = runner.model.backbone.space
    assert all(config in space for config in spy.draws.values())
    assert len(set(spy.draws.values())) > 2
    assert any(np.diff(config.ratios[0][1:]).item() < 0 for config in spy.draws.values())
    assert runner.model.backbone.sparsity.is_dense


def measured(monkeypatch, model, setting):
    """A table of few runs; each look at the clock takes a second of the budget."""
    seconds = count()
    monkeypatch.setattr(runs, 'clock', lambda: float(next(seconds)))
    monkeypatch.setattr(runs, 'FITS', 8)
    monkeypatch.setattr(runs, 'CHECKS', 4)
    return LatencyTable.measure(model, setting, 40.)


def test_it_is_measured(monkeypatch):
    model, setting = TokenMixer(depth=6), LatencySetting((64, 64), num_threads=1)
    assert backbone_macs(model, (64, 64)) == 256 * (48 * 8 + 6 * 64)
    assert backbone_macs(model, (64, 64), 2, .5) == 2 * 256 * (48 * 8 + 64) + 2 * 128 * 5 * 64
    assert len(LatencyMeter(model, setting, 1).measure([0, .5])) == 2
    table = measured(monkeypatch, model, setting)
    assert np.isfinite(table.predict([[0, .8, .3, 0, .1, .2]]))
    assert table.space == model.space
    table.require(model, setting)
    with pytest.raises(ValueError, match='depths'):
        table.require(TokenMixer(), setting)


def test_a_table_comes_back_with_its_space(tmp_path, monkeypatch):
    table = measured(monkeypatch, TokenMixer(depth=6), LatencySetting((64, 64), num_threads=1))
    table.save(tmp_path / 'table.json')
    assert LatencyTable.load(tmp_path / 'table.json').space == table.space


def test_it_is_drawn():
    model = TokenMixer(sparsity=FALLING).eval()
    with torch.no_grad(), model.recording() as maps:
        model(torch.randn(1, 3, 40, 40))
    counts, = count_blocks(model, maps, (80, 80), Placement((40, 40)))
    assert counts.blocks == 3 and counts.run.sum() == 4 * 16 * (100 + 20 + 70)


def test_it_is_exported(tmp_path):
    from sparsevit_mm.deploy.check import check_program
    from sparsevit_mm.deploy.export import export_program
    model = TokenMixer(sparsity=FALLING)
    export_program(model, tmp_path / 'mixer.pt2', (32, 32))
    assert check_program(tmp_path / 'mixer.pt2', model) < 1e-5


def test_it_is_searched(tmp_path):
    cfg = toy_config(tmp_path, model=MODEL)
    cfg.dump(tmp_path / 'toy.py')
    torch.manual_seed(0)
    save_checkpoint(dict(state_dict={f'backbone.{key}': value for key, value in
                                     TokenMixer().state_dict().items()}), str(tmp_path / 'toy.pth'))
    outcome = run_tool('search_sparsity', tmp_path / 'toy.py', tmp_path / 'toy.pth', '--work-dir',
                       tmp_path, '--max-latency', '500%', '--metric', 'toy/output', '--shape', 16,
                       16, '--trials', 20, '--rounds', 1, '--threads', 1)
    assert outcome.code == 0, outcome.error
    winner = Config.fromfile(tmp_path / 'winner.py').model.backbone
    assert winner.type == 'TokenMixer' and winner.sparsity[0][0] == 0
    model = TokenMixer(sparsity=winner.sparsity)
    assert model.sparsity in model.space

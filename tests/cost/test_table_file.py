import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import pytest
from helpers import backbone
from simulated import MODEL, SETTING, SHAPE, Machine

from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.cost.table import LatencyTable


@pytest.fixture(scope='module')
def table():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Machine(monkeypatch)()


@pytest.mark.parametrize('changed, model, named', [
    (dict(dtype='bf16'), {}, 'dtype: fp32 in the table, bf16 here'),
    (dict(shape=(48, 40)), {}, r'shape: \[40, 48\] in the table, \[48, 40\] here'),
    (dict(batch_size=2), {}, 'batch_size: 1'), (dict(num_threads=3), {}, 'num_threads: 1'),
    (dict(execution='compiled'), {}, 'execution: eager'),
    ({}, dict(depths=(2, 2)), 'depths'), ({}, dict(embed_dims=16), 'channels'),
    ({}, dict(num_heads=(2, 4)), 'heads'), ({}, dict(window_size=4), 'window size'),
    ({}, dict(mlp_ratio=2), 'hidden'), ({}, dict(out_indices=(1, )), 'outputs'),
    ({}, dict(importance='l2'), 'importance'), ({}, dict(qkv_bias=False), 'parameters'),
    ({}, dict(act_cfg=dict(type='ReLU')), 'activation')])
def test_another_setting_or_backbone_is_refused_by_name(table, changed, model, named):
    setting = LatencySetting(**{**dict(shape=SHAPE, num_threads=1), **changed})
    with pytest.raises(ValueError, match=named):
        table.require(backbone(**{**MODEL, **model}), setting)


@pytest.mark.parametrize('what, where', [
    ('device', 'sparsevit_mm.cost.latency.device_name'), ('torch', 'torch.__version__')])
def test_another_device_or_torch_is_refused_by_name(table, monkeypatch, what, where):
    monkeypatch.setattr(where, 'other' if what == 'torch' else lambda device: 'other')
    with pytest.raises(ValueError, match=f'{what}: .* in the table, other here$'):
        table.require(backbone(**MODEL), SETTING)


def test_weights_and_sparsity_do_not_matter(table):
    table.require(backbone(**MODEL, sparsity=.3, drop_path_rate=.2), SETTING)


def test_a_table_survives_its_file(table, tmp_path):
    path = tmp_path / 'table.json'
    table.save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table and [p.name for p in tmp_path.iterdir()] == ['table.json']
    loaded.require(backbone(**MODEL), SETTING)
    assert loaded.predict([.3, .7]) == table.predict([.3, .7])


def test_a_table_that_can_not_be_written_leaves_the_old_one(table, tmp_path):
    path = tmp_path / 'table.json'
    table.save(path)
    with pytest.raises(ValueError):
        replace(table, dense=float('nan')).save(path)
    assert LatencyTable.load(path) == table and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_is_cut_off_leaves_the_old_table(table, tmp_path, monkeypatch):
    path = tmp_path / 'table.json'
    table.save(path)
    monkeypatch.setattr(Path, 'replace', mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        replace(table, dense=1.).save(path)
    assert LatencyTable.load(path) == table and len(list(tmp_path.iterdir())) == 1


def change(**changes):
    return lambda record: {**record, **changes}


def without(key):
    return lambda record: {k: v for k, v in record.items() if k != key}


def first_stage(**changes):
    return lambda record: {
        **record, 'stages': [{**record['stages'][0], **changes}, *record['stages'][1:]]}


@pytest.mark.parametrize('corrupt, named', [
    (change(version=0), 'version 0'), (without('version'), "'version' is missing"),
    (without('dense'), "'dense' is missing"), (without('check'), "'check' is missing"),
    (change(dense=float('nan')), 'table.dense is nan'), (change(dense=-1.), 'dense latency -1'),
    (change(dense='fast'), 'fast'), (change(dense=None), 'not a latency table'),
    (change(choices=[0., 1.5]), 'choice 1.5'), (change(choices=[]), 'choice'),
    (change(backbone={}), "'depths' is missing"), (change(backbone={'depths': 3}), 'int'),
    (lambda r: {**r, 'stages': r['stages'][:1]}, r'1 stages for depths \(2, 4\)'),
    (first_stage(costs=[1.]), r'stage 0 has 8 .* and 1 costs'),
    (first_stage(fixed=float('inf')), r'stages\[0\].fixed is inf'),
    (first_stage(fixed='3'), 'not a latency table'),
    (first_stage(kept=[9, 8, 7, 6, 5, 4, 3, 2]), 'stage 0 keeps'),
    (first_stage(total=24), 'of 24 windows'), (first_stage(costs=['1'] * 8), 'not a latency table'),
    (change(check={}), "'median_error' is missing"), (lambda r: [r], 'not a latency table'),
    (lambda r: 3, 'not a latency table')])
def test_a_corrupt_table_is_named_with_its_fault(table, tmp_path, corrupt, named):
    path = tmp_path / 'broken.json'
    path.write_text(json.dumps(corrupt({'version': 1, **asdict(table)})))
    with pytest.raises(ValueError, match=named) as error:
        LatencyTable.load(path)
    assert 'broken.json' in str(error.value)


@pytest.mark.parametrize('content', [b'', b'{"version": 1', b'\xff\xfe\x00', b'null'])
def test_what_is_no_json_is_named(tmp_path, content):
    path = tmp_path / 'broken.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='broken.json .* latency table'):
        LatencyTable.load(path)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.json'):
        LatencyTable.load(tmp_path / 'none.json')

import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, refused, run_tool
from trained import lines_of, metrics_of

from sparsevit_mm import SparsityConfig


def test_training_learns_and_logs_sparsity_and_metrics_of_each_configuration(tiny):
    lines = lines_of(tiny.checkpoint.parent)
    train = [line for line in lines if 'loss' in line]
    assert [line['iter'] for line in train] == list(range(1, 51))
    assert sum(line['loss_cls'] for line in train[-6:]) < .8 * sum(
        line['loss_cls'] for line in train[:6])
    assert len({line['sparsity'] for line in train}) > 10
    metrics = lines[-1]
    assert metrics['coco/bbox_mAP'] > .01 and metrics['coco/segm_mAP'] > 0
    assert metrics['60%/coco/bbox_mAP'] != metrics['coco/bbox_mAP']


@pytest.mark.parametrize('sparsity, prefix', [
    (None, 'coco/'), ('[.6, [.6, .6], [.6], .6]', '60%/coco/')])
def test_test_gives_what_validation_gave_at_that_sparsity(tiny, sparsity, prefix):
    arguments = [] if sparsity is None else ['--sparsity', sparsity]
    validated = {key.replace('60%/', ''): value
                 for key, value in lines_of(tiny.checkpoint.parent)[-1].items()
                 if key.startswith(prefix)}
    assert metrics_of(tiny.config, tiny.checkpoint, '--split', 'val', *arguments) == validated


def test_test_split_is_the_default_and_checkpoint_that_of_the_config(tiny):
    by_default = metrics_of(tiny.config, load_from=tiny.checkpoint)
    assert by_default == metrics_of(
        tiny.config, tiny.checkpoint, '--split', 'test', load_from='nowhere.pth')
    validated = lines_of(tiny.checkpoint.parent)[-1]
    assert by_default != {key: validated[key] for key in by_default}
    assert 'load_from' in refused('test', tiny.config)


@pytest.mark.slow
def test_samples_are_as_many_and_which_the_flags_say(tiny):
    val = tiny.config, tiny.checkpoint, '--split', 'val'
    assert metrics_of(*val, '--num-samples', 8) == metrics_of(*val)
    some = [metrics_of(*val, '--num-samples', 3, '--seed', seed) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]


@pytest.mark.slow
def test_resumed_training_draws_what_the_unbroken_one_drew(tiny, tmp_path):
    half = dict(tiny.options, val_evaluator__metric='bbox')
    whole = dict(half, train_cfg__max_iters=4)
    for folder, resume, options in (('whole', [], whole), ('parts', [], half),
                                    ('parts', ['--resume'], whole)):
        trained = run_tool('train', tiny.config, '--work-dir', tmp_path / folder, *resume,
                           **options)
        assert trained.code == 0, trained.error
    draws = [[(line['iter'], line['sparsity']) for line in lines_of(folder) if 'loss' in line]
             for folder in (tmp_path / 'whole', tmp_path / 'parts')]
    assert [i for i, _ in draws[1]] == [3, 4]
    assert draws[0][2:] == draws[1]


def test_wrong_sparsity_is_refused_with_the_place(tiny):
    message = refused('test', tiny.config, tiny.checkpoint, '--sparsity', '[[.6,.1],0,0,0]')
    assert 'sparsity of stage 0, block 1 is 0.1' in message


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without CUDA')
def test_amp_without_cuda_is_refused_before_anything_is_written(tiny, tmp_path):
    assert 'CUDA' in refused('train', tiny.config, '--amp', '--work-dir', tmp_path / 'w')
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize('tool', ['train', 'test', 'search_sparsity'])
def test_missing_config_is_named(tool, tmp_path):
    more = dict(train=[], test=['a.pth'], search_sparsity=['a.pth', '--max-latency', '9'])[tool]
    message = refused(tool, tmp_path / 'nowhere.py', *more, '--work-dir', tmp_path / 'w')
    assert f'{tmp_path}/nowhere.py' in message and not (tmp_path / 'w').exists()


@pytest.mark.parametrize('tool', ['train', 'test', 'search_sparsity'])
@pytest.mark.parametrize('key, value', [
    ('ann_file', 'annotations/nowhere.json'), ('data_prefix__img', 'nowhere/')])
def test_missing_data_are_named_before_anything_is_written(tiny, tmp_path, tool, key, value):
    more = dict(train=[], test=[tiny.checkpoint, '--split', 'val'],
                search_sparsity=[tiny.checkpoint, '--max-latency', '1e6'])[tool]
    message = refused(tool, tiny.config, *more, '--work-dir', tmp_path / 'w',
                      **{f'val_dataloader__dataset__{key}': value})
    assert str(tiny.data / value.rstrip('/')) in message
    assert not list(tmp_path.rglob('*.*'))


def test_missing_checkpoint_is_named(tiny, tmp_path):
    nowhere = tmp_path / 'nowhere.pth'
    assert str(nowhere) in refused('test', tiny.config, nowhere, '--work-dir', tmp_path / 'w')
    for options in ({}, dict(load_from=nowhere)):
        arguments = [] if options else ['--resume', nowhere]
        assert str(nowhere) in refused('train', tiny.config, '--work-dir', tmp_path / 'w',
                                       *arguments, **options)
    assert not list(tmp_path.rglob('*.pth'))


def test_checkpoint_that_does_not_fit_is_refused_with_its_keys(tiny, tmp_path):
    message = refused('test', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      model__backbone__depths='(2,2,4,2)', model__backbone__mlp_ratio=2)
    assert 'missing' in message and 'backbone.stages.2.blocks.3.attn.w_msa.qkv.weight' in message
    assert 'of another shape' in message and 'backbone.stages.0.blocks.0.ffn' in message
    assert not list(tmp_path.glob('*/*.json'))


def test_checkpoint_with_code_in_it_is_refused(tiny, tmp_path):
    torch.save(dict(state_dict={}, extra=SparsityConfig(0, (2, 2))), tmp_path / 'code.pth')
    message = refused('test', tiny.config, tmp_path / 'code.pth', '--work-dir', tmp_path / 'w')
    assert 'code.pth' in message and 'SparsityConfig' in message


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_broken_image_ends_the_run_with_its_name(tiny, tmp_path, tool):
    content = json.loads((tiny.data / 'annotations/instances_train2017.json').read_text())
    for image in content['images']:
        (tmp_path / image['file_name']).write_bytes(b'no JPEG' * 50)
    more = dict(train=[], test=[tiny.checkpoint, '--split', 'val'])[tool]
    options = {f'{split}_dataloader__dataset__data_prefix__img': tmp_path
               for split in ('train', 'val')}
    with pytest.raises(AssertionError, match=rf'{tmp_path}/0.*\.jpg'):
        run_tool(tool, tiny.config, *more, '--work-dir', tmp_path / 'w', **options)
    assert not list((tmp_path / 'w').rglob('*.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('tool, more', [
    ('train', ['--resume', 'nowhere.pth']), ('test', ['nowhere.pth']),
    ('search_sparsity', ['nowhere.pth', '--max-latency', '1']),
    ('measure_latency', ['--sparsity', 'nowhere.pth'])])
def test_process_of_its_own_ends_with_code_1_and_one_message_on_stderr(tiny, tmp_path, tool, more):
    ended = subprocess.run([sys.executable, ROOT / 'tools' / f'{tool}.py', tiny.config, *more],
                           cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    message = [line for line in ended.stderr.splitlines() if line.startswith('error: ')]
    assert len(message) == 1 and 'nowhere.pth' in message[0]
    assert 'Traceback' not in ended.stderr
    assert not list(tmp_path.rglob('winner*')) and not list(tmp_path.rglob('*.db'))

import json
from unittest import mock

import pytest
import torch
from helpers import refused, run_tool
from trained import metrics_of

from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.evaluation.loading import load_model, prepare

HEADS = [f'backbone.stages.{i}.importance.weight' for i in range(4)]


def fitted(trained, folder, *arguments, checkpoint=None, config=None, **options):
    """(the checkpoint written, what was printed)."""
    out = folder / 'fitted.pth'
    outcome = run_tool('fit_importance', config or trained.config,
                       checkpoint or trained.checkpoint, '--out', out, '--work-dir', folder,
                       *arguments, **options)
    assert outcome.code == 0, outcome.error
    return out, outcome.output


def content_of(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def heads_of(path):
    return [content_of(path)['state_dict'][key] for key in HEADS]


def assert_differ(one, other):
    assert not any(map(torch.equal, one[:3], other[:3]))  # the last stage has a single window


def altered(trained, path, change):
    """A checkpoint whose weights are changed by a function of name and tensor; None drops one."""
    content = content_of(trained.checkpoint)
    for key, value in list(content['state_dict'].items()):
        content['state_dict'][key] = change(key, value)
        if content['state_dict'][key] is None:
            del content['state_dict'][key]
    torch.save(content, path)
    return path


@pytest.mark.parametrize('name', [
    'tiny', pytest.param('tiny_seg', marks=pytest.mark.slow)])
def test_written_checkpoint_has_heads_beside_the_old_content_and_prunes_by_them(
        name, request, tmp_path):
    trained = request.getfixturevalue(name)
    before = trained.checkpoint.read_bytes()
    out, output = fitted(trained, tmp_path, '--num-images', 5)
    assert trained.checkpoint.read_bytes() == before
    old, new = content_of(trained.checkpoint), content_of(out)
    assert new.keys() == old.keys() and new['meta'] == old['meta']
    assert sorted(new['state_dict'].keys() - old['state_dict'].keys()) == HEADS
    assert all(torch.equal(new['state_dict'][key], value)
               for key, value in old['state_dict'].items())
    cfg = load_config(str(trained.config), {'model.backbone.importance': 'learned'})
    prepare(cfg, 'cpu')
    model, _ = load_model(cfg, str(out), 'cpu')
    model.load_state_dict(new['state_dict'], strict=True)
    assert all(torch.equal(model.state_dict()[key], new['state_dict'][key]) for key in HEADS)
    learned = dict(model__backbone__importance='learned')
    with pytest.warns(UserWarning, match='adapted under'):
        assert metrics_of(trained.config, out, '--sparsity', .5, **learned)
    lines = output.splitlines()
    assert any(line.startswith('fitted to 4 images of train;') and 'on 1 held out' in line
               for line in lines)
    assert lines[-2] == f'wrote {out}'
    assert '--cfg-options model.backbone.importance=learned' in lines[-1]
    with pytest.raises(ValueError, match="'learned' .*tools/fit_importance.py"):
        run_tool('test', trained.config, trained.checkpoint, '--sparsity', .5, '--work-dir',
                 tmp_path / 'test', **learned)


@pytest.mark.slow
def test_same_images_give_the_same_heads_and_others_do_not(tiny, tmp_path):
    out, output = fitted(tiny, tmp_path, '--num-images', 100)
    assert 'train holds 8 images, fewer than 100: all are taken' in output
    assert 'adapted under' in output and 'anew' not in output
    first = heads_of(out)
    again, output = fitted(tiny, tmp_path / 'again', checkpoint=out)
    assert 'heads already: they are fitted anew' in output
    assert all(map(torch.equal, heads_of(again), first))
    fitted(tiny, tmp_path, '--num-images', 4, '--overwrite')
    assert_differ(heads_of(out), first)


@pytest.mark.slow
def test_updates_need_no_ground_truth(tiny, tmp_path):
    by_gradient = heads_of(fitted(tiny, tmp_path / 'gradient')[0])
    by_update = heads_of(fitted(tiny, tmp_path / 'update', '--targets', 'update')[0])
    assert_differ(by_gradient, by_update)
    none = {'train_dataloader': 'None'}
    out, output = fitted(tiny, tmp_path / 'val', **none)
    assert 'no train_dataloader: fitting to the updates alone, on images of val' in output
    assert_differ(heads_of(out), by_gradient)
    assert 'no train_dataloader' in refused(
        'fit_importance', tiny.config, tiny.checkpoint, '--targets', 'gradient', '--work-dir',
        tmp_path / 'none', **none)
    assert not (tmp_path / 'none').exists()


@pytest.mark.slow
def test_without_annotations_there_is_no_loss(tiny, tmp_path):
    config = tmp_path / 'bare.py'
    config.write_text(f'''
_base_ = ['{tiny.config}']
train_dataloader = dict(dataset=dict(pipeline=[
    step for step in _base_.load if step['type'] != 'LoadAnnotations'] + [_base_.pack]))
''')
    out, output = fitted(tiny, tmp_path, config=config)
    assert 'the loss of MaskRCNN can not be computed' in output
    assert 'fitting to the updates alone' in output
    update, _ = fitted(tiny, tmp_path / 'update', '--targets', 'update')
    assert all(map(torch.equal, heads_of(out), heads_of(update)))
    assert 'the loss of MaskRCNN' in refused(
        'fit_importance', config, tiny.checkpoint, '--targets', 'gradient', '--work-dir',
        tmp_path / 'w')


def test_images_without_objects_are_refused(tiny, tmp_path):
    path = tiny.data / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'] = []
    (tmp_path / 'empty.json').write_text(json.dumps(content))
    with pytest.raises(AssertionError, match='0 objects of the 5 classes on 8 images'):
        fitted(tiny, tmp_path, **{
            'train_dataloader__dataset__ann_file': tmp_path / 'empty.json',
            'train_dataloader__dataset__filter_cfg__filter_empty_gt': False})


@pytest.mark.slow
def test_a_dense_checkpoint_of_a_stock_config_gets_heads(tiny, tmp_path):
    config = tmp_path / 'dense.py'
    config.write_text(f'''
_base_ = ['{tiny.config}']
model = dict(backbone=dict(type='SwinTransformer'))
custom_hooks = []
''')
    dense = altered(tiny, tmp_path / 'dense.pth',
                    lambda key, value: None if 'adapted_to' in key else value)
    out, output = fitted(tiny, tmp_path / 'out', config=config, checkpoint=dense)
    assert all(map(torch.equal, heads_of(out), heads_of(fitted(tiny, tmp_path)[0])))
    sparse = tmp_path / 'out/dense_sparse.py'
    assert str(sparse) in output.splitlines()[-1]
    assert metrics_of(sparse, out, '--sparsity', .5, model__backbone__importance='learned')


@pytest.mark.slow
def test_half_precision_frozen_stages_and_keys_of_a_wrapped_model(tiny, tmp_path):
    half = altered(tiny, tmp_path / 'half.pth',
                   lambda key, value: value.half() if value.is_floating_point() else value)
    out, _ = fitted(tiny, tmp_path, checkpoint=half)
    assert content_of(out)['state_dict']['backbone.norm0.weight'].dtype == torch.float16
    assert all(head.dtype == torch.float32 and head.any() for head in heads_of(out))
    for near, exact in zip(heads_of(out), heads_of(fitted(tiny, tmp_path / 'exact')[0])):
        torch.testing.assert_close(near, exact, atol=.02, rtol=.1)
    frozen, _ = fitted(tiny, tmp_path / 'frozen', checkpoint=half,
                       model__backbone__frozen_stages=2)
    assert all(map(torch.equal, heads_of(frozen), heads_of(out)))
    content = content_of(tiny.checkpoint)
    content['state_dict'] = {f'module.{k}': v for k, v in content['state_dict'].items()}
    torch.save(content, tmp_path / 'wrapped.pth')
    out, _ = fitted(tiny, tmp_path / 'out', checkpoint=tmp_path / 'wrapped.pth')
    assert all(key.startswith('module.') for key in content_of(out)['state_dict'])
    build_backbone(load_config(str(tiny.config), {'model.backbone.importance': 'learned'}),
                   str(out))


@pytest.mark.parametrize('end', [KeyboardInterrupt, OSError])
def test_a_killed_run_leaves_what_was_there(tiny, tmp_path, end):
    out = tmp_path / 'out.pth'
    out.write_text('old')

    def save(content, path):
        path.write_text('half')
        raise end

    with mock.patch.object(torch, 'save', save), pytest.raises(end):
        run_tool('fit_importance', tiny.config, tiny.checkpoint, '--num-images', 1, '--out', out,
                 '--overwrite')
    assert [path.name for path in tmp_path.iterdir()] == ['out.pth']
    assert out.read_text() == 'old'


@pytest.mark.parametrize('arguments, named', [
    (['--num-images', 0], '0 images: at least one'),
    (['--device', 'nowhere'], "device 'nowhere' can not be used"),
    (['--out', '{checkpoint}'], '.pth already exists: use --overwrite'),
    (['--cfg-options', 'train_dataloader.dataset.ann_file=nowhere.json', '--targets', 'gradient'],
     'nowhere.json'),
    (['--cfg-options', 'model.backbone.mlp_ratio=2'], 'of another shape')])
def test_bad_input_is_refused_and_nothing_written(tiny, tmp_path, arguments, named):
    before = tiny.checkpoint.read_bytes()
    arguments = [str(a).format(checkpoint=tiny.checkpoint) for a in arguments]
    assert named in refused('fit_importance', tiny.config, tiny.checkpoint, '--work-dir',
                            tmp_path / 'w', *arguments)
    assert not (tmp_path / 'w').exists() and tiny.checkpoint.read_bytes() == before


def test_missing_checkpoint_is_named(tiny, tmp_path):
    nowhere = tmp_path / 'nowhere.pth'
    assert str(nowhere) in refused('fit_importance', tiny.config, nowhere, '--work-dir', tmp_path)


@pytest.mark.parametrize('targets', ['gradient', 'update'])
def test_weights_that_are_not_finite_leave_nothing_to_fit_to(tiny_seg, tmp_path, targets):
    broken = altered(tiny_seg, tmp_path / 'broken.pth', lambda key, value: (
        torch.full_like(value, torch.nan) if 'patch_embed' in key else value))
    outcome = run_tool('fit_importance', tiny_seg.config, broken, '--targets', targets,
                       '--work-dir', tmp_path / 'w')
    assert outcome.code == 1 and 'error: nothing to fit the heads to' in outcome.error
    assert not list(tmp_path.glob('w/*.pth'))


@pytest.mark.filterwarnings('ignore:the checkpoint was adapted under')
@pytest.mark.slow
def test_frames_of_several_cameras(tiny_3d, tmp_path):
    out, output = fitted(tiny_3d, tmp_path)
    assert 'fitted to 4 images of train' in output
    heads = [key for key in content_of(out)['state_dict'] if 'importance.weight' in key]
    assert heads and all(key.startswith('img_backbone.stages.') for key in heads)
    assert metrics_of(tiny_3d.config, out, '--sparsity', .5,
                      model__img_backbone__importance='learned')

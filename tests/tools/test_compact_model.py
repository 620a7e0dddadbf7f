"""From structured sparse training to a smaller model that is trained, measured and exported."""
import pytest
import torch
from helpers import BACKBONE, Spy, refused, run_tool, toy_config, train_toy

from sparsevit_mm.config.building import build_backbone, build_runner
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.macs import backbone_macs

HOOK = dict(type='StructuredSparseTrainingHook', head_density=.5, neuron_density=.4, interval=2)
EMA = dict(type='EMAHook', momentum=.3)
SWIN = dict(BACKBONE, num_heads=(2, 4))
VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=16, num_layers=3,
           num_heads=4, sparsity=0.)


def trained(folder, backbone, hooks=(HOOK, ), **changes):
    """Trains; returns the paths of config and checkpoint."""
    changes = dict(model=dict(type='ToyModel', backbone=backbone), custom_hooks=list(hooks),
                   optim_wrapper=dict(optimizer=dict(type='AdamW', lr=.01)), **changes)
    train_toy(folder / 'work', **changes)
    toy_config(folder / 'work', **changes).dump(folder / 'trained.py')
    return folder / 'trained.py', folder / 'work' / 'iter_6.pth'


@pytest.fixture(scope='module', params=[SWIN, VIT], ids=['swin', 'vit'])
def compacted(request, tmp_path_factory):
    """Config and checkpoint before, and after."""
    folder = tmp_path_factory.mktemp('compacted')
    before = trained(folder, request.param, (EMA, HOOK))
    outcome = run_tool('compact_model', *before, '-o', folder / 'small.py')
    assert outcome.code == 0, outcome.error
    lines = outcome.output.splitlines()[-4:]  # mmengine says before them what it loads
    expected = ([[1, 1, 2, 2], [2, 2, 4, 4], [12, 12, 25, 25], [32, 32, 64, 64]]
                if request.param is SWIN else [[2] * 3, [4] * 3, [25] * 3, [64] * 3])
    heads, all_heads, neurons, all_neurons = (' '.join(map(str, row)) for row in expected)
    assert lines[:2] == [f'heads of each block: {heads} of {all_heads}',
                         f'neurons of each block: {neurons} of {all_neurons}']
    assert lines[3] == f'wrote {folder}/small.py and {folder}/small.pth'
    assert float(lines[2].split('differ by ')[1].split()[0]) < 1e-5
    return before, (folder / 'small.py', folder / 'small.pth')


def backbones(compacted):
    return [build_backbone(load_config(str(config)), str(checkpoint)).eval()
            for config, checkpoint in compacted]


def test_outputs_are_equal_and_cost_is_not(compacted):
    before, after = backbones(compacted)
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for one, other in zip(before(image), after(image)):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert backbone_macs(after, (16, 16), 1) < .7 * backbone_macs(before, (16, 16), 1)
    assert after.identity() != before.identity()


def test_the_whole_model_predicts_the_same(compacted, tmp_path):
    outputs = []
    for i, (config, checkpoint) in enumerate(compacted):
        cfg = load_config(str(config))
        cfg.update(custom_hooks=[], work_dir=str(tmp_path / str(i)), load_from=str(checkpoint))
        outputs.append(build_runner(cfg).val()['toy/output'])
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-5)


def test_the_config_has_no_hook_left_and_trains_on_from_the_checkpoint(compacted, tmp_path):
    path, checkpoint = compacted[1]
    cfg = load_config(str(path))
    assert cfg.custom_hooks == [EMA]
    assert cfg.load_from == str(checkpoint) and cfg.resume is False
    assert set(torch.load(checkpoint)) == {'meta', 'state_dict'}
    assert 'block_heads' in torch.load(checkpoint)['meta']['cfg']
    cfg.custom_hooks = [dict(type='SparsityAdaptationHook')]
    cfg.work_dir = str(tmp_path)
    runner, spy = build_runner(cfg), Spy()
    runner.register_hook(spy)
    runner.train()
    assert len(set(spy.draws.values())) > 2


@pytest.mark.slow
def test_it_is_exported(compacted, tmp_path):
    pytest.importorskip('onnx'), pytest.importorskip('onnxscript')
    pytest.importorskip('onnxruntime')
    from sparsevit_mm.deploy import check_onnx, export_onnx
    _, after = backbones(compacted)
    for ratio in (0., .5):
        after.sparsity = ratio
        export_onnx(after, tmp_path / 'small.onnx', (16, 16))
        assert check_onnx(tmp_path / 'small.onnx', after, [1], range(2)) < 1e-3


def test_what_is_there_is_not_replaced_unasked(compacted):
    config, checkpoint = compacted[0]
    out = compacted[1][0]
    message = refused('compact_model', config, checkpoint, '-o', out)
    assert 'small.py' in message and '--overwrite' in message
    held = out.read_text()
    assert run_tool('compact_model', config, checkpoint, '-o', out, '--overwrite').code == 0
    assert out.read_text() == held
    assert 'is the config itself' in refused('compact_model', config, checkpoint, '-o', config)
    assert 'must end in .py' in refused('compact_model', config, checkpoint, '-o', 'a.json')
    assert 'is the checkpoint itself' in refused(
        'compact_model', config, checkpoint, '-o', checkpoint.with_suffix('.py'))


def test_weights_of_the_dense_model_are_not_loaded(tmp_path):
    pretrained = dict(type='Pretrained', checkpoint='dense.pth')
    config, checkpoint = trained(tmp_path, SWIN)
    config.write_text(config.read_text().replace(
        "type='SparseSwinTransformer'", f"init_cfg={pretrained}, type='SparseSwinTransformer'"))
    assert run_tool('compact_model', config, checkpoint, '-o', tmp_path / 'small.py').code == 0
    assert load_config(str(tmp_path / 'small.py')).model.backbone.init_cfg is None


def test_a_model_that_was_never_structured_is_refused(tmp_path):
    config, checkpoint = trained(tmp_path, SWIN, ())
    message = refused('compact_model', config, checkpoint, '-o', tmp_path / 'small.py')
    assert 'was never trained with structured sparsity' in message
    assert not (tmp_path / 'small.py').exists() and not (tmp_path / 'small.pth').exists()


def test_masks_of_another_training_are_refused(tmp_path):
    config, path = trained(tmp_path, SWIN)
    checkpoint = torch.load(path)
    weight = checkpoint['state_dict']['backbone.stages.1.blocks.0.ffn.layers.1.weight']
    weight.fill_(1.)
    torch.save(checkpoint, path)
    assert 'stages.1.blocks.0.neurons: 39 of 39 masked units' in (
        refused('compact_model', config, path, '-o', tmp_path / 'small.py'))
    masks = checkpoint['structured_sparse_training']
    masks['masks']['head.heads'] = masks['masks'].pop('backbone.stages.0.blocks.0.heads')
    torch.save(checkpoint, path)
    assert 'head.heads is masked' in (
        refused('compact_model', config, path, '-o', tmp_path / 'small.py'))


@pytest.mark.parametrize('change, message', [
    (("type='SparseSwinTransformer'", "type='ResNet'"), '0 sparse backbones'),
    (('embed_dims=8', 'embed_dims=16'), 'does not fit')])
def test_configs_that_do_not_fit_are_refused(tmp_path, change, message):
    config, checkpoint = trained(tmp_path, SWIN)
    config.write_text(config.read_text().replace(*change))
    assert message in refused('compact_model', config, checkpoint, '-o', tmp_path / 'small.py')


def test_new_style_configs_are_refused(tmp_path):
    config, checkpoint = trained(tmp_path, SWIN)
    (tmp_path / 'new.py').write_text('from mmengine.config import read_base\nwith read_base():\n'
                                     '    from .trained import *\n')
    assert 'new-style config' in refused('compact_model', tmp_path / 'new.py', checkpoint)

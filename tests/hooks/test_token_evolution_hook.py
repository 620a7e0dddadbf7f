import pytest
from helpers import build_runner, toy_config, train_toy
from mmengine.registry import HOOKS

from sparsevit_mm import EvoVisionTransformer

VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=8, num_layers=6,
           num_heads=2, sparsity=[0, 0, .5, .5, .8, .8])
HOOK = dict(type='TokenEvolutionHook')


class Watch:
    """What each training iteration chose by."""

    def __new__(cls):
        from mmengine.hooks import Hook

        class Kept(Hook):
            priority = 'LOWEST'

            def __init__(self):
                self.seen = []

            def after_train_iter(self, runner, *_, **__):
                self.seen.append(runner.model.backbone.reselect)
        return Kept()


def train(work_dir, **changes):
    runner, watch = build_runner(toy_config(work_dir, **{
        'model': dict(type='ToyModel', backbone=VIT), 'custom_hooks': [HOOK], **changes})), Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch.seen


def test_the_last_third_is_stage_wise_and_so_is_what_follows(tmp_path):
    runner, seen = train(tmp_path)
    assert seen == ['layer'] * 4 + ['stage'] * 2
    backbone = runner.model.backbone
    assert backbone.reselect == 'stage'
    assert backbone.sparsity.to_list() == [[0, 0], [.5, .5], [.8, .8]]


def test_a_resumed_training_goes_on_in_its_phase(tmp_path):
    train(tmp_path, train_cfg=dict(by_epoch=False, max_iters=3, val_interval=3))
    _, seen = train(tmp_path, resume=True)
    assert seen == ['layer', 'stage', 'stage']


def test_it_adapts_too(tmp_path):
    _, spy = train_toy(tmp_path, model=dict(type='ToyModel', backbone=VIT),
                       custom_hooks=[dict(type='SparsityAdaptationHook', distillation=.5)])
    assert len(set(spy.draws.values())) > 2
    assert all(config.ratios[0][:2] == (0, 0) for config in spy.draws.values())


@pytest.mark.parametrize('model, hook, named', [
    (dict(VIT, sparsity=[0, 0, .5, .6, .8, .8]), HOOK, 'stage 1'),
    (None, HOOK, 'a SparseSwinTransformer')])
def test_what_it_can_not_train_is_refused_before_the_first_iteration(tmp_path, model, hook, named):
    changes = {} if model is None else dict(model=dict(type='ToyModel', backbone=model))
    runner = build_runner(toy_config(tmp_path, custom_hooks=[hook], **changes))
    with pytest.raises(ValueError, match=named):
        runner.train()


def test_a_share_outside_is_refused():
    with pytest.raises(ValueError, match='layer_wise is 1.5'):
        HOOKS.build(dict(HOOK, layer_wise=1.5))


def test_the_way_of_choosing_can_be_changed_on_a_built_model():
    model = EvoVisionTransformer(**{k: v for k, v in VIT.items() if k != 'type'})
    model.reselect = 'stage'
    assert model.depths == (2, 2, 2) and model.space.num_genes == 2
    model.reselect = 'layer'
    assert model.depths == (6, ) and model.sparsity.to_list() == [VIT['sparsity']]
    model.sparsity = [0, 0, .5, .4, .5, .5]
    with pytest.raises(ValueError, match='stage 1'):
        model.reselect = 'stage'
    assert model.reselect == 'layer'


def test_levit_goes_the_same_way(tmp_path):
    levit = dict(type='EvoLeViT', img_size=16, dense_layers=1, sparsity=.5, arch=dict(
        embed_dims=(16, 16, 16), num_heads=(1, 1, 1), depths=(2, 1, 1), key_dims=8))
    runner, seen = train(tmp_path, model=dict(type='ToyModel', backbone=levit))
    assert seen == ['layer'] * 4 + ['stage'] * 2
    assert runner.model.backbone.depths == (2, 1, 1)

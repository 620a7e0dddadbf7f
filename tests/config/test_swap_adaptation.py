"""Swapped configs that adapt: the hook, its schedule, and what it starts from."""
import pytest

from sparsevit_mm.config.reading import load_config

SHIPPED = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
SWIN = dict(type='SwinTransformer', embed_dims=8, num_heads=(1, 2, 4, 8))
HOOKS = [dict(type='EMAHook', momentum=.1), dict(type='NumClassCheckHook')]
ADAPT = dict(type='SparsityAdaptationHook', distillation=1.)


@pytest.mark.parametrize('settings, adapted', [
    ({}, [ADAPT]), (dict(custom_hooks=None), [ADAPT]),
    (dict(custom_hooks=HOOKS), [*HOOKS, ADAPT]),
    (dict(custom_hooks=[dict(ADAPT, seed=4), *HOOKS]), [dict(ADAPT, seed=4), *HOOKS])])
def test_adaptation_is_appended_once_and_other_hooks_are_kept(settings, adapted, write, swapped):
    config = write(model=dict(type='A', backbone=SWIN), **settings)
    child, plain = swapped(config, adapt=True), swapped(config, 'plain.py')
    assert child.custom_hooks == adapted
    assert child.model.backbone.get('skipped') == ('linear' if ADAPT in adapted else None)
    assert plain.get('custom_hooks') == settings.get('custom_hooks')
    assert 'skipped' not in plain.model.backbone


def without_scopes(value):
    if isinstance(value, dict):
        return {k: without_scopes(v) for k, v in value.items() if k != '_scope_'}
    return [without_scopes(v) for v in value] if isinstance(value, list) else value


def test_adaptation_gets_its_own_schedule_and_starts_from_the_dense_model(swapped):
    """A third of the epochs, a tenth of the rate; the warm-up stays."""
    child, base = swapped(SHIPPED, adapt=True), load_config(SHIPPED)
    assert base.train_cfg.max_epochs == 12 and child.train_cfg.max_epochs == 4
    assert child.optim_wrapper.optimizer.lr == pytest.approx(base.optim_wrapper.optimizer.lr / 10)
    assert child.optim_wrapper.optimizer.type == base.optim_wrapper.optimizer.type
    warm, steps = child.param_scheduler
    assert warm == base.param_scheduler[0]
    assert (steps.end, steps.milestones) == (4, [3, 4])
    assert child.load_from is None
    plain = swapped(SHIPPED, 'plain.py')
    for key in ('train_cfg', 'optim_wrapper', 'param_scheduler'):
        assert without_scopes(plain.to_dict()[key]) == base.to_dict()[key]


def test_a_semi_supervised_model_is_not_adapted(write, swapped):
    model = dict(type='SoftTeacher', detector=dict(backbone=dict(type='SwinTransformer')),
                 semi_train_cfg=dict(freeze_teacher=True))
    config = write(model=model)
    assert swapped(config, 'plain.py').model.detector.backbone.type == 'SparseSwinTransformer'
    with pytest.raises(ValueError, match='two, of student and teacher'):
        swapped(config, adapt=True)


def test_an_adaptation_loads_no_pretraining_that_the_model_names(write, swapped):
    """As mmseg's segmentors name it for their backbone."""
    config = write(model=dict(type='EncoderDecoder', pretrained='imagenet.pth',
                              backbone=dict(type='SwinTransformer', pretrained=None)))
    assert swapped(config, adapt=True).model.pretrained is None
    assert swapped(config, 'plain.py').model.pretrained == 'imagenet.pth'

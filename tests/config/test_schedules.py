"""Schedules of adaptation and fine-tuning follow from the training's."""
import pytest

from sparsevit_mm.config.schedules import adaptation_schedule, finetune_schedule

ITERS = dict(
    train_dataloader=dict(dataset=dict(type='CityscapesDataset')),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=90000, val_interval=60000),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=.01)),
    param_scheduler=[dict(type='LinearLR', begin=0, end=1500, by_epoch=False),
                     dict(type='PolyLR', begin=1500, end=90000, by_epoch=False)])
COCO = dict(
    train_dataloader=dict(dataset=dict(type='CocoDataset')), train_cfg=dict(max_epochs=12),
    optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-4)),
    param_scheduler=[dict(type='MultiStepLR', end=12, milestones=[8, 11])])


def test_iterations_and_what_is_counted_in_them_shrink_and_the_warm_up_stays():
    new = adaptation_schedule(ITERS)
    assert new['train_cfg'] == dict(type='IterBasedTrainLoop', max_iters=30000, val_interval=30000)
    assert new['optim_wrapper']['optimizer'] == dict(type='SGD', lr=pytest.approx(.001))
    assert new['param_scheduler'] == [ITERS['param_scheduler'][0],
                                      dict(type='PolyLR', begin=1500, end=30000, by_epoch=False)]
    assert ITERS['train_cfg']['max_iters'] == 90000  # left alone


def test_a_cosine_in_two_phases_shrinks_as_a_whole():
    new = adaptation_schedule(dict(COCO, train_cfg=dict(max_epochs=30), param_scheduler=[
        dict(type='CosineAnnealingLR', begin=15, end=30, T_max=15)]))
    assert new['param_scheduler'] == [dict(type='CosineAnnealingLR', begin=5, end=10, T_max=5)]


def test_what_the_config_does_not_state_is_left_out():
    assert adaptation_schedule({}) == {} == finetune_schedule({})
    assert adaptation_schedule(dict(train_cfg=dict(max_epochs=1)))['train_cfg']['max_epochs'] == 1


@pytest.mark.parametrize('optimizer, rate', [
    (dict(type='AdamW', lr=1e-4), 1e-5), (dict(type='SGD', lr=.02), .002)])
def test_the_published_rate_is_that_of_adamw(optimizer, rate):
    new = finetune_schedule(dict(COCO, optim_wrapper=dict(optimizer=optimizer)))
    assert new['optim_wrapper']['optimizer']['lr'] == pytest.approx(rate)
    assert new['train_cfg'] == dict(max_epochs=36)


def test_elsewhere_it_is_a_tenth_of_the_rate():
    assert finetune_schedule(ITERS) == dict(optim_wrapper=dict(optimizer=dict(
        lr=pytest.approx(.001))))


def test_the_lowest_rate_shrinks_with_the_rate():
    """Else it would lie above the first."""
    cosine = dict(type='CosineAnnealingLR', begin=0, end=30, T_max=30, eta_min=5e-5)
    cfg = dict(ITERS, param_scheduler=cosine)
    assert adaptation_schedule(cfg)['param_scheduler'] == [
        dict(cosine, end=10, T_max=10, eta_min=pytest.approx(5e-6))]
    assert finetune_schedule(cfg)['param_scheduler'] == [dict(cosine, eta_min=pytest.approx(5e-6))]
    assert cosine['eta_min'] == 5e-5


def test_validation_begins_within_the_shorter_training():
    cfg = dict(ITERS, train_cfg=dict(max_iters=90000, val_interval=5000, val_begin=60000,
                                     dynamic_intervals=[(85500, 900)]))
    assert adaptation_schedule(cfg)['train_cfg'] == dict(
        max_iters=30000, val_interval=5000, val_begin=20000, dynamic_intervals=[(28500, 900)])

"""What a sparse training leaves in a checkpoint, and what goes on from it."""
import re

import pytest
import torch
from sparse_toy import (BY_EPOCH, EMA, HOOK, OPTIMIZERS, SparseToy, check_laws, config, equal,
                        train)

from sparsevit_mm.config.building import build_runner


@pytest.mark.parametrize('changes', [{}, BY_EPOCH, dict(optim_wrapper=OPTIMIZERS['accumulated']),
                                     dict(custom_hooks=[HOOK, EMA])],
                         ids=['iterations', 'epochs', 'accumulated', 'averaged'])
def test_a_training_resumed_from_any_checkpoint_equals_the_unbroken_one_bit_by_bit(
        tmp_path, changes):
    whole, steps = train(tmp_path / 'whole', **changes)
    for path in sorted((tmp_path / 'whole').glob('*_[1-9].pth')):
        done = int(path.stem.split('_')[-1]) * (4 if changes is BY_EPOCH else 1)
        if done % 2 and 'optim_wrapper' in changes:
            continue  # mmengine loses what was accumulated
        torch.manual_seed(done)
        _, resumed = train(tmp_path / path.stem, resume=True, load_from=str(path), **changes)
        assert len(resumed) == len(steps) - done
        assert all(map(equal, resumed, steps[done:])), path
    assert len({step['masks']['fc1.weight'].numpy().tobytes() for step in steps}) > 2


def test_a_checkpoint_of_masks_to_start_from(tmp_path):
    """Without resume: the masks of layers that both have go on, others are drawn."""
    _, steps = train(tmp_path / 'first')
    path = str(tmp_path / 'first' / 'iter_10.pth')
    _, more = train(tmp_path / 'second', load_from=path, hook=dict(end=0, interval=5),
                    model=dict(unused=True))
    masks = dict(more[0]['masks'])
    assert 0 < masks.pop('unused.weight').float().mean() < 1
    assert equal(masks, steps[-1]['masks'])
    check_laws(more)


def test_dense_weights_to_start_from(tmp_path):
    build_runner(config(tmp_path / 'dense', custom_hooks=[])).train()
    path = tmp_path / 'dense' / 'iter_10.pth'
    _, steps = train(tmp_path / 'sparse', load_from=str(path))
    check_laws(steps)


def edited(path, edit):
    checkpoint = torch.load(path)
    edit(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


def set_weight(checkpoint):
    mask = SparseToy().fc2.weight > 9
    bits = checkpoint['sparse_training']['masks']['fc2.weight']
    assert mask.numel() == 8 * bits.numel()
    checkpoint['state_dict']['fc2.weight'].fill_(1.)


def rename(checkpoint):
    record = checkpoint['sparse_training']
    for held in (record['masks'], record['shapes']):
        held['fc9.weight'] = held.pop('fc2.weight')


def cut(checkpoint):
    record = checkpoint['sparse_training']
    record['masks']['fc2.weight'] = record['masks']['fc2.weight'][:7]


@pytest.mark.parametrize('edit, hook, message', [
    (lambda c: c.pop('sparse_training'), {}, 'holds no masks'),
    (lambda c: c['sparse_training'].update(world_size=8), {}, 'ran on 8 ranks, this one runs on 1'),
    (lambda c: None, dict(density=.5, interval=1),
     'other settings: density=0.4 there, 0.5 here; interval=2 there, 1 here'),
    (rename, {}, 'do not fit the model: fc2.weight of shape [16, 16] has none; no layer to mask is '
                 'fc9.weight of shape [16, 16]'),
    (lambda c: c['sparse_training']['shapes'].update({'fc2.weight': [16, 15]}), {},
     'fc2.weight is of shape [16, 15] there, [16, 16] here'),
    (cut, {}, 'fc2.weight: the mask of the checkpoint has 7 bytes instead of 32 for 256'),
    (set_weight, {}, 'fc2.weight: 98 weights outside the mask')],
    ids=['none', 'ranks', 'settings', 'names', 'shape', 'bytes', 'not zero'])
def test_a_checkpoint_that_can_not_be_resumed_is_refused(tmp_path, edit, hook, message):
    train(tmp_path / 'whole', train_cfg=dict(by_epoch=False, max_iters=4, val_interval=9))
    path = edited(tmp_path / 'whole' / 'iter_2.pth', edit)
    runner = build_runner(config(tmp_path / 'more', hook=hook, resume=True, load_from=path))
    started = []
    runner.model.register_forward_pre_hook(lambda *_: started.append(1))
    if '98 weights' in message:
        message = message.replace('98', r'\d+')
    else:
        message = re.escape(message)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not started

"""What a structured sparse training leaves in a checkpoint, and what goes on from it."""
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from sparse_toy import BY_EPOCH, EMA, OPTIMIZERS, equal
from torch import distributed as dist
from unit_toy import HOOK, SWIN, VIT, check_laws, config, train

from sparsevit_mm.config.building import build_runner


@pytest.mark.parametrize('changes', [dict(backbone=VIT), dict(backbone=SWIN), BY_EPOCH, dict(
    optim_wrapper=OPTIMIZERS['accumulated']),
    pytest.param(dict(custom_hooks=[HOOK, EMA]), marks=pytest.mark.slow)],
    ids=['vit', 'swin', 'epochs', 'accumulated', 'averaged'])
def test_a_training_resumed_from_any_checkpoint_equals_the_unbroken_one_bit_by_bit(
        tmp_path, changes):
    _, steps = train(tmp_path / 'whole', **changes)
    paths = sorted((tmp_path / 'whole').glob('*_[1-9].pth'))
    assert paths
    for path in paths:
        done = int(path.stem.split('_')[-1]) * (4 if changes is BY_EPOCH else 1)
        if done % 2 and 'optim_wrapper' in changes:
            continue  # mmengine loses what was accumulated
        torch.manual_seed(done)
        _, resumed = train(tmp_path / path.stem, resume=True, load_from=str(path), **changes)
        assert len(resumed) == len(steps) - done
        assert all(map(equal, resumed, steps[done:])), path
    assert not equal(steps[0]['masks'], steps[-1]['masks'])


def edited(path, edit):
    checkpoint = torch.load(path)
    edit(checkpoint)
    torch.save(checkpoint, path)
    return str(path)


RECORD = 'structured_sparse_training'


def rename(checkpoint):
    for held in (checkpoint[RECORD]['masks'], checkpoint[RECORD]['shapes']):
        held['backbone.layers.9.heads'] = held.pop('backbone.layers.0.heads')


@pytest.mark.parametrize('edit, hook, message', [
    (lambda c: c.pop(RECORD), {}, 'holds no masks'),
    (lambda c: c[RECORD].update(world_size=8), {}, 'ran on 8 ranks, this one runs on 1'),
    (lambda c: None, dict(head_density=.25), 'head_density=0.5 there, 0.25 here'),
    (rename, {}, r'backbone.layers.0.heads of shape \[4\] has none; no layer to mask is '),
    (lambda c: c[RECORD]['shapes'].update({'backbone.layers.0.neurons': [31]}), {},
     r'backbone.layers.0.neurons is of shape \[31\] there, \[32\] here'),
    (lambda c: c[RECORD]['masks']['backbone.layers.0.heads'].fill_(255), {},
     'backbone.layers.0.heads: .* 4 of 4 units, .* density 0.5 .* 2'),
    (lambda c: c['state_dict']['backbone.layers.1.ffn.layers.1.weight'].fill_(1.), {},
     r'backbone.layers.1.neurons: 208 weights outside the mask of the checkpoint are not zero')],
    ids=['none', 'ranks', 'settings', 'names', 'shape', 'counts', 'not zero'])
def test_a_checkpoint_that_can_not_be_resumed_is_refused(tmp_path, edit, hook, message):
    train(tmp_path / 'whole', train_cfg=dict(by_epoch=False, max_iters=4, val_interval=9))
    path = edited(tmp_path / 'whole' / 'iter_2.pth', edit)
    runner = build_runner(config(tmp_path / 'more', hook=hook, resume=True, load_from=path))
    started = []
    runner.model.register_forward_pre_hook(lambda *_: started.append(1))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not started


def test_masks_to_start_from(tmp_path):
    _, steps = train(tmp_path / 'first')
    path = str(tmp_path / 'first' / 'iter_10.pth')
    _, more = train(tmp_path / 'second', load_from=path, hook=dict(end=0, interval=5))
    assert equal(more[0]['masks'], steps[-1]['masks'])


def _train_rank(rank, port, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    runner, steps = train(folder / 'whole', launcher='pytorch')
    _, more = train(folder / 'more', launcher='pytorch', resume=True,
                    load_from=str(folder / 'whole' / 'iter_5.pth'))
    check_laws(runner, steps)
    torch.save(dict(steps=steps, more=more), folder / f'{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_equal_masks_and_resume_bit_by_bit(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    mp.start_processes(_train_rank, (port, tmp_path), nprocs=2, start_method='spawn')
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    assert all(equal(one['masks'], other['masks'])
               for one, other in zip(first['steps'], second['steps']))
    assert not equal(first['steps'][0]['masks'], first['steps'][-1]['masks'])
    for held in (first, second):
        assert len(held['more']) == 5
        assert all(map(equal, held['more'], held['steps'][5:]))

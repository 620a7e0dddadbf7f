"""Several processes through gloo, as torchrun would start them."""
import json
import os
import socket
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import toy_config
from mmengine.config import Config
from mmengine.registry import MODELS

from sparsevit_mm.evaluation.evaluator import Evaluator
from sparsevit_mm.evaluation.in_step import InStep
from sparsevit_mm.evaluation.subset import restrict_to_subset

SPARSITIES = (.5, [[.2, .2], .6], 0)


def enter(rank, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)


def start(how, function, *args):
    """Runs ``function(rank, port, *args)`` in two processes; the first error ends both."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    both = mp.start_processes(function, (port, *args), nprocs=2, join=False, start_method=how)
    end = time.monotonic() + 1200
    while not both.join(timeout=1):
        if time.monotonic() > end:
            for process in both.processes:
                process.kill()
            pytest.fail('the processes wait for each other')


def configs(work_dir, **changes):
    """The main data, of 7 images, and 3 others; neither fills two ranks."""
    main = toy_config(work_dir, **changes)
    main.val_dataloader.batch_size = 1  # ToyModel's output depends on its batch
    main.val_dataloader.dataset.length = 7
    look = deepcopy(main)
    look.val_dataloader.dataset.length = 3
    return main, look


def evaluate_all(evaluate, look):
    return [call(s) for s in SPARSITIES for call in (look, evaluate, evaluate)]


def _evaluate_in_step(rank, port, folder, checkpoint):
    enter(rank, port)
    os.chdir(folder)  # mmengine collects through a folder here
    main, small = configs(folder, launcher='pytorch')
    evaluator = Evaluator(main, checkpoint)
    look, batches = evaluator.on(small), []
    evaluator.backbone.register_forward_pre_hook(lambda *_: batches.append(1))
    notes = {}
    if rank == 0:
        with evaluator:
            notes['metrics'] = evaluate_all(evaluator.evaluate, look)
            with pytest.raises(ValueError, match='outside'):
                evaluator.evaluate(2.)  # refused before any rank hears of it
            evaluator.stop()  # as often as one likes
        with pytest.raises(RuntimeError, match='stop'):
            evaluator.evaluate(0)
    else:
        with pytest.raises(RuntimeError, match='this is rank 1'):
            evaluator.evaluate(0)
        evaluator.serve()

    # Again, and rank 0 ends by an error.
    again = InStep(batches.append)
    if rank == 0:
        with pytest.raises(KeyError, match='mine'), again:
            again(1)
            raise KeyError('mine')
    else:
        again.serve()
    notes['batches'] = len(batches)
    (folder / f'{rank}.json').write_text(json.dumps(notes))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without CUDA')
def test_two_ranks_give_the_metrics_of_one_and_share_the_images(tmp_path):
    main, small = configs(tmp_path / 'alone')
    torch.save(MODELS.build(main.model).state_dict(), tmp_path / 'weights.pth')
    evaluator = Evaluator(main, str(tmp_path / 'weights.pth'))
    expected = evaluate_all(evaluator.evaluate, evaluator.on(small))

    start('spawn', _evaluate_in_step, tmp_path, str(tmp_path / 'weights.pth'))
    first, second = (json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1))
    assert first['metrics'] == expected
    assert len({m['toy/output'] for m in expected}) == 6
    # Of 3 images two a rank, of 7 four; and the call that was not an evaluation.
    assert first['batches'] == second['batches'] == 3 * (2 + 4 + 4) + 1


def _fail(rank, port, failing, folder):
    enter(rank, port)
    dist.init_process_group('gloo')

    def together(count):
        if count == 2 and rank == failing:
            raise ValueError(f'rank {rank} can not')
        dist.barrier()

    in_step = InStep(together)
    try:
        with in_step:
            if rank == 0:
                in_step(1), in_step(2), in_step(3)
            in_step.serve()
    finally:
        (folder / f'{rank}').write_text('ended')


@pytest.mark.parametrize('failing', [0, 1])
def test_error_of_any_rank_within_a_step_ends_all(failing, tmp_path):
    with pytest.raises(mp.ProcessRaisedException, match=f'rank {failing} can not|closed by peer'):
        start('fork', _fail, failing, tmp_path)
    assert (tmp_path / f'{failing}').exists()


def test_one_process_needs_no_group_and_calls_at_once():
    calls = []
    with InStep(lambda *args: calls.append(args) or len(calls)) as in_step:
        assert [in_step('a', 1), in_step('b', 2)] == [1, 2]
        in_step.serve()
    in_step.stop()
    assert in_step('c') == 3 and calls == [('a', 1), ('b', 2), ('c', )]
    assert not dist.is_initialized()


def test_processes_may_write_the_same_subset_at_once(tmp_path, monkeypatch):
    ann_file = tmp_path / 'val.json'
    ann_file.write_text(json.dumps(dict(
        images=[dict(id=i) for i in range(9)], categories=[dict(id=1, name='a')],
        annotations=[dict(id=i, image_id=i, category_id=1) for i in range(9)])))

    def restrict():
        dataset = dict(type='CocoDataset', ann_file='', pipeline=[],
                       metainfo=dict(classes=('a', )))
        cfg = Config(dict(
            default_scope='mmdet', val_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type='CocoMetric', ann_file=str(ann_file))))
        restrict_to_subset(cfg, 'val', 4, 0, str(tmp_path / 'subsets'))
        return Path(cfg.val_evaluator.ann_file)

    replace, others = Path.replace, []

    def replace_after_another(self, target):
        if not others:
            others.append('begun')
            others.append(restrict())
        assert self != target  # only a whole file may have the name
        return replace(self, target)

    monkeypatch.setattr(Path, 'replace', replace_after_another)
    path = restrict()
    assert others[1] == path and len(json.loads(path.read_text())['images']) == 4
    assert os.listdir(tmp_path / 'subsets') == [path.name]

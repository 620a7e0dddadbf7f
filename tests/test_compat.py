"""Undocumented parts of libraries: a failure here names what a new version took away."""
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from optuna.samplers import NSGAIISampler
from optuna.storages.journal import JournalFileOpenLock
from optuna.study import create_study
from torch import nn

from sparsevit_mm import compat


class Holder:
    value = 1


def test_an_attribute_is_replaced_and_comes_back():
    try:
        with compat.replaced(Holder, 'value', 2):
            assert Holder.value == 2
            raise KeyError
    except KeyError:
        pass
    assert Holder.value == 1


def test_mmengine_tells_styles_and_bases_of_configs(tmp_path):
    (tmp_path / 'base.py').write_text('a = 1')
    (tmp_path / 'old.py').write_text("_base_ = ['./base.py']")
    (tmp_path / 'new.py').write_text('from mmengine.config import read_base\n'
                                     'with read_base():\n    from .base import *')
    assert compat.is_lazy_config(str(tmp_path / 'new.py'))
    assert not compat.is_lazy_config(str(tmp_path / 'old.py'))
    assert list(compat.base_files(str(tmp_path / 'old.py'))) == [f'{tmp_path}/./base.py']


def test_mmengine_runner_has_a_val_loop_and_knows_whether_it_resumes(tmp_path):
    runner = Runner.from_cfg(Config(dict(
        model=dict(type='BaseDataPreprocessor'), work_dir=str(tmp_path), resume=True)))
    assert compat.is_resuming(runner)
    with compat.val_loop_is(runner, 'another'):
        assert runner._val_loop == 'another'
    assert runner._val_loop is None


def test_mmengine_models_run_forward_by_mode():
    class Model(BaseModel):
        def forward(self, inputs, mode='tensor'):
            return inputs, mode
    assert compat.run_forward(Model(), dict(inputs=3), 'loss') == (3, 'loss')


def test_mmengine_optimizer_wrappers_know_how_many_batches_make_a_step():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), .1)
    assert compat.accumulative_counts(OptimWrapper(optimizer, accumulative_counts=3)) == 3


def test_optuna_has_ids_locks_and_the_methods_of_a_genetic_algorithm(tmp_path):
    assert compat.trial_id(create_study().ask()) == 0
    lock = JournalFileOpenLock(str(tmp_path / 'journal'))
    lock.acquire()
    with open(compat.lock_file(lock)):
        lock.release()
    assert all(callable(getattr(NSGAIISampler, name)) for name in compat.GA_METHODS)


def test_torch_has_a_timer_threads_hooks_and_gelu_in_place():
    assert compat.timer() <= compat.timer()
    number = torch.get_num_threads()
    with compat.torch_threads(number + 1):
        assert torch.get_num_threads() == number + 1
    assert torch.get_num_threads() == number
    layer = nn.Sequential(nn.Linear(1, 1))
    assert not compat.is_hooked(layer)
    handle = layer[0].register_forward_pre_hook(print)
    assert compat.is_hooked(layer) and compat.forward_pre_hooks(layer[0]) == (print, )
    handle.remove()
    x = torch.randn(5)
    expected = nn.functional.gelu(x)
    assert compat.gelu_(x, 'none') is x and torch.equal(x, expected)
    assert not compat.is_compiling()
    assert compat.assume_constant_result(lambda: 3)() == 3

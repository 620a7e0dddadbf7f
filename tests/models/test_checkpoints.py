"""Checkpoints that mmengine wrote load with torch's check on; nothing that could run code does."""
import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmengine.utils import digit_version
from torch import nn
from torch.utils.data import DataLoader

from sparsevit_mm.models.checkpoints import check_fits, read_checkpoint

checked = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6.0'), reason='torch checks since 2.6')


@pytest.fixture(scope='module')
def trained(tiny_detector, tmp_path_factory):
    """(config, checkpoint): a detector trained for two iterations by mmengine's Runner."""
    pytest.importorskip('mmdet')
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.structures import InstanceData
    register_all_modules()

    def sample():
        truth = InstanceData(bboxes=torch.tensor([[4., 4., 30., 30.]]), labels=torch.tensor([1]))
        sample = DetDataSample(gt_instances=truth, metainfo=dict(
            img_shape=(40, 48), pad_shape=(40, 48), batch_input_shape=(40, 48)))
        return dict(inputs=torch.full((3, 40, 48), 90, dtype=torch.uint8), data_samples=sample)

    work_dir = tmp_path_factory.mktemp('trained')
    Runner(
        model=deepcopy(tiny_detector['model']),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(
            [sample(), sample()], batch_size=1, collate_fn=pseudo_collate),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        default_scope='mmdet',
        experiment_name='trained').train()
    path = work_dir / 'detector.py'
    Config(tiny_detector).dump(str(path))
    return path, work_dir / 'epoch_1.pth'


@checked
def test_a_runners_checkpoint_holds_what_torch_would_refuse(trained):
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        asked = torch.serialization.get_unsafe_globals_in_checkpoint(trained[1])
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert 'mmengine.logging.history_buffer.HistoryBuffer' in asked
    assert 'builtins.getattr' in asked


def test_a_runners_checkpoint_loads_under_the_check(trained):
    _, path = trained
    loaded = torch.load(path, weights_only=True)
    assert loaded.keys() == read_checkpoint(str(path)).keys()
    history = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert np.isfinite(history.data[0]).all() and history.current() > 0
    assert loaded['meta']['iter'] == 2


def test_a_runners_checkpoint_serves_init_detector(trained):
    from mmdet.apis import init_detector
    config, path = trained
    model = init_detector(str(config), str(path), device='cpu', palette='random')
    state = read_checkpoint(str(path))['state_dict']
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    check_fits(model, str(path))


class Reduced:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def save(tmp_path):

    def write(content):
        path = tmp_path / 'checkpoint.pth'
        torch.save(content, path)
        return str(path)

    return write


@checked
def test_a_class_that_could_run_code_is_refused_by_name(save, tmp_path):
    path = save(dict(state_dict={}, extra=Reduced(os.mkdir, str(tmp_path / 'harm'))))
    with pytest.raises(ValueError, match=f'{path} is refused: .*mkdir') as error:
        read_checkpoint(path)
    assert not (tmp_path / 'harm').exists()
    assert 'weights_only' not in str(error.value), 'no advice to switch the check off'


@checked
@pytest.mark.parametrize('owner, name', [
    (HistoryBuffer, '__init__'), (HistoryBuffer, '_set_default_statistics'),
    (HistoryBuffer, '__subclasses__'), (np.ndarray, 'tofile'), (np.dtype, 'type'),
    (torch.Tensor, 'numpy')])
def test_getattr_serves_no_other_name(save, owner, name):
    path = save(dict(state_dict={}, extra=Reduced(getattr, owner, name)))
    with pytest.raises(ValueError, match=path):
        read_checkpoint(path)


@checked
@pytest.mark.parametrize('name', ['mean', 'current', 'min', 'max', 'statistics', 'update'])
def test_getattr_serves_the_public_names_of_history_buffer(save, name):
    path = save(dict(state_dict={}, extra=Reduced(getattr, HistoryBuffer, name)))
    assert read_checkpoint(path)['extra'] == getattr(HistoryBuffer, name)


@pytest.mark.parametrize('kind', ['f2', 'f4', 'f8', 'i4', 'i8', 'u1', 'b1'])
def test_numpy_values_load(save, kind):
    array = np.array([0, 1, 1]).astype(kind)
    loaded = read_checkpoint(save(dict(array=array, scalar=array[1])))
    assert loaded['array'].dtype == loaded['scalar'].dtype == array.dtype
    assert (loaded['array'] == array).all() and loaded['scalar'] == array[1]


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04', 'cut short'])
def test_a_broken_file_is_named(save, content):
    path = save(dict(weight=torch.zeros(999)))
    whole = open(path, 'rb').read()
    with open(path, 'wb') as file:
        file.write(whole[:len(whole) // 2] if content == 'cut short' else content)
    with pytest.raises(ValueError, match=path):
        read_checkpoint(path)


@pytest.mark.parametrize('path', ['no/such.pth', 'http://127.0.0.1:9/none.pth', '.'])
def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=path):
        read_checkpoint(path)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('nested', [True, False])
def test_a_models_own_weights_fit(model, save, prefix, nested):
    state = {prefix + k: v for k, v in model.state_dict().items()}
    check_fits(model, save(dict(state_dict=state) if nested else state))


@pytest.mark.parametrize('damage, named', [
    (lambda state: state.pop('0.bias'), ['missing: 0.bias']),
    (lambda state: state.pop('1.running_mean'), ['missing: 1.running_mean']),
    (lambda state: state.update(more=torch.zeros(1)), ['unexpected: more']),
    (lambda state: state.update({'0.bias': torch.zeros(1, 3)}),
     ['of another shape: 0.bias: (1, 3) in the file, (3,) in the model']),
    (lambda state: state.update(a=state.pop('0.bias'), b=state.pop('0.weight')),
     ['missing: 0.bias, 0.weight', 'unexpected: a, b']),
])
def test_what_does_not_fit_is_listed(model, save, damage, named):
    state = model.state_dict()
    damage(state)
    path = save(dict(state_dict=state))
    with pytest.raises(ValueError) as error:
        check_fits(model, path)
    for part in (path, 'Sequential', *named):
        assert part in str(error.value)
    kinds = ('missing', 'unexpected', 'of another shape')
    assert sum(f'{kind}:' in str(error.value) for kind in kinds) == len(named)


@pytest.mark.parametrize('content', [torch.zeros(3), [1, 2], 'text', dict(state_dict=[1, 2])])
def test_a_file_without_a_state_dict_is_named(model, save, content):
    path = save(content)
    with pytest.raises(ValueError, match=path):
        check_fits(model, path)

"""The hook in a Runner: what it draws, when, and that it leaves nothing behind."""
import mmcv
import numpy as np
import pytest
import torch
from helpers import ToyModel, toy_config, train_toy
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset

from sparsevit_mm.config.building import build_runner
from sparsevit_mm.models import SparseBackbone
from sparsevit_mm.visualization import KeptWindowsHook, kept_windows_hook


@MODELS.register_module(force=True)
class SampleModel(ToyModel):
    """Predicts the data samples it is given, as detectors do."""

    def forward(self, inputs, samples=None, mode='tensor'):
        if mode == 'loss':
            return super().forward(inputs, mode)
        super().forward(torch.stack(inputs), mode)
        return samples


@DATASETS.register_module(force=True)
class SampleDataset(Dataset):
    """Images on disk, half the size that the network sees."""
    metainfo = dict(classes=('a', ))

    def __init__(self, folder, carried=('img_path', 'img_shape'), length=5, cameras=False):
        self.folder, self.carried, self.length = folder, carried, length
        self.cameras = cameras

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        path = f'{self.folder}/{index}.png'
        mmcv.imwrite(np.full((16, 16, 3), 40 * index, dtype=np.uint8), path)
        metainfo = dict(img_path=[path] * 6 if self.cameras else path, ori_shape=(16, 16),
                        img_shape=(32, 32))
        sample = BaseDataElement(metainfo={k: metainfo[k] for k in self.carried})
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(3, 32, 32, generator=generator), samples=sample)


@METRICS.register_module(force=True)
class NoMetric(METRICS.get('ToyMetric')):

    def process(self, data_batch, data_samples):
        self.results += [dict(one=1.) for _ in data_samples]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: file name and sparsity, blocks run at each pixel."""
    seen = []

    def panel(painter, image, stages, title, *samples):
        seen.append((title, [stage.run for stage in stages]))
        return np.full((9, 16, 3), 30 * len(seen), dtype=np.uint8)

    monkeypatch.setattr(kept_windows_hook.PanelPainter, 'panel', panel)
    return seen


def settings(folder, num_images=3, hooks=(), **dataset):
    """Validation in batches of two, after the third and the sixth of six iterations."""
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='pseudo_collate'),
                  sampler=dict(type='DefaultSampler', shuffle=False),
                  dataset=dict(type='SampleDataset', folder=str(folder), **dataset))
    model = toy_config(folder).model
    return dict(
        model=dict(type='SampleModel', backbone=dict(model.backbone, sparsity=.5)),
        val_dataloader=loader, val_evaluator=dict(type='NoMetric'),
        test_dataloader=loader, test_evaluator=dict(type='NoMetric'), test_cfg=dict(),
        custom_hooks=[dict(type='KeptWindowsHook', num_images=num_images), *hooks],
        visualizer=dict(type='Visualizer', name=f'visualizer_{folder}', vis_backends=[
            dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]))


def events_of(folder):
    """Tag -> [(step, bytes of the PNG)], as TensorBoard reads them."""
    events = EventAccumulator(str(next(folder.glob('*/vis_data/events*'))),
                              size_guidance=dict(images=0))
    events.Reload()
    return {tag: [(image.step, image.encoded_image_string) for image in events.Images(tag)]
            for tag in events.Tags()['images']}


def test_panels_reach_tensorboard_and_disk_at_the_training_iteration(tmp_path):
    train_toy(tmp_path, **settings(tmp_path))
    events = events_of(tmp_path)
    assert sorted(events) == [f'val_kept_windows_{i}' for i in range(3)]
    for tag, images in events.items():
        assert [step for step, _ in images] == [3, 6]
        for step, content in images:
            file = next(tmp_path.glob(f'*/vis_data/vis_image/{tag}_{step}.png'))
            panel = mmcv.imfrombytes(content)
            assert np.array_equal(panel, mmcv.imread(file)) and panel.shape[1] == 1000


def test_the_first_images_are_drawn_with_the_windows_that_ran_in_them(tmp_path, drawn):
    runner, _ = train_toy(tmp_path, **settings(tmp_path))
    assert [title for title, _ in drawn] == [f'{i}.png, sparsity uniform 0.5' for i in range(3)] * 2
    dataset, model = runner.val_dataloader.dataset, runner.model.eval()
    for index, (_, runs) in enumerate(drawn[-3:]):
        with torch.no_grad(), model.backbone.recording() as maps:
            model.backbone(dataset[index]['inputs'][None])
        for run, blocks, side in zip(runs, maps, (1, 2)):  # the network saw twice the size
            expected = sum(block[0].numpy().astype(int) for block in blocks)
            assert np.array_equal(run, expected.repeat(side, 0).repeat(side, 1))
    assert not np.array_equal(drawn[-3][1][0], drawn[-2][1][0])


def test_only_the_images_drawn_are_recorded(tmp_path, drawn, monkeypatch):
    recorded, record = [], SparseBackbone.recording
    monkeypatch.setattr(SparseBackbone, 'recording',
                        lambda backbone: recorded.append(1) or record(backbone))
    runner, _ = train_toy(tmp_path, **settings(tmp_path, num_images=3))
    assert len(recorded) == 2 * 2  # two of three batches, in two validations
    backbone = runner.model.backbone
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert backbone.execution == 'eager'


def test_further_passes_of_the_adaptation_are_not_drawn(tmp_path, drawn):
    adaptation = dict(type='SparsityAdaptationHook', val_sparsity=dict(a=.75, b=0, c=.25))
    _, spy = train_toy(tmp_path, **settings(tmp_path, num_images=9, hooks=[adaptation]))
    titles = [title for title, _ in drawn]
    assert titles == [f'{i}.png, sparsity uniform 0.75' for i in range(5)] * 2
    assert [m['c/toy/one'] for m in spy.metrics] == [1, 1]


def test_a_test_run_is_drawn_as_a_validation_is(tmp_path, drawn):
    build_runner(toy_config(tmp_path, **settings(tmp_path, num_images=1))).test()
    assert [title for title, _ in drawn] == ['0.png, sparsity uniform 0.5']
    assert {tag: [step for step, _ in images] for tag, images in events_of(tmp_path).items()} == {
        'test_kept_windows_0': [0]}


@pytest.mark.parametrize('samples', [dict(carried=['img_shape']), dict(cameras=True)])
def test_training_goes_on_where_nothing_can_be_drawn(tmp_path, drawn, samples):
    runner, _ = train_toy(tmp_path, **settings(tmp_path, **samples))
    assert drawn == [] and runner.iter == 6
    assert not any(module._forward_pre_hooks for module in runner.model.backbone.modules())
    assert list(tmp_path.glob('*/vis_data/vis_image')) == []


def test_another_rank_draws_nothing(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(kept_windows_hook, 'is_main_process', lambda: False)
    train_toy(tmp_path, **settings(tmp_path))
    assert drawn == []


def test_a_number_of_images_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match='num_images is 0'):
        HOOKS.build(dict(type='KeptWindowsHook', num_images=0))


@pytest.mark.parametrize('toolkit', ['mmdet', 'mmseg'])
def test_the_hook_is_found_from_every_toolkit(toolkit):
    registry = pytest.importorskip(f'{toolkit}.registry')
    assert registry.HOOKS.get('KeptWindowsHook') is KeptWindowsHook

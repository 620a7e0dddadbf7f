"""Sparse training of a model of mmdet: frozen stages, heads that are called once per level, layers
without a gradient in some steps."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData
from sparse_toy import ADAMW, HOOK, Watch, config, state_of

from sparsevit_mm.config.building import build_runner


@DATASETS.register_module(force=True)
class OneBox(torch.utils.data.Dataset):

    def __len__(self):
        return 4

    def __getitem__(self, idx):
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        generator = torch.Generator().manual_seed(idx)
        image = torch.randint(0, 255, (3, 64, 64), generator=generator, dtype=torch.uint8)
        masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
        masks[:, 10:40, 10:50] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64),
                          batch_input_shape=(64, 64), scale_factor=(1., 1.), img_id=idx),
            gt_instances=InstanceData(
                bboxes=torch.tensor([[10., 10, 50, 40]]), labels=torch.tensor([idx % 2]),
                masks=BitmapMasks(masks.numpy(), 64, 64)))
        return dict(inputs=image, data_samples=sample)


def mask_rcnn():
    folder = Path(pytest.importorskip('mmdet').__file__).parent
    model = Config.fromfile(folder / '.mim/configs/_base_/models/mask-rcnn_r50_fpn.py').model
    model.backbone.update(depth=18, init_cfg=None, frozen_stages=1)
    model.neck.in_channels = [64, 128, 256, 512]
    return model


@pytest.mark.slow
def test_mask_rcnn(tmp_path):
    made = config(tmp_path, custom_hooks=[dict(HOOK, interval=1)])
    made.model, made.default_scope = mask_rcnn(), 'mmdet'
    made.train_dataloader.update(dataset=dict(type='OneBox'), batch_size=1,
                                 collate_fn=dict(type='pseudo_collate'))
    made.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=99)
    made.val_dataloader = made.val_evaluator = made.val_cfg = None
    made.default_hooks.checkpoint.interval = 99
    made.optim_wrapper = dict(ADAMW, clip_grad=dict(max_norm=1.))
    runner, watch = build_runner(made), Watch()
    runner.register_hook(watch)
    runner.train()
    masks = [step['masks'] for step in watch.steps]
    assert len(masks) == 4 and state_of(runner)
    assert not [name for name in masks[0] if name.startswith(('backbone.conv1', 'backbone.layer1'))]
    moved = [name for name in masks[0] if not torch.equal(masks[0][name], masks[-1][name])]
    assert any(name.startswith('backbone') for name in moved)
    for step in watch.steps:
        for name, mask in step['masks'].items():
            assert int(mask.sum()) == int(masks[0][name].sum())
            assert not any(value[~mask].any() for value in (
                step['weights'][name], *step['moments'][name].values())
                if value.shape == mask.shape)

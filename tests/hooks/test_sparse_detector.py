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


@pytest.mark.slow
def test_heads_and_neurons_of_a_mask_rcnn_move_and_are_taken_out(tmp_path):
    """Backbone by the interface, windows pruned at random ratios, weights outside it untouched."""
    import unit_toy

    from sparsevit_mm.config.building import build_backbone
    from sparsevit_mm.config.compact import compact_model
    from sparsevit_mm.config.reading import load_config
    adaptation = dict(type='SparsityAdaptationHook')
    made = config(tmp_path, custom_hooks=[dict(unit_toy.HOOK, interval=1), adaptation])
    made.model, made.default_scope = mask_rcnn(), 'mmdet'
    made.model.backbone = dict(type='SparseSwinTransformer', embed_dims=8, num_heads=(2, 2, 4, 4))
    made.model.neck.in_channels = [8, 16, 32, 64]
    made.train_dataloader.update(dataset=dict(type='OneBox'), batch_size=1,
                                 collate_fn=dict(type='pseudo_collate'))
    made.train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=99)
    made.val_dataloader = made.val_evaluator = made.val_cfg = None
    made.optim_wrapper = dict(ADAMW, clip_grad=dict(max_norm=1.))
    made.dump(tmp_path / 'trained.py')
    runner, watch = build_runner(made), Watch()
    runner.register_hook(watch)
    runner.train()
    unit_toy.check_laws(runner, watch.steps)
    first, last = watch.steps[0]['masks'], watch.steps[-1]['masks']
    for kind in ('heads', 'neurons'):
        assert any(not torch.equal(first[name], last[name]) for name in first if kind in name)
    done = compact_model(str(tmp_path / 'trained.py'), str(tmp_path / 'iter_5.pth'),
                         tmp_path / 'small.py')
    assert done.difference < 1e-5
    small = load_config(str(tmp_path / 'small.py'))
    assert small.custom_hooks == [adaptation]
    assert build_backbone(small, str(done.checkpoint)).attention_blocks()[0].ffn.layers[1].weight \
        .shape == (8, 19)

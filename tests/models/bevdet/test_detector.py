"""BEVDet as a whole, narrow: what goes in, what comes out, what is refused."""
from copy import deepcopy

import numpy as np
import pytest
import torch
from cameras import SIZE, random_cameras
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.models import get_sparse_backbone
from sparsevit_mm.models.bevdet.detector import batch_matrices
from sparsevit_mm.models.selection.ranking import Selection

CONFIG = 'demo/configs/bevdet_sparsevit-narrow_mini_nuscenes.py'


def sample(seed, boxes=((10., 5., -1., 4., 2., 1.5, 0.3, 1., 0.), )):
    cameras, sample = random_cameras(seed), Det3DDataSample()
    sample.set_metainfo(dict(
        token=f'token{seed}', sample_idx=seed, img_shape=SIZE, box_type_3d=LiDARInstance3DBoxes,
        cam2img=cameras.cam2img, lidar2cam=cameras.lidar2cam, img_aug_matrix=cameras.img_aug,
        bev_aug_matrix=cameras.bev_aug))
    boxes = torch.tensor(boxes).view(-1, 9)
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9),
        labels_3d=torch.zeros(len(boxes), dtype=torch.long))
    return sample


@pytest.fixture(scope='module')
def built():
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    return MODELS.build(load_config(CONFIG).model)


@pytest.fixture
def model(built):
    return deepcopy(built).eval()


@pytest.fixture
def images():
    return torch.randn(2, 6, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_every_parameter_learns(model, images):
    losses = model.train()(dict(imgs=images), [sample(0), sample(1)], mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_frames_without_boxes_train_as_well(model, images):
    losses = model.train()(dict(imgs=images), [sample(0, ()), sample(1, ())], mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_predictions_of_a_batch_are_those_of_its_samples(model, images):
    model.pts_bbox_head.bbox_coder.score_threshold = 0.
    model.pts_bbox_head.bbox_coder.max_num = 30
    model.pts_bbox_head.test_cfg['score_threshold'] = 0.
    both = model(dict(imgs=images), [sample(0), sample(1)], mode='predict')
    for i in range(2):
        alone, = model(dict(imgs=images[i:i + 1]), [sample(i)], mode='predict')
        boxes = alone.pred_instances_3d.bboxes_3d.tensor
        assert boxes.shape[0] > 50 and boxes.shape[1] == 9
        torch.testing.assert_close(
            both[i].pred_instances_3d.bboxes_3d.tensor, boxes, atol=1e-3, rtol=1e-3)


def test_what_cameras_see_moves_with_the_scene(model, images):
    """The view transform alone must know of the augmentation of the scene."""
    turned = sample(0)
    turned.set_metainfo(dict(bev_aug_matrix=np.diag([1., -1, 1, 1]) @ turned.bev_aug_matrix))
    straight = sample(0)
    stage = {}
    model.img_view_transformer.register_forward_hook(lambda m, i, out: stage.update(bev=out))
    with torch.no_grad():
        model.extract_feat(images[:1], [straight])
        before = stage['bev']
        model.extract_feat(images[:1], [turned])
    # y -> -y turns rows round; points on an edge between cells may fall on its other side.
    moved = (before.flip(2) - stage['bev']).abs().amax(1) > 1e-4
    assert moved.float().mean() < 1e-3
    assert before.abs().amax(1).gt(1e-4).float().mean() > 0.05


def test_a_missing_augmentation_of_the_scene_is_none(images):
    straight, still = sample(0), Det3DDataSample()
    straight.set_metainfo(dict(bev_aug_matrix=np.eye(4)))
    still.set_metainfo({k: v for k, v in straight.metainfo.items() if k != 'bev_aug_matrix'})
    assert torch.equal(batch_matrices([straight], images), batch_matrices([still], images))


@pytest.mark.parametrize('change, named', [
    (dict(img_shape=(64, 160)), r'sample token1 has images of \(64, 160\).*\(64, 176\)'),
    (dict(cam2img=np.eye(3)[None].repeat(5, 0)), 'sample token1 has 5 cam2img.* 6')])
def test_a_batch_of_mixed_sizes_or_cameras_is_refused(model, images, change, named):
    odd = sample(1)
    odd.set_metainfo(change)
    with pytest.raises(ValueError, match=named):
        model(dict(imgs=images), [sample(0), odd], mode='predict')


def test_metadata_that_the_pipeline_dropped_are_named(images):
    bare = Det3DDataSample(metainfo=dict(token='abc', img_shape=SIZE))
    with pytest.raises(ValueError, match='sample abc has no cam2img.*Pack3DDetInputs'):
        batch_matrices([bare], images[:1])


def test_dense_equals_mmdets_swin_and_sparsity_can_be_set(model, images):
    swin = load_config(CONFIG.replace('sparsevit', 'swin')).model
    stock = MODELS.build(swin)
    stock.load_state_dict({k: v for k, v in model.state_dict().items() if '.bypass.' not in k})
    stock.eval()
    samples = [sample(0), sample(1)]
    with torch.no_grad():
        dense = model.extract_feat(images, samples)
        torch.testing.assert_close(stock.extract_feat(images, samples), dense, atol=1e-4, rtol=1e-4)
        get_sparse_backbone(model).sparsity = 0.5
        assert not torch.allclose(model.extract_feat(images, samples), dense, atol=1e-3)


def test_untrained_heatmaps_are_nearly_empty(model, images):
    """The focal loss starts from a tenth; without that bias it is large and swamps the rest."""
    model.init_weights()
    with torch.no_grad():
        heads = model.pts_bbox_head([model.extract_feat(images, [sample(0), sample(1)])])
    heat = torch.cat([head['heatmap'].sigmoid().flatten() for head, in heads])
    assert 0.05 < heat.median() < 0.2


def test_the_views_of_a_frame_are_a_group(model, images):
    """Their number comes from the detector; bright views get more windows than dark ones, all
    frames as many."""
    backbone = get_sparse_backbone(model)
    backbone.sparsity, backbone.selection = .6, Selection(scope='group')
    samples = [sample(0), sample(1)]
    images = images * torch.arange(1, 7)[:, None, None, None]  # brighter from view to view
    with torch.no_grad(), backbone.recording() as maps:
        model(dict(imgs=images), samples, mode='tensor')
    number = maps[0][0].flatten(1).sum(1)
    for frame in number.split(6):
        assert frame[5] > frame[0]
        assert frame.sum() == number[:6].sum()
    with pytest.raises(ValueError, match="scope 'group' has no group size for a batch of 12"):
        backbone(images.flatten(0, 1))

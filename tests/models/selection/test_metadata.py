"""What the backbone learns from the toolkits' data samples, and that padding runs last."""
import pickle
import warnings
from copy import deepcopy
from inspect import signature
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from sparsevit_mm.models.selection.metadata import ToldBatch, read_call
from sparsevit_mm.models.selection.ranking import Selection, valid_windows
from sparsevit_mm.models.windows import partition

PATCH = 4


def sample(shape=None, **meta):
    return SimpleNamespace(metainfo=dict(meta, **({} if shape is None else {'img_shape': shape})))


class Model(BaseModel):
    """A model of mm's kind; its backbone may lie deeper."""

    def __init__(self, backbone, wrapped=False):
        super().__init__()
        self.backbone = nn.Sequential(backbone) if wrapped else backbone
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.backbone(inputs)


@pytest.mark.parametrize('shapes, expected', [
    ([(30, 40), (32, 32)], [(30, 40), (32, 32)]),
    ([(30, 40, 3), [32, 48]], [(30, 40), (32, 48)]),
    ([(32, 48), (32, 48)], None),
    ([(32, 48), None], None)])
def test_sizes_are_those_of_the_samples(shapes, expected):
    told = ToldBatch((2, 3, 32, 48), [sample(shape) for shape in shapes])
    assert told.sizes() == expected and told.views is None


@pytest.mark.parametrize('shape, expected', [
    ((30, 40), [(30, 40)] * 3), ([(30, 40, 3), (32, 48), (8, 9)], [(30, 40), (32, 48), (8, 9)])])
def test_views_have_one_size_or_each_its_own(shape, expected):
    told = ToldBatch((2, 3, 3, 32, 48), [sample(shape), sample((32, 48))])
    assert told.sizes() == expected + [(32, 48)] * 3
    assert told.views == 3 and told.num_images == 6


@pytest.mark.parametrize('shape, samples, named', [
    ((1, 3, 32, 48), [sample((32, 0))], '32x0'),
    ((1, 6, 3, 32, 48), [sample([(32, 48)] * 5)],
     'of 5 images in the metadata, .*6')])
def test_metadata_that_contradict_the_tensor_are_refused(shape, samples, named):
    with pytest.raises(ValueError, match=named):
        ToldBatch(shape, samples).sizes()


def test_a_size_that_a_crop_left_stale_ranks_all_alike_with_a_warning(make_swin):
    told = ToldBatch((2, 3, 32, 48), [sample((32, 48)), sample((33, 48))])
    with pytest.warns(UserWarning, match='padding_last=False') as said:
        assert told.sizes() is None
    assert len(said) == 1
    inputs = torch.randn(1, 3, 32, 32)
    for settings in (dict(importance='magnitude'), dict(importance='variation')):
        model = Model(make_swin(sparsity=.5, **settings)).eval()
        with pytest.warns(UserWarning, match='larger than the images'):
            pruned = model(inputs, [sample((64, 64))])
        assert all(map(torch.equal, pruned, model(inputs, [sample((32, 32))])))
        meant = Model(make_swin(sparsity=.5, padding_last=False, **settings)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            meant(inputs, [sample((64, 64))])


@pytest.mark.parametrize('inputs, samples', [
    (torch.zeros(2, 3, 8, 8), None), (torch.zeros(2, 3, 8, 8), [sample()]),
    (torch.zeros(8, 8), [sample()] * 8), (dict(points=[]), [sample()]), (None, [sample()])])
def test_other_calls_tell_nothing(inputs, samples):
    assert read_call(inputs, samples, mode='loss') is None


def test_mmdet3d_s_images_lie_in_a_dict():
    told = read_call(inputs=dict(imgs=torch.zeros(2, 6, 3, 8, 8)), data_samples=[sample()] * 2)
    assert told.shape == (2, 6, 3, 8, 8)


@given(st.tuples(st.integers(1, 13), st.integers(1, 13)), st.sampled_from([0, 2]), st.data())
def test_a_window_is_valid_if_any_of_its_tokens_is(size, shift, data):
    windows = partition(*size, 4, shift, torch.device('cpu'))
    valid = [data.draw(st.integers(1, side)) for side in size]
    inside = torch.zeros(size, dtype=torch.bool)
    inside[:valid[0], :valid[1]] = True
    inside = torch.cat([inside.flatten(), torch.tensor([False])])
    assert torch.equal(valid_windows(windows, torch.tensor([valid]))[0],
                       inside[windows.table].any(1))


def ran(model, images, samples):
    """Per stage and block, (B, H, W) maps of the tokens that ran."""
    backbone = model.backbone[0] if isinstance(model.backbone, nn.Sequential) else model.backbone
    with torch.no_grad(), backbone.recording() as maps:
        model(images, samples)
    return maps


def padding_runs(maps, sizes):
    """Whether any window wholly in padding ran before a window with something valid, in some
    image: then tokens in padding run while valid ones do not."""
    side = PATCH
    for blocks in maps:
        plain = blocks[0]
        for tokens, (height, width) in zip(plain, sizes):
            valid = torch.zeros_like(tokens)
            valid[:-(-height // side), :-(-width // side)] = True
            tiles = [t.unfold(0, 4, 4).unfold(1, 4, 4).flatten(2) for t in (tokens, valid)]
            run, real = tiles[0].all(-1), tiles[1].any(-1)
            if (run & ~real).any() and (real & ~run).any():
                return True
        side *= 2
    return False


IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * .2
SIZES = [(64, 64), (40, 64), (64, 20)]


@pytest.fixture
def padded():
    """A batch whose padding is brighter than what it surrounds."""
    images = torch.full_like(IMAGES, 5.)
    for image, source, (height, width) in zip(images, IMAGES, SIZES):
        image[:, :height, :width] = source[:, :height, :width]
    return images, [sample(size) for size in SIZES]


@pytest.mark.parametrize('changes', [
    {}, dict(scope='group', group_size=3),
    dict(importance='random'), dict(importance='variation'), dict(importance='distinct'),
    dict(importance='learned'), dict(execution='compiled')])
def test_windows_wholly_in_padding_run_last(make_swin, padded, changes):
    model = Model(make_swin(sparsity=.6, **changes))
    assert not padding_runs(ran(model, *padded), SIZES)
    model.backbone.selection = Selection('magnitude', padding_last=False)
    assert padding_runs(ran(model, *padded), SIZES)
    assert padding_runs(ran(model, padded[0], None), SIZES)


@pytest.mark.parametrize('make', [
    lambda m: m, deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize('wrapped', [False, True])
def test_copies_and_deeper_backbones_are_told_too(make_swin, padded, make, wrapped):
    model = make(Model(make_swin(sparsity=.6, importance='magnitude'), wrapped))
    assert not padding_runs(ran(model, *padded), SIZES)
    assert padding_runs(ran(model, padded[0], None), SIZES)


def test_a_backbone_that_takes_another_s_place_is_told(make_swin, padded):
    model = Model(make_swin(sparsity=.6))
    model.backbone = make_swin(sparsity=.6, seed=1)
    assert not padding_runs(ran(model, *padded), SIZES)
    assert len(model._forward_pre_hooks) == 1


def test_what_was_told_ends_with_the_forward(make_swin, padded):
    model = Model(make_swin(sparsity=.6))
    model(*padded)
    assert model.backbone.told is None


@pytest.mark.skipif('always_call' not in signature(nn.Module.register_forward_hook).parameters,
                    reason='torch 2.0 runs no hook after an error')
def test_a_forward_that_fails_takes_back_what_it_told(make_swin, padded):
    model = Model(make_swin(sparsity=.6))
    model.backbone.norm0 = None
    with pytest.raises(TypeError):
        model(*padded)
    assert model.backbone.told is None


def test_other_images_than_the_model_s_are_not_told(make_swin, padded):
    """A sliding window gives the backbone crops, of which the metadata say nothing."""

    class Sliding(Model):

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.backbone(inputs[..., :32])

    images, samples = padded
    backbone = make_swin(sparsity=.6)
    with torch.no_grad():
        expected = backbone(images[..., :32])
        got = Sliding(backbone)(images, samples)
    assert all(map(torch.equal, got, expected))


def test_at_zero_sparsity_metadata_change_nothing(make_swin, padded):
    model = Model(make_swin())
    images, samples = padded
    with torch.no_grad():
        assert all(map(torch.equal, model(images, samples), model.backbone(images)))
        model(images, [sample((999, 999))] * 3)


@torch.no_grad()
def test_an_image_in_a_padded_batch_is_what_it_is_alone(make_swin):
    """Plain windows only, since a shifted one at the border of the image sees what lies beyond. Of
    two images one has half the height: 8 and 2 of the 16 and 4 windows of the stages. By itself
    each is pruned so that as many windows run as in the batch."""
    depths = dict(depths=(1, 1), num_heads=(2, 4))
    model = Model(make_swin(sparsity=.75, **depths))
    tall, flat = torch.randn(2, 3, 64, 64)
    flat = flat[:, :32]
    batch = torch.stack([tall, torch.cat([flat, torch.full_like(flat, 7.)], 1)])
    samples = [sample((64, 64)), sample((32, 64))]
    run = [[int(tokens.sum()) // 16 for tokens in blocks[0]]
           for blocks in ran(model, batch, samples)]
    assert run == [[4, 4], [1, 1]]
    together = model(batch, samples)
    for index, (image, windows) in enumerate(((tall, (16, 4)), (flat, (8, 2)))):
        alone = make_swin(**depths, sparsity=[
            1 - stage[index] / number for stage, number in zip(run, windows)])
        for feature, expected in zip(together, alone(image[None])):
            height = expected.shape[2]
            torch.testing.assert_close(feature[index:index + 1, :, :height], expected)


def build(config):
    init_default_scope(config['default_scope'])
    return MODELS.build(ConfigDict(config['model'])).eval()


@pytest.mark.parametrize('toolkit', ['detector', 'segmentor'])
def test_the_toolkits_models_tell_what_is_padding(request, toolkit):
    """With their own preprocessors and data samples, which pad to the largest image."""
    model = build(request.getfixturevalue(f'tiny_{toolkit}'))
    kind = dict(detector='mmdet.structures.DetDataSample',
                segmentor='mmseg.structures.SegDataSample')[toolkit]
    module, name = kind.rsplit('.', 1)
    cls = getattr(__import__(module, fromlist=[name]), name)
    sizes = SIZES
    if toolkit == 'segmentor':  # of one size in validation, padded where told to
        model.data_preprocessor.test_cfg = dict(size=(64, 64))
        sizes = [(40, 20)] * 3
    samples, images = [], []
    for height, width in sizes:
        one = cls()
        one.set_metainfo(dict(img_shape=(height, width), ori_shape=(height, width),
                              scale_factor=(1., 1.), batch_input_shape=(64, 64)))
        samples.append(one)
        images.append(torch.randint(0, 255, (3, height, width), dtype=torch.uint8))
    model.backbone.sparsity = .6
    seen, tell = [], model.backbone.forward
    model.backbone.forward = lambda x: seen.append(model.backbone.told.sizes()) or tell(x)
    with torch.no_grad(), model.backbone.recording() as maps:
        model.test_step(dict(inputs=images, data_samples=samples))
    assert seen == [sizes]
    assert not padding_runs(maps, sizes)

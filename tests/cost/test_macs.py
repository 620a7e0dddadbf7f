import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.models.swin import kernels
from sparsevit_mm.models.swin.attention import WindowMSA

CFG1 = [[.3, .3], [0, 0], [.1, .1, .2, .2, .2, .2], [0, 0]]
CFG2 = [[.6, .6], [0, 0], [.2, .2, .4, .4, .5, .5], [0, 0]]


@pytest.fixture(scope='module')
def swin_tiny():
    return SparseSwinTransformer()


@pytest.mark.parametrize('batch_size, shape, sparsity, published', [
    (4, (672, 672), 0, 161.8), (4, (672, 672), CFG1, 139.5), (4, (672, 672), CFG2, 116.5),
    (6, (256, 704), 0, 140.8), (6, (224, 616), 0, 78.5), (6, (192, 528), 0, 67.1)])
def test_macs_are_the_published_ones(swin_tiny, batch_size, shape, sparsity, published):
    macs = backbone_macs(swin_tiny, shape, batch_size, sparsity, count_padding=True)
    assert macs / 1e9 == pytest.approx(published, rel=.005)


def test_padding_need_not_be_computed(swin_tiny):
    assert backbone_macs(swin_tiny, (256, 704), 6) / 1e9 == pytest.approx(97.6, rel=.0005)


@pytest.mark.parametrize('size', [(64, 64), (50, 61)])
def test_sharing_a_budget_does_not_change_the_macs(make_swin, size):
    model = make_swin(sparsity=[.3, .6], scope='group', group_size=3)
    macs = backbone_macs(model, size, 6)
    alone = make_swin(sparsity=[.3, .6])
    assert macs == backbone_macs(alone, size, 6)
    images = torch.randn(6, 3, *size) * torch.arange(1, 7)[:, None, None, None]
    assert measured_macs(model, images, chunked=True) <= macs == measured_macs(model, images)


def measured_macs(model, image, chunked=False):
    """Counted from the shapes that linear layers and attention were given; in chunks, those follow
    what the windows happen to hold."""
    macs, attend, linear = [], WindowMSA.attend, F.linear

    def count_linear(x, weight, *args):
        # One row of zeros stands for all padding of an image, and is not counted.
        macs.append(int(x.flatten(0, -2).any(-1).sum()) * weight.numel())
        return linear(x, weight, *args)

    def count_attention(self, qkv, *args):
        out = attend(self, qkv, *args)
        batch_size, windows, tokens, channels = out.shape
        macs.append(2 * batch_size * windows * tokens**2 * channels)
        return out

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(kernels, '_runs_in_chunks', lambda *_: chunked)
        patch.setattr(F, 'linear', count_linear)
        patch.setattr(WindowMSA, 'attend', count_attention)
        model(image)
    return sum(macs)


@st.composite
def settings_of_a_backbone(draw):
    depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    patch = draw(st.sampled_from([2, 4]))
    ratios = [sorted(draw(st.integers(0, 9)) / 10 for _ in range(depth)) for depth in depths]
    return dict(
        in_channels=draw(st.integers(1, 4)),
        embed_dims=8 * draw(st.integers(1, 2)),
        depths=depths,
        num_heads=[2] * len(depths),
        window_size=draw(st.integers(2, 7)),
        patch_size=patch,
        strides=[patch] + [draw(st.integers(1, 3)) for _ in depths[1:]],
        out_indices=[0],
        mlp_ratio=draw(st.sampled_from([1, 2.5, 4])),
        sparsity=ratios)


@settings(max_examples=60)
@given(settings_of_a_backbone(), st.integers(1, 2), st.integers(1, 60), st.integers(1, 60))
def test_the_closed_form_is_what_runs(make_swin, args, batch_size, height, width):
    model = make_swin(**args)
    image = torch.randn(batch_size, args['in_channels'], height, width)
    macs = backbone_macs(model, (height, width), batch_size)
    assert measured_macs(model, image, chunked=True) <= macs == measured_macs(model, image)
    model.sparsity = 0
    dense = measured_macs(model, image)
    assert backbone_macs(model, (height, width), batch_size, 0) == dense
    assert measured_macs(model, image, chunked=True) == dense


@given(settings_of_a_backbone(), st.integers(1, 60), st.integers(1, 60))
def test_counting_padding_is_counting_a_map_that_fills_its_windows(make_swin, args, height,
                                                                   width):
    """In a single stage: patches are counted on the image, all else on the padded map."""
    args.update(depths=args['depths'][:1], num_heads=[2], strides=args['strides'][:1],
                sparsity=args['sparsity'][:1])
    model = make_swin(**args)
    patch = args['patch_size']
    cell = patch * args['window_size']
    filled = tuple(-(-side // cell) * cell for side in (height, width))

    def blocks(shape, **kwargs):
        patches = -(-shape[0] // patch) * -(-shape[1] // patch)
        embedding = patches * args['embed_dims'] * args['in_channels'] * patch**2
        return backbone_macs(model, shape, **kwargs) - embedding

    padded = blocks((height, width), count_padding=True)
    assert padded == blocks(filled) == blocks(filled, count_padding=True)
    assert padded >= blocks((height, width))


def test_an_argument_overrides_the_backbones_own_sparsity(make_swin):
    model = make_swin(sparsity=.5)
    own, dense = (backbone_macs(model, (64, 64), sparsity=s) for s in (None, 0))
    assert own == backbone_macs(model, (64, 64), sparsity=.5) < dense
    assert backbone_macs(model, (64, 64), 3) == 3 * own
    assert isinstance(own, int)

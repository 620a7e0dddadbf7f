"""Pruning against an oracle that takes windows one by one, and the laws pruning keeps."""
import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel

from sparsevit_mm import SparseSwinTransformer, SparsityConfig
from sparsevit_mm.models import windows


# The oracle: one image, one window at a time, by padding, rolling and writing back.
def windows_of(height, width, window, shift):
    """The (y, x) of the tokens of each window on the rolled, padded map."""
    tall, wide = (math.ceil(side / window) * window for side in (height, width))
    return [[((y + dy + shift) % tall, (x + dx + shift) % wide)
             for dy in range(window) for dx in range(window)]
            for y in range(0, tall, window) for x in range(0, wide, window)]


def window_attention(msa, tokens, places, window, shift):
    """(N, C) tokens of one window -> (N, C)."""
    N, C = tokens.shape
    q, k, v = msa.qkv(tokens).reshape(N, 3, msa.num_heads, -1).permute(1, 2, 0, 3)
    logits = q @ k.transpose(1, 2) * (C // msa.num_heads)**-.5
    for i, (yi, xi) in enumerate(places):
        for j, (yj, xj) in enumerate(places):
            dy, dx = (i // window) - (j // window), (i % window) - (j % window)
            row = (dy + window - 1) * (2 * window - 1) + dx + window - 1
            logits[:, i, j] += msa.relative_position_bias_table[row]
            if (yi < shift) != (yj < shift) or (xi < shift) != (xj < shift):
                logits[:, i, j] -= 100
    return msa.proj((logits.softmax(-1) @ v).transpose(0, 1).reshape(N, C))


def top_windows(token_scores, k, window, shift):
    """The k windows of an image (H, W) with the highest norm of their tokens' scores."""
    height, width = token_scores.shape
    norms = [sum(token_scores[y, x].item()**2 for y, x in places if y < height and x < width)
             for places in windows_of(height, width, window, shift)]
    return sorted(range(len(norms)), key=lambda w: -norms[w])[:k]


def oracle_stage(stage, image, ratios, token_score):
    """(H, W, C) -> (H, W, C)."""
    height, width, C = image.shape
    window, token_scores = stage.window_size, None
    total = math.ceil(height / window) * math.ceil(width / window)
    for i, (block, ratio) in enumerate(zip(stage.blocks, ratios)):
        shift = window // 2 if i % 2 else 0
        kept = range(total)
        if ratio:
            if token_scores is None:
                token_scores = token_score(image)
            k = max(1, math.floor(round(total * (1 - ratio), 6)))
            kept = top_windows(token_scores, k, window, shift)
        normed = F.pad(block.norm1(image), (0, 0, 0, window, 0, window))
        result = image.clone()
        for w in kept:
            places = windows_of(height, width, window, shift)[w]
            attended = window_attention(
                block.attn.w_msa, torch.stack([normed[p] for p in places]), places, window, shift)
            for (y, x), out in zip(places, attended):
                if y < height and x < width:
                    token = image[y, x] + out
                    result[y, x] = token + block.ffn.layers(block.norm2(token))
        image = result
    return image


def oracle_swin(model, images, token_score):
    x, (H, W) = model.patch_embed(images)
    features = []
    for i, (stage, ratios) in enumerate(zip(model.stages, model.sparsity.ratios)):
        x = torch.stack([oracle_stage(stage, image, ratios, token_score)
                         for image in x.reshape(len(x), H, W, -1)]).flatten(1, 2)
        out = getattr(model, f'norm{i}')(x)
        features.append(out.transpose(1, 2).reshape(len(x), -1, H, W))
        if stage.downsample is not None:
            x, (H, W) = stage.downsample(x, (H, W))
    return features


RATIO = st.integers(0, 19).map(lambda i: i / 20)


@st.composite
def sparse_cases(draw):
    """Depths, one rising ratio per block (a dense prefix among them), a window, a size."""
    depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    ratios = [sorted(draw(RATIO) for _ in range(depth)) for depth in depths]
    size = draw(st.tuples(st.integers(1, 42), st.integers(1, 42)))
    return depths, ratios, draw(st.integers(1, 4)), size


@pytest.mark.parametrize('importance, token_score', [
    ('magnitude', lambda image: image.abs().mean(-1)),
    ('l2', lambda image: image.norm(dim=-1)),
])
@torch.no_grad()
@settings(max_examples=40)
@given(case=sparse_cases())
def test_sparse_equals_the_oracle(make_swin, importance, token_score, case):
    depths, ratios, window, size = case
    model = make_swin(
        depths=depths, num_heads=[2, 4][:len(depths)], strides=[4, 2][:len(depths)],
        out_indices=range(len(depths)), window_size=window, importance=importance,
        sparsity=ratios, embed_dims=8)
    images = torch.randn(2, 3, *size)
    for got, expected in zip(model(images), oracle_swin(model, images, token_score)):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize('importance', ['magnitude', 'variation', 'distinct', 'learned'])
@settings(max_examples=8)
@given(RATIO.filter(bool), st.integers(2, 4))
def test_an_image_does_not_depend_on_its_neighbours(make_swin, importance, ratio, batch_size):
    model = make_swin(sparsity=ratio, importance=importance)
    with torch.no_grad():
        images = torch.randn(batch_size, 3, 50, 61)
        together = model(images)
        for i, image in enumerate(images):
            for alone, among in zip(model(image[None]), together):
                torch.testing.assert_close(among[i], alone[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('importance', ['magnitude', 'learned'])
def test_gradients_reach_every_parameter_that_ran(make_swin, importance):
    model = make_swin(sparsity=[[0, .5], [.5, .8]], importance=importance).train()
    image = torch.randn(2, 3, 50, 61, requires_grad=True)
    sum(f.sin().sum() for f in model(image)).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert image.grad.isfinite().all() and image.grad.any()


# A model that has run, and whatever happened to it, equals one built from its weights.
def swapped_in_place(model):
    for param in model.parameters():
        param.data.copy_(param.data * 1.5)


def swapped_by_the_hook(model):
    class Detector(BaseModel):
        def forward(self):
            pass

    runner = SimpleNamespace(model=Detector(), iter=0, epoch=0)
    runner.model.backbone = model
    hook = EMAHook(momentum=.5, begin_iter=0)
    hook.before_run(runner)
    for averaged in hook.ema_model.parameters():
        averaged.data.mul_(1.5)
    hook.before_val_epoch(runner)


def stepped(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.train()(torch.randn(1, 3, 32, 32))[1].sum().backward()
    optimizer.step()
    model.eval()


def loaded(model):
    model.load_state_dict({k: v * 1.5 if v.is_floating_point() else v
                           for k, v in model.state_dict().items()})


HAPPENINGS = dict(
    swapped_in_place=swapped_in_place,
    swapped_by_the_hook=swapped_by_the_hook,
    stepped=stepped,
    loaded=loaded,
    reset=lambda model: model.init_weights(),
    half=lambda model: model.half(),
    bfloat16=lambda model: model.bfloat16(),
    double=lambda model: model.double(),
    to_and_back=lambda model: model.to(torch.float64).to(torch.float32),
    train_and_eval=lambda model: model.train().eval(),
    pruned=lambda model: setattr(model, 'sparsity', [[.3, .6], .9]),
    dense=lambda model: setattr(model, 'sparsity', 0))


@pytest.mark.parametrize('sparsity', [0, [[0, .4], [.5, .5]]], ids=['dense', 'sparse'])
@pytest.mark.parametrize('happens', HAPPENINGS.values(), ids=HAPPENINGS)
def test_nothing_stale_is_ever_answered(make_swin, narrow, happens, sparsity):
    model = make_swin(sparsity=sparsity)
    image = torch.randn(2, 3, 50, 61)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            before = model(image)
    weights = copy.deepcopy(model.state_dict())
    happens(model)
    dtype = next(model.parameters()).dtype
    fresh = SparseSwinTransformer(**narrow(sparsity=model.sparsity)).to(dtype).eval()
    fresh.load_state_dict(model.state_dict())
    after = model(image.to(dtype))
    for got, expected in zip(after, fresh(image.to(dtype))):
        assert torch.equal(got, expected)
    same = model.sparsity == SparsityConfig(sparsity, model.depths) and dtype == torch.float32
    state = model.state_dict()
    if same and state.keys() == weights.keys() and all(
            torch.equal(v, weights[k]) for k, v in state.items()):
        assert all(torch.equal(a, b) for a, b in zip(after, before))
    else:
        assert not torch.equal(after[1].float(), before[1]), 'what happened shows'


def test_a_copy_keeps_its_own_sparsity(make_swin):
    model = make_swin(sparsity=.5)
    other = copy.deepcopy(model)
    assert other.sparsity == model.sparsity
    model.sparsity = 0
    assert other.sparsity == SparsityConfig(.5, model.depths)
    image = torch.randn(1, 3, 50, 61)
    assert torch.equal(other(image)[1], make_swin(sparsity=.5)(image)[1])
    assert torch.equal(model(image)[1], make_swin()(image)[1])


@pytest.mark.parametrize('sparsity', [0, .5])
def test_a_model_that_has_inferred_can_train(make_swin, sparsity):
    model = make_swin(sparsity=sparsity, window_size=3)
    windows._cached_partition.cache_clear()
    with torch.inference_mode():
        model(torch.randn(1, 3, 40, 44))
    model.train()(torch.randn(1, 3, 40, 44))[1].sum().backward()
    assert model.stages[0].blocks[1].attn.w_msa.relative_position_bias_table.grad.any()


@pytest.mark.parametrize('changes, message', [
    (dict(sparsity=[.5, .5, .5]), '3 entries'),
    (dict(sparsity=[[.5, .4], 0]), 'stage 0, block 1'),
    (dict(strides=(2, 2)), 'strides'),
    (dict(importance='loudness'), "'loudness' .*magnitude"),
    (dict(pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='b.pth')), 'pretrained'),
])
def test_settings_that_do_not_fit_are_named(narrow, changes, message):
    with pytest.raises(ValueError, match=message):
        SparseSwinTransformer(**narrow(**changes))


def test_a_refused_sparsity_leaves_the_old_one(make_swin):
    model = make_swin(sparsity=.5)
    with pytest.raises(ValueError):
        model.sparsity = 1.
    assert model.sparsity == SparsityConfig(.5, model.depths)

"""The token selector of SViTE+: what it keeps, what that costs, and how the task trains it."""
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparsevit_mm import EvoVisionTransformer, SparseSwinTransformer
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, MapInfo
from sparsevit_mm.models.selection.ranking import Selection
from sparsevit_mm.models.selection.selector import TokenSelector, add_gumbel_noise, gumbel_shares
from sparsevit_mm.models.vit.evolution import select

PUBLISHED = Path(__file__).parents[4] / 'shared' / 'data' / 'reference' / 'svite.npz'
needs_reference = pytest.mark.skipif(
    not PUBLISHED.is_file(), reason='the reference values are not here')
ONCE = dict(importance='selector', fast='copy', reselect='stage', stages=(), dense_layers=0)
VIT = dict(img_size=32, patch_size=4, embed_dims=16, num_layers=3, num_heads=2,
           out_indices=(0, 1, 2), output_cls_token=True, norm_cfg=dict(type='LN', eps=1e-6))
KEY = 'selector.weight'


@pytest.fixture
def make(randomise):

    def make(seed=0, **changes):
        return randomise(EvoVisionTransformer(**{**VIT, **ONCE, **changes}), seed).eval()

    return make


def images(seed=0):
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def kept_by(scores, k):
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    return mask.scatter(1, select(scores, k, 0).patches, True)


@needs_reference
@pytest.mark.parametrize('k', [4, 8, 12, 17])
def test_without_noise_it_keeps_what_the_published_code_keeps(k):
    values = np.load(PUBLISHED)
    selector = TokenSelector(1)
    selector.weight.data.fill_(1.)
    scores = selector(torch.from_numpy(values['tok/scores'])[..., None]).detach()
    for tau in ('0.1', '1.0', '10.0'):
        expected = torch.from_numpy(values[f'tok/mask_k{k}_tau{tau}']).bool()
        assert torch.equal(kept_by(scores, k), expected)


def published_weight(name, shape):
    import zlib
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    z *= .2 if name in ('cls_token', 'pos_embed') else .08 if len(shape) > 1 else .1
    return torch.from_numpy(z.astype(np.float32))


@needs_reference
@pytest.mark.parametrize('k', [4, 8, 12, 16])
def test_a_whole_model_keeps_the_published_patches_and_the_class_token_beside_them(k):
    """Whose class token competes: it never is among the best k here but for k = 13, where it takes
    a place of a patch."""
    values = np.load(PUBLISHED)
    model = EvoVisionTransformer(
        img_size=32, patch_size=8, embed_dims=48, num_layers=2, num_heads=6, mlp_ratio=2,
        patch_bias=True, **ONCE, sparsity=1 - k / 16).eval()
    named = {'cls_token': model.cls_token, 'pos_embed': model.pos_embed,
             'patch_embed.proj.weight': model.patch_embed.projection.weight,
             'patch_embed.proj.bias': model.patch_embed.projection.bias}
    for name, parameter in named.items():
        parameter.data = published_weight(name, tuple(parameter.shape))
    weight = published_weight('gumbel.weight', (1, 48))[0]
    model.selector.weight.data = weight
    x = np.random.default_rng(7).standard_normal((2, 3, 32, 32))
    x[:, :, 8:20, 4:24] *= 3
    with torch.no_grad(), model.recording() as maps:
        x = torch.from_numpy(x.astype(np.float32))
        embedded, _ = model._embed(x)
        model(x)
    scores = embedded @ weight + published_weight('gumbel.bias', (1, ))
    np.testing.assert_allclose(scores, values['tok/vit_scores'], atol=1e-5)
    expected = torch.from_numpy(values[f'tok/vit_k{k + (k >= 12)}_kept'])[:, 1:]
    for ran in maps[0]:
        assert torch.equal(ran.flatten(1), expected)


@torch.no_grad()
def test_dropped_patches_run_in_no_layer_and_stay_in_the_map(make):
    model, sequences = make(sparsity=.7), []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, args: sequences.append(tuple(args[0].shape)))
    with model.recording() as maps:
        outs = model(images())
    assert sequences == [(2, 1 + 19, 16)] * 3  # class token and floor(64 * .3)
    ran = maps[0][0]
    assert all(torch.equal(ran, other) for other in maps[0])
    embedded, grid = model._embed(images())
    whole = embedded[:, 1:].transpose(1, 2).unflatten(2, grid)
    for out, _ in outs:
        changed = (out != whole).any(1)
        assert torch.equal(changed, ran)


@torch.no_grad()
def test_it_runs_what_a_model_of_these_tokens_alone_would(make):
    model = make(sparsity=.5)
    with model.recording() as maps:
        out, token = model(images())[-1]
    embedded, _ = model._embed(images())
    for i in range(2):
        places = maps[0][0][i].flatten().nonzero().flatten()
        x = torch.cat([embedded[i:i + 1, :1], embedded[i:i + 1, 1:][:, places]], 1)
        for layer in model.layers:
            x, _ = layer(x)
        torch.testing.assert_close(token[i], x[0, 0])
        torch.testing.assert_close(out[i].flatten(1).T[places], x[0, 1:])


@torch.no_grad()
def test_no_noise_at_test_and_an_image_chooses_by_itself(make):
    model = make(sparsity=.5)
    outs = [model(images())[-1][0] for _ in range(2)]
    assert torch.equal(*outs)
    torch.testing.assert_close(model(images()[:1])[-1][0], outs[0][:1])


def test_training_draws_and_the_same_seed_draws_the_same(make):
    model, drawn = make(sparsity=.5).train(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with model.recording() as maps:
            model(images())
        drawn.append(maps[0][0])
    assert torch.equal(*drawn[:2]) and not torch.equal(*drawn[1:])


def test_noise_draws_in_proportion():
    torch.manual_seed(0)
    energy = torch.tensor([1., 2., 3., 4.]).expand(20000, 4)
    first = add_gumbel_noise(energy).argmax(1).bincount() / 20000
    torch.testing.assert_close(first, torch.tensor([.1, .2, .3, .4]), atol=.015, rtol=0)


def test_shares_are_a_softmax_of_log_shares_over_tau():
    energy = torch.rand(4, 6) + .1
    for tau in (.1, 1., 10.):
        expected = (energy.log().log_softmax(1) / tau).softmax(1)
        torch.testing.assert_close(gumbel_shares(energy, tau), expected)
    grouped = gumbel_shares(energy, 1., 2)
    assert grouped.shape == (2, 12)
    torch.testing.assert_close(grouped.sum(1), torch.ones(2))


def test_the_gradient_is_that_of_patches_times_their_shares(make, monkeypatch):
    """Straight through: values are those of a gather, gradients those of a product."""
    model = make(sparsity=.5).train()
    model.selector.tau = 2.
    monkeypatch.setattr('sparsevit_mm.models.vit.evo_vit.add_gumbel_noise', lambda energy: energy)
    out = model(images())[-1][1].square().sum()
    out.backward()

    embedded = model._embed(images())[0].detach()
    weight = model.selector.weight.detach().clone().requires_grad_()
    logits = embedded[:, 1:] @ weight
    soft = (logits / 2.).softmax(1)
    places = logits.argsort(1, descending=True)[:, :32]
    rows = torch.arange(2)[:, None]
    gate = (1 + soft - soft.detach())[rows, places]
    x = torch.cat([embedded[:, :1], embedded[:, 1:][rows, places] * gate[..., None]], 1)
    for layer in model.layers:
        x, _ = layer(x)
    expected = x[:, 0].square().sum()
    expected.backward()
    torch.testing.assert_close(out, expected)
    assert weight.grad.abs().max() > 1e-6
    torch.testing.assert_close(model.selector.weight.grad, weight.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('fast', ['copy', 'representative'])
@pytest.mark.parametrize('changes', [
    dict(reselect='layer', sparsity=[0, .3, .6]), dict(sparsity=0), dict(with_cp=True, sparsity=.5),
    dict(with_cls_token=False, output_cls_token=False, sparsity=.5)])
def test_every_weight_has_a_gradient_in_every_configuration(make, fast, changes):
    model = make(**{**changes, 'fast': fast}).train()
    parts = [part for out in model(images())
             for part in (out if isinstance(out, list) else [out])]
    sum(part.square().mean() for part in parts).backward()
    grad = model.selector.weight.grad
    assert grad is not None and grad.isfinite().all() and grad.any() == bool(
        model.sparsity.mean)


@torch.no_grad()
def test_later_layers_take_fewer_of_the_same_ranking(make):
    model = make(reselect='layer', sparsity=[0, .3, .6])
    with model.recording() as maps:
        model(images())
    _, some, few = maps[0]
    assert (few <= some).all() and few.sum() < some.sum()


def test_dense_checkpoints_load_strictly_and_are_refused_until_it_is_trained(make):
    model, dense = make(sparsity=.5), make(1, importance='magnitude')
    weight = model.selector.weight.clone()
    state = dense.state_dict()
    assert KEY not in state
    model.load_state_dict(state, strict=True)
    assert torch.equal(model.selector.weight, weight)
    with pytest.raises(ValueError, match="'selector' needs .*TokenSelectorHook"):
        model(images())
    model.sparsity = 0
    model(images())
    model.sparsity = .5
    model.train()(images())
    model.eval()(images())
    assert model.adapted_to.name == 'selector'


@pytest.mark.parametrize('built', ['selector', 'magnitude'])
@torch.no_grad()
def test_checkpoints_with_it_load_into_any_backbone(make, built):
    source, model = make(sparsity=.5), make(1, importance=built, sparsity=.5)
    model.load_state_dict(source.state_dict(), strict=True)
    model.selection = Selection('selector')
    assert all(map(torch.equal, model(images())[-1], source(images())[-1]))
    wrong = {**source.state_dict(), KEY: torch.zeros(5)}
    with pytest.raises(ValueError, match=r'selector.weight is \(5,\) in the checkpoint'):
        model.load_state_dict(wrong)


def test_pretrained_weights_need_none(make, tmp_path):
    state = make(importance='magnitude').state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'dense.pth')
    model = make(1, sparsity=.5, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'dense.pth')))
    model.init_weights()
    assert torch.equal(model.pos_embed, state['pos_embed'])
    with pytest.raises(ValueError, match="'selector' needs"):
        model(images())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_it_runs_in_low_precision(make, dtype):
    model = make(sparsity=.5)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(images())[-1][0].isfinite().all()
    assert model.to(dtype)(images().to(dtype))[-1][0].dtype == dtype


def test_macs_follow_what_runs_and_the_space_is_one_gene(make):
    model = make()
    dense, half = (model.macs((32, 32), model.space.config(s)) for s in (0, .5))
    assert half < .6 * dense and model.space.num_genes == 1


@torch.no_grad()
def test_it_exports(make):
    model = make(sparsity=.5)
    program = torch.export.export(model, (images(), ))
    for ours, theirs in zip(model(images(1))[-1], program.module()(images(1))[-1]):
        torch.testing.assert_close(theirs, ours)


@pytest.mark.slow
def test_the_onnx_file_chooses_alike(make, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from sparsevit_mm.deploy.check import check_onnx
    from sparsevit_mm.deploy.export import export_onnx
    model = make(sparsity=.5, output_cls_token=False)
    for layer in model.layers:
        layer.attn.attn.in_proj_weight.data *= .3
    export_onnx(model, tmp_path / 'm.onnx', (32, 32))
    assert check_onnx(tmp_path / 'm.onnx', model) < 1e-4


def test_a_state_dict_says_which_scores_it_serves(make):
    model = make()
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    assert model.scores_held(state, 'backbone.') == {'selector'}
    assert model.scores_held({}, 'backbone.') == set()
    assert 'selector' in model.scores_for(model.space.config(.5))


SWIN = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 2), strides=(2, 2), patch_size=2,
            window_size=4, out_indices=(0, 1), drop_path_rate=0., importance='selector')


@torch.no_grad()
def test_windows_of_a_swin_are_kept_by_the_sum_of_their_exponentials(randomise):
    model = randomise(SparseSwinTransformer(**SWIN, sparsity=[.5, 0])).eval()
    with model.recording() as maps:
        model(images())
    x, _ = model.patch_embed(images())
    logits = (x @ model.stages[0].selector.weight).exp().reshape(2, 4, 4, 4, 4).sum((2, 4))
    best = logits.flatten(1).argsort(1, descending=True)[:, :8]
    expected = torch.zeros(2, 16, dtype=torch.bool).scatter(1, best, True)
    assert torch.equal(maps[0][0][:, ::4, ::4].flatten(1), expected)


def test_the_task_trains_the_selectors_of_a_swin(randomise):
    model = randomise(SparseSwinTransformer(**SWIN, sparsity=.5)).train()
    torch.manual_seed(0)
    outs = [model(images()) for _ in range(2)]
    assert not torch.equal(outs[0][0], outs[1][0])  # noise
    sum(out.square().mean() for out in outs[0]).backward()
    for stage in model.stages:
        assert stage.selector.weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)
    model.sparsity = 0
    sum(out.square().mean() for out in model(images())).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_swin_without_selectors_in_its_checkpoint_is_refused(randomise):
    model = SparseSwinTransformer(**SWIN, sparsity=.5).eval()
    model.load_state_dict(SparseSwinTransformer(**{**SWIN, 'importance': 'l2'}).state_dict())
    with pytest.raises(ValueError, match="'selector' needs"):
        model(images())
    held = {k: v for k, v in SparseSwinTransformer(**SWIN).state_dict().items()}
    del held['stages.1.selector.weight']
    with pytest.raises(ValueError, match='stages.1.selector.weight is missing'):
        model.load_state_dict(held)


def test_the_score_is_the_selectors_own():
    selector = nn.Identity()
    x = torch.randn(1, 4, 3)
    assert TOKEN_SCORES['selector'](x, MapInfo((2, 2), selector=selector)) is x

"""EvoLeViT: the released code's values, and laws."""
import re

import numpy as np
import pytest
import torch
from reference import image, load, needs_reference, weight

from sparsevit_mm import EvoLeViT
from sparsevit_mm.models.vit.levit_pretrained import _places

SMALL = dict(embed_dims=(32, 48, 64), num_heads=(2, 3, 4), depths=(2, 3, 4), key_dims=16)
HALF = [[0, 0], [.5] * 3, [.5] * 4]
RUNS = {'s_dense_layer': dict(), 's_layer50': dict(sparsity=HALF),
        's_stage50': dict(sparsity=HALF, reselect='stage')}


def released(**settings):
    model = EvoLeViT(SMALL, 112, out_indices=(0, 1, 2), output_cls_token=True, **settings)
    model.load_state_dict({name: weight(name, tuple(value.shape), levit=True) if value.dim()
                           else value for name, value in model.state_dict().items()})
    return model.eval()


def classify(x):
    """The mean of both heads."""
    logits = []
    for head in ('head', 'head_dist'):
        bn = {part: weight(f'{head}.bn.{part}', (64, ), levit=True)
              for part in ('weight', 'bias', 'running_mean', 'running_var')}
        y = (x - bn['running_mean']) / (bn['running_var'] + 1e-5).sqrt() * bn['weight'] + bn['bias']
        logits.append(y @ weight(f'{head}.l.weight', (10, 64), levit=True).T
                      + weight(f'{head}.l.bias', (10, ), levit=True))
    return sum(logits) / 2


@needs_reference
@pytest.mark.parametrize('run', RUNS)
def test_features_selections_and_logits_are_the_released_ones(run):
    values = load('evo_levit.npz')
    model = released(**RUNS[run])
    with torch.no_grad(), model.recording() as maps:
        outs = model(image(112, 112))
    children = {'s_stage50': (3, 6, 9)}.get(run, (1, 6, 12))  # the last of each stage
    for (out, cls), child, width in zip(outs, children, (32, 48, 64)):
        x = torch.cat([cls[:, None], out.flatten(2).transpose(1, 2)], 1)
        wanted, mean = values[f'{run}/C{child}_feat'], values[f'{run}/C{child}_tokmean']
        sample = values['sample_idx_{}x{}x{}'.format(*x.shape)]
        assert abs(x.flatten()[sample].numpy() - wanted).max() < 1e-4 * abs(wanted).max()
        assert abs(x.mean(-1).numpy() - mean).max() < 1e-4 * abs(mean).max()
    pruned = {'s_layer50': {(1, i): 4 + i for i in range(3)} | {(2, i): 9 + i for i in range(4)},
              's_stage50': {(1, 0): 6, (1, 2): 6, (2, 0): 9, (2, 3): 9}}.get(run, {})
    for (stage, layer), child in pruned.items():
        selected = torch.from_numpy(values[f'{run}/C{child}_sel'].astype(np.int64))
        ran = maps[stage][layer].flatten(1)
        assert torch.equal(ran, torch.zeros_like(ran).scatter(1, selected, True))
    last = torch.cat([outs[-1][1][:, None], outs[-1][0].flatten(2).transpose(1, 2)], 1)
    wanted = values[f'{run}/logits']
    logits = classify(last[:, 1:].mean(1))
    assert abs(logits.numpy() - wanted).max() < 1e-4 * abs(wanted).max()


@pytest.fixture
def make(randomise):

    def build(**changes):
        model = randomise(EvoLeViT(**{**dict(arch=SMALL, img_size=112), **changes}))
        for name, buffer in model.named_buffers():
            if name.endswith('running_var'):
                buffer.uniform_(.5, 2.)
        return model.eval()
    return build


@pytest.mark.parametrize('changes', [
    {}, dict(attention_bias=True, with_cls_token=False, importance='received'),
    dict(attention_bias=True), dict(fast='copy'), dict(reselect='stage')])
def test_maps_are_whole_images_independent_and_nothing_stays(make, changes):
    model = make(sparsity=[[0, 0], [.5] * 3, [.8] * 4], out_indices=(0, 1, 2), **changes)
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        outs, again = model(images), model(images)
        alone = [model(one[None]) for one in images]
    assert [tuple(out.shape) for out in outs] == [(2, 32, 7, 7), (2, 48, 4, 4), (2, 64, 2, 2)]
    for i, out in enumerate(outs):
        assert torch.equal(out, again[i])
        torch.testing.assert_close(out, torch.cat([a[i] for a in alone]), atol=1e-4, rtol=1e-4)


def test_pruning_all_but_the_last_patch_is_no_dense_layer(make):
    """N - 1 of N: the released code takes the sequence for a dense one there."""
    model = make(sparsity=[[0, 0], [1 / 16] * 3, [.25] * 4])
    with torch.no_grad(), model.recording() as maps:
        model(torch.randn(1, 3, 112, 112))
    assert [[int(m.sum()) for m in stage] for stage in maps] == [[49] * 2, [15] * 3, [3] * 4]


def test_gathered_biases_are_those_of_the_patches(make):
    """With biases, what runs attends as it would alone: all patches kept, in any order."""
    model = make(attention_bias=True)
    layer = model.blocks[0].m1.m
    torch.nn.init.normal_(layer.biases.attention_biases)
    x = torch.randn(1, 50, 32)
    order = torch.randperm(49)[None]
    moved = torch.cat([x[:, :1], x[:, 1:][:, order[0]]], 1)
    with torch.no_grad():
        (plain, _), (permuted, _) = layer(x, (7, 7), 1), layer(moved, (7, 7), 1, None, order)
    torch.testing.assert_close(plain[:, 1:][:, order[0]], permuted[:, 1:], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match='7x7.* 6x7'):
        layer(x, (6, 7), 1)


@pytest.mark.parametrize('arch, millions', [
    ('128s', 305), ('128', 406), ('192', 658), ('256', 1120), ('384', 2353)])
def test_macs_are_near_the_published_figures_of_levit(arch, millions):
    """Dense, with the class token and without heads: within 3%."""
    model = EvoLeViT(arch)
    assert model.macs((224, 224), model.sparsity) / 1e6 == pytest.approx(millions, rel=.03)


def test_it_trains_and_exports(make, tmp_path):
    from sparsevit_mm.deploy.check import check_program
    from sparsevit_mm.deploy.export import export_program
    model = make(sparsity=HALF)
    export_program(model, tmp_path / 'levit.pt2', (112, 112))
    assert check_program(tmp_path / 'levit.pt2', model) < 1e-3
    model.train()
    model(torch.randn(2, 3, 112, 112))[0].square().mean().backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert all(n.endswith('learn_tradeoff') for n in without)


@pytest.mark.parametrize('settings, named', [
    (dict(arch='512'), "arch '512'"), (dict(sparsity=[[.5, 0], 0, 0]), 'first layer'),
    (dict(reselect='stage', sparsity=[0, [.5, .4, .5], 0]), 'stage 1'),
    (dict(fast='mean'), "fast 'mean'"),
    (dict(with_cls_token=False, sparsity=.5), 'with_cls_token'),
    (dict(arch=dict(depths=(1, ))), 'arch .*embed_dims'), (dict(importance='learned'), 'learned')])
def test_settings_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        EvoLeViT(**{**dict(arch=SMALL), **settings})


def test_an_input_of_another_size_is_refused(make):
    for size in ((128, 128), (16, 49 * 16)):  # the latter has as many patches
        with pytest.raises(ValueError, match='7x7.* (8x8|1x49)'):
            make()(torch.zeros(1, 3, *size))


DENSE = dict(attention_bias=True, with_cls_token=False, importance='received')


def renamed(model, mmpretrain):
    """The state dict of a dense LeViT under the names of LeViT or of mmpretrain."""
    state, names = {}, _places(model)
    stages = [(s, i) for s, depth in enumerate(model.depths)
              for i in range(2 * depth + 2 * (s > 0))]
    for key, value in model.state_dict().items():
        if key.endswith('learn_tradeoff'):
            continue
        for number, (name, (stage, place)) in enumerate(zip(names, stages)):
            if key.startswith(f'{name}.'):
                inner = key[len(name) + 1:].replace('biases.attention', 'attention')
                subsample = stage > 0 and place == 0
                if mmpretrain:
                    inner = re.sub(r'^0\.', 'linear1.', re.sub(r'^2\.', 'linear2.', inner))
                    inner = inner.replace('.c.', '.linear.')
                    key = f'stages.{stage}.{place}.{"" if subsample else "block."}{inner}'
                else:
                    key = f'blocks.{number}.{"" if subsample else "m."}{inner}'
                break
        else:
            if mmpretrain:
                key = f'patch_embed.{key}'.replace('.c.', '.conv.')
        state[f'backbone.{key}' if mmpretrain else key] = value
    return dict(state_dict=state) if mmpretrain else dict(model={**state, 'head.l.bias': value})


@pytest.mark.parametrize('mmpretrain', [False, True], ids=['LeViT', 'mmpretrain'])
@pytest.mark.parametrize('with_cls_token', [False, True])
def test_a_dense_checkpoint_arrives(make, tmp_path, mmpretrain, with_cls_token):
    source = make(**DENSE)
    torch.save(renamed(source, mmpretrain), tmp_path / 'dense.pth')
    model = EvoLeViT(SMALL, 112, **{**DENSE, 'with_cls_token': with_cls_token}, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'dense.pth')))
    model.init_weights()
    loaded = model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items()
               if not key.endswith('learn_tradeoff'))


def test_a_dense_checkpoint_needs_biases(make, tmp_path):
    torch.save(renamed(make(**DENSE), True), tmp_path / 'dense.pth')
    model = EvoLeViT(SMALL, 112, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'dense.pth')))
    with pytest.raises(ValueError, match='unexpected: .*biases.attention_biases'):
        model.init_weights()


@torch.no_grad()
def test_dense_it_equals_mmpretrain(randomise, tmp_path):
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    theirs = randomise(backbones.LeViT('128s', 224, out_indices=(0, 1, 2)))
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / 'dense.pth')
    ours = EvoLeViT('128s', **DENSE, out_indices=(0, 1, 2), init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'dense.pth')))
    ours.init_weights()
    image = torch.randn(2, 3, 224, 224)
    for got, expected in zip(ours.eval()(image), theirs(image)):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_released_checkpoint_loads_without_its_heads(make, tmp_path):
    source = make()
    torch.save(dict(model={**source.state_dict(), 'head.l.weight': torch.zeros(3, 3)}),
               tmp_path / 'levit.pth')
    model = EvoLeViT(SMALL, 112, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'levit.pth')))
    model.init_weights()
    assert torch.equal(model.poss, source.poss)


def test_stochastic_depth_is_of_training_alone(make):
    model, dense = make(drop_path_rate=.99), make()
    dense.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 112, 112)
    assert torch.equal(model(x)[0], dense(x)[0])
    for one in (model, dense):
        one.train()
    assert not torch.allclose(model(x)[0], dense(x)[0])

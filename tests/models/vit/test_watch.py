"""What a dense pass tells of patches: scores where they are chosen, and what running them adds."""
import pytest
import torch

from sparsevit_mm import EvoLeViT, EvoVisionTransformer
from sparsevit_mm.models.selection.ranking import Selection

VIT = dict(img_size=32, patch_size=4, embed_dims=16, num_layers=4, num_heads=2, dense_layers=1)
LEVIT = dict(arch=dict(embed_dims=(16, 24, 32), num_heads=(1, 2, 2), depths=(2, 2, 2), key_dims=8),
             img_size=128)


@pytest.fixture(params=['vit', 'patches alone', 'levit', 'levit biases'])
def backbone(request, randomise):
    made = {'vit': lambda: EvoVisionTransformer(**VIT),
            'patches alone': lambda: EvoVisionTransformer(
                **VIT, with_cls_token=False, importance='received'),
            'levit': lambda: EvoLeViT(**LEVIT),
            'levit biases': lambda: EvoLeViT(**LEVIT, attention_bias=True)}[request.param]()
    return randomise(made).eval()


def only(backbone, layer, ratio=.5):
    flat = [0.] * sum(backbone.depths)
    flat[layer] = ratio
    ratios = iter(flat)
    return [[next(ratios) for _ in range(depth)] for depth in backbone.depths]


def test_scores_are_those_that_choose_in_each_layer(backbone):
    image = torch.randn(2, 3, *(2 * [backbone.patch_size * 8]))
    layers = range(1, sum(backbone.depths))
    names = [name for name in backbone.scores_for(backbone.space.config(.5)) if name != 'random']
    assert 'received' in names and ('class_attention' in names) == bool(backbone.prefix)
    if 'selector' in names:
        backbone.selection = Selection('selector')  # makes its weights
    with backbone.watching(names) as take, torch.no_grad():
        backbone(image)
        seen = take()
        assert take() == []
    assert len(seen) == len(layers) + 1 and 'received' not in seen[0].scores
    for name in names:
        for layer in layers:
            backbone.sparsity = None
            backbone.selection = Selection(name)
            backbone.sparsity = only(backbone, layer)
            with backbone.recording() as maps, torch.no_grad():
                backbone(image)
            ran = [block for stage in maps for block in stage][layer].flatten(1)
            score = seen[layer].scores[name]
            chosen = score.argsort(dim=1, descending=True, stable=True)[:, :int(ran[0].sum())]
            assert torch.equal(ran, torch.zeros_like(ran).scatter(1, chosen, True)), (name, layer)


def test_updates_and_gains_are_of_the_layers(randomise):
    model = randomise(EvoVisionTransformer(**VIT, reselect='stage', stages=(1, 2))).eval()
    model.requires_grad_(False)  # as a survey does
    outs = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, args, out: outs.append((args[0], out[0])))
    with model.watching(['magnitude']) as take:
        model(torch.randn(2, 3, 32, 32))[0].square().sum().backward()
        seen = take()
    assert [s.stage for s in seen] == [0, 1, 2]  # the last two layers share a choice
    update = [(after - before).norm(dim=-1)[:, 1:] for before, after in outs]
    torch.testing.assert_close(seen[1].update, update[1])
    torch.testing.assert_close(seen[2].update, update[2] + update[3])
    assert all((s.gain > 0).all() and s.inside.all() and s.gain.shape == (2, 64) for s in seen)
    last = 2 * outs[-1][1][:, 1:].norm(dim=-1) * update[3]  # the gradient of the sum of squares
    assert (seen[2].gain >= last * (1 - 1e-5)).all() and not torch.allclose(seen[2].gain, last)


def test_a_backbone_is_left_as_it_was_and_pruned_passes_leave_nothing(randomise):
    model = randomise(EvoVisionTransformer(**VIT, sparsity=.5)).eval()
    image, before = torch.randn(2, 3, 32, 32), dict(vars(model))
    with torch.no_grad():
        expected, = model(image)
        with model.watching(['class_attention']) as take:
            assert torch.equal(model(image)[0], expected)
            assert take() == []
            model.sparsity = None
            dense, = model(image)
            assert len(take()) == 4
            model.sparsity = .5
        assert torch.equal(model(image)[0], expected)
        model.sparsity = None
        assert torch.equal(model(image)[0], dense)
    assert not model.watched and model._watcher is None
    assert model._selection == before['_selection']

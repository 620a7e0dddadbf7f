"""The name of the score that weights were adapted under: how it travels, and when it warns."""
import copy
import warnings

import pytest
import torch
from mmengine.model import ExponentialMovingAverage

from sparsevit_mm.models.selection.importance import TOKEN_SCORES
from sparsevit_mm.models.selection.ranking import Selection

IMAGE = torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def adapted(make_swin):
    """A backbone that trained, pruned, under a score."""

    def make(importance='distinct', **changes):
        model = make_swin(sparsity=.5, importance=importance, **changes)
        model.train()(IMAGE)
        return model.eval()

    return make


def heard(model, mode=False):
    """What a forward pass warns of."""
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter('always')
        model.train(mode)(IMAGE)
    return [str(w.message) for w in caught if 'importance' in str(w.message)]


def by_state_dict(source, target, tmp_path):
    target.load_state_dict(source.state_dict(), strict=True)
    return target


def by_file(source, target, tmp_path):
    torch.save(source.state_dict(), tmp_path / 'c.pth')
    target.load_state_dict(torch.load(tmp_path / 'c.pth', weights_only=True))
    return target


def by_deepcopy(source, target, tmp_path):
    return copy.deepcopy(source)


def by_ema(source, target, tmp_path):
    """Averaged from a start at which nothing was adapted, as EMAHook does."""
    target.selection = source.selection
    averaged = ExponentialMovingAverage(target, momentum=.5)
    for _ in range(2):
        averaged.update_parameters(source)
    state = {k[len('module.'):]: v for k, v in averaged.state_dict().items()
             if k.startswith('module.')}
    target.load_state_dict(state)
    return target


def by_init_cfg(source, target, tmp_path):
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'c.pth')
    target.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'c.pth'))
    target.init_weights()
    return target


@pytest.mark.parametrize('travel', [by_state_dict, by_file, by_deepcopy, by_ema, by_init_cfg])
@pytest.mark.parametrize('importance', sorted(TOKEN_SCORES))
def test_the_name_travels_with_the_weights(adapted, make_swin, tmp_path, travel, importance):
    source = adapted(importance)
    other = 'l2' if importance != 'l2' else 'magnitude'
    assert source.adapted_to.name == importance
    model = travel(source, make_swin(seed=1, sparsity=.5), tmp_path)
    model.selection = Selection(importance)
    assert heard(model) == []
    model.selection = Selection(other)
    message, = heard(model)
    assert f"importance='{importance}'" in message and f"run under '{other}'" in message
    again = travel(model, make_swin(seed=1, sparsity=.5), tmp_path)
    assert again.adapted_to.name == importance, 'to run pruned is not to adapt'


def test_each_other_score_is_warned_of_once_and_anew_after_loading(adapted):
    model = adapted()
    for importance in ('l2', 'variation'):
        model.selection = Selection(importance)
        assert len(heard(model)) == 1
    for importance in ('l2', 'variation', 'distinct'):
        model.selection = Selection(importance)
        assert heard(model) == []
    model.load_state_dict(model.state_dict())
    model.selection = Selection('l2')
    assert len(heard(model)) == 1


def test_dense_passes_warn_of_nothing_and_adapt_nothing(adapted, make_swin):
    model = adapted()
    model.selection, model.sparsity = Selection('l2'), 0
    assert heard(model) == heard(model, True) == []
    assert model.adapted_to.name == 'distinct'
    fresh = make_swin()
    heard(fresh, True)
    assert fresh.adapted_to.name is None


@pytest.mark.parametrize('importance', ['l2', 'variation', 'learned'])
def test_weights_without_a_name_warn_of_nothing_and_take_none_over(
        adapted, make_swin, importance):
    model = make_swin(sparsity=.5, importance=importance)
    assert heard(model) == []
    adapted_before = adapted()
    adapted_before.load_state_dict(make_swin().state_dict())
    assert adapted_before.adapted_to.name is None
    assert 'adapted_to.importance' not in adapted_before.state_dict()
    adapted_before.selection = Selection('l2')
    assert heard(adapted_before) == []


def test_training_under_another_score_warns_and_then_is_adapted_to_that(adapted):
    model = adapted()
    model.selection = Selection('l2')
    message, = heard(model, True)
    assert "importance='distinct'" in message and "trained under 'l2'" in message
    assert heard(model, True) == heard(model) == []
    assert bytes(model.state_dict()['adapted_to.importance'].tolist()).rstrip(b'\0') == b'l2'
    model.selection = Selection('distinct')
    assert len(heard(model)) == 1


@pytest.mark.parametrize('change', [lambda m: m.half().float(), lambda m: m.double()])
def test_casts_keep_the_name(adapted, make_swin, change):
    target = make_swin()
    target.load_state_dict(change(adapted()).state_dict())
    assert target.adapted_to.name == 'distinct'


def test_a_state_dict_does_not_change_as_training_goes_on(adapted):
    model = adapted()
    state = model.state_dict()['adapted_to.importance']
    before = state.clone()
    model.selection = Selection('l2')
    heard(model, True)
    assert torch.equal(state, before)

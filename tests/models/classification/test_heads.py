"""Classifiers of mmpretrain over Evo-ViT's backbones."""
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from sparsevit_mm import get_sparse_backbone

mmpretrain = pytest.importorskip('mmpretrain')
CONFIGS = ROOT / 'configs' / 'evo_vit'
NAMES = sorted(path.name for path in CONFIGS.glob('evovit-*_in1k.py'))
SHRUNK = {
    'deit': {'model.backbone': dict(img_size=32, patch_size=8, embed_dims=16, num_heads=2,
                                    num_layers=6), 'model.head.in_channels': 16},
    'levit': {'model.backbone': dict(img_size=64), 'model.head.in_channels': 32}}
LEVIT = dict(embed_dims=(16, 24, 32), num_heads=(1, 2, 2), depths=(2, 2, 2), key_dims=8)


def classifier(name):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.merge_from_dict({**SHRUNK['levit' if 'levit' in name else 'deit'],
                         'model.head.num_classes': 5})
    if 'levit' in name:
        cfg.model.backbone.arch = LEVIT
    cfg.model.data_preprocessor = dict(num_classes=5)
    init_default_scope('mmpretrain')
    import mmpretrain.models  # noqa: F401, registers
    return cfg, MODELS.build(cfg.model)


def samples(size, number=4):
    from mmpretrain.structures import DataSample
    images = torch.randint(0, 255, (number, 3, size, size), dtype=torch.uint8)
    return dict(inputs=list(images),
                data_samples=[DataSample().set_gt_label(i % 5) for i in range(number)])


def test_there_is_a_config_of_each_published_size():
    assert NAMES == [f'evovit-{name}_in1k.py' for name in (
        'deit-b', 'deit-s', 'deit-t', 'levit-128', 'levit-128s', 'levit-192', 'levit-256',
        'levit-384')]


@pytest.mark.parametrize('name', NAMES)
def test_a_classifier_of_each_config_trains_and_predicts(name):
    cfg, model = classifier(name)
    model.init_weights()
    batch = samples(64 if 'levit' in name else 32)
    assert not get_sparse_backbone(model).sparsity.is_dense
    assert 'TokenEvolutionHook' in {hook.type for hook in cfg.custom_hooks}
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    losses = model.train().train_step(batch, build_optim_wrapper(model, cfg.optim_wrapper))
    assert losses['loss'].isfinite()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    # Mixed images or not, from the class token to the head all learns.
    assert 'backbone.cls_token' in moved and any(key.startswith('head.') for key in moved)
    predicted = model.eval().test_step(samples(64 if 'levit' in name else 32))
    assert all(p.pred_score.shape == (5, ) for p in predicted)


@pytest.fixture
def features():
    return [[torch.randn(4, 16, 3, 2), torch.randn(4, 16)]]


def head(kind, **settings):
    import sparsevit_mm.models.classification  # noqa: F401, registers
    init_default_scope('mmpretrain')
    return MODELS.build(dict(type=kind, num_classes=5, in_channels=16, **settings))


@pytest.mark.parametrize('kind, settings', [
    ('EvoClsHead', {}), ('EvoLeViTClsHead', {}), ('EvoLeViTClsHead', dict(distillation=True))])
def test_the_class_token_is_half_of_the_loss_and_of_no_use_in_inference(
        kind, settings, features, randomise):
    made = randomise(head(kind, cal_acc=True, **settings))
    (patches, token), = features
    labels = samples(4)['data_samples']
    target = torch.tensor([0, 1, 2, 3])
    losses = made.train().loss(features, labels)
    parts = [F.cross_entropy(made.classify(x), target) for x in (patches.mean((2, 3)), token)]
    assert not torch.isclose(*parts)
    torch.testing.assert_close(losses['loss'], sum(parts) / 2)
    assert 'accuracy_top-1' in losses
    made.eval()
    expected = made.classify(patches.mean((2, 3)))
    assert torch.equal(made(features), expected)
    assert torch.equal(made([[patches, token + 1]]), expected)
    assert torch.equal(made.predict(features)[1].pred_score, expected.softmax(1)[1])


def test_two_heads_are_averaged(features, randomise):
    made = randomise(head('EvoLeViTClsHead', distillation=True)).eval()
    mean = features[0][0].mean((2, 3))
    assert torch.equal(made(features), (made.head(mean) + made.head_dist(mean)) / 2)
    assert set(made.state_dict()) == set(randomise(MODELS.build(dict(
        type='LeViTClsHead', num_classes=5, in_channels=16))).state_dict())


@pytest.mark.parametrize('last', [torch.randn(4, 16, 3, 2), [torch.randn(4, 16, 3, 2)]])
def test_a_backbone_without_the_class_token_is_refused(last):
    with pytest.raises(ValueError, match='output_cls_token=True'):
        head('EvoClsHead')([last])

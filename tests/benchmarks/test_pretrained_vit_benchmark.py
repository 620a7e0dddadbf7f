"""The benchmark of a pretrained ViT on a made-up ONNX file and made-up streets."""
import json
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
sys.path.insert(0, str(ROOT / 'benchmarks'))
import dino_weights  # noqa: E402
import pretrained_vit as benchmark  # noqa: E402
import street_scenes  # noqa: E402

from sparsevit_mm.models.vit.pretrained import translate  # noqa: E402

VIT = dict(patch_size=4, embed_dims=8, num_layers=3, num_heads=2, patch_bias=True,
           final_norm=True, norm_cfg=dict(type='LN', eps=1e-6))
SIDE, GRID, CLASSES = 12, 3, 4


class _Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.rand(8) + .5)

    def forward(self, x):
        return x * self.lambda1


class _Layer(nn.Module):
    """Of DINOv2, its parts named as transformers names them."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(8, eps=1e-6) for _ in range(2))
        self.attention = nn.Module()
        self.attention.attention = nn.ModuleDict(
            {name: nn.Linear(8, 8) for name in ('query', 'key', 'value')})
        self.attention.output = nn.ModuleDict(dict(dense=nn.Linear(8, 8)))
        self.mlp = nn.ModuleDict(dict(fc1=nn.Linear(8, 32), fc2=nn.Linear(32, 8)))
        self.layer_scale1, self.layer_scale2 = _Scale(), _Scale()

    def forward(self, x):
        q, k, v = (self.attention.attention[name](self.norm1(x)).unflatten(2, (2, 4)).transpose(
            1, 2) for name in ('query', 'key', 'value'))
        out = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        out = self.attention.output['dense'](out.transpose(1, 2).flatten(2))
        x = x + self.layer_scale1(out)
        hidden = nn.functional.gelu(self.mlp['fc1'](self.norm2(x)))
        return x + self.layer_scale2(self.mlp['fc2'](hidden))


class _Dino(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Module()
        self.backbone.embeddings.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.backbone.embeddings.patch_embeddings = nn.ModuleDict(
            dict(projection=nn.Conv2d(3, 8, 4, 4)))
        self.backbone.encoder = nn.ModuleDict(dict(layer=nn.ModuleList(
            _Layer() for _ in range(3))))
        self.backbone.layernorm = nn.LayerNorm(8, eps=1e-6)
        # An export cuts the embedding in two arrays.
        self.class_position = nn.Parameter(torch.randn(1, 1, 8))
        self.patch_position = nn.Parameter(torch.randn(1, GRID**2, 8))
        for norm in (m for m in self.modules() if isinstance(m, nn.LayerNorm)):
            nn.init.normal_(norm.weight, 1, .2)
            nn.init.normal_(norm.bias, 0, .2)

    def forward(self, image):
        embeddings = self.backbone.embeddings
        patches = embeddings.patch_embeddings['projection'](image).flatten(2).transpose(1, 2)
        token = embeddings.cls_token.expand(image.shape[0], -1, -1) + self.class_position
        x = torch.cat([token, patches + self.patch_position], 1)
        for layer in self.backbone.encoder['layer']:
            x = layer(x)
        return self.backbone.layernorm(x).mean(1)  # the rest stands for a decoder


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp('made') / 'vit.onnx'
    torch.manual_seed(0)
    with torch.no_grad():
        torch.onnx.export(_Dino().eval(), torch.zeros(1, 3, SIDE, SIDE), str(path), dynamo=False,
                          opset_version=17, input_names=['image'],
                          dynamic_axes=dict(image=[0]))
    return path


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(benchmark, 'VIT', VIT)
    monkeypatch.setattr(benchmark, 'MAPS', (1, 2))
    monkeypatch.setattr(benchmark, 'PRETRAINED_SIZE', SIDE)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('streets'), np.random.default_rng(0)
    for part, number in (('train', 3), ('val', 50)):
        images, labels = root / 'leftImg8bit' / part / 'a', root / 'gtFine' / part / 'a'
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(number):
            truth = rng.integers(CLASSES, size=(4, 5)).repeat(6, 0).repeat(5, 1).astype(np.uint8)
            image = (60 * truth)[..., None].repeat(3, -1)
            truth[:2] = street_scenes.IGNORED
            cv2.imwrite(str(images / f'a_{i:03}_leftImg8bit.png'), image)
            cv2.imwrite(str(labels / f'a_{i:03}_gtFine_labelTrainIds.png'), truth)
    return root


def test_features_of_converted_weights_are_those_of_onnxruntime(exported):
    model = onnx.load(str(exported))
    state = dino_weights.read_weights(model)
    backbone = benchmark.EvoVisionTransformer(img_size=SIDE, output_cls_token=True, **VIT).eval()
    new, left_out = translate(state)
    assert not left_out
    backbone.load_state_dict(new)
    image = torch.randn(1, 3, SIDE, SIDE)
    assert dino_weights.side_of(model) == SIDE
    assert dino_weights.largest_difference(backbone, model, image) < 1e-5
    backbone.layers[1].attn.attn.out_proj.bias.data[0] += .1
    assert dino_weights.largest_difference(backbone, model, image) > 1e-3


def test_areas_are_of_what_is_labelled(data):
    split = street_scenes.read_split(data, 'val', (12, 20))
    assert split.images.shape == (50, 3, 12, 20) and split.labels.shape == (50, 24, 25)

    class Constant(nn.Module):
        def forward(self, images):
            return nn.functional.one_hot(torch.zeros(1, 3, 5, dtype=torch.long), CLASSES).permute(
                0, 3, 1, 2).float()

    intersection, union = street_scenes.areas_of(Constant(), split, CLASSES)
    labelled = split.labels[:, 2:]
    assert (union[:, 0] == labelled[0].numel()).all()
    assert (intersection[:, 0] == (labelled == 0).sum((1, 2)).numpy()).all()
    assert not intersection[:, 1:].any()
    assert (union[:, 1] == (labelled == 1).sum((1, 2)).numpy()).all()
    with pytest.raises(FileNotFoundError, match='no images of test'):
        street_scenes.read_split(data, 'test', (12, 20))


def run(monkeypatch, exported, data, out, *options):
    monkeypatch.setattr(sys, 'argv', [
        'pretrained_vit.py', str(exported), str(data), '--out', str(out), '--size', '12', '20',
        '--head-iters', '2', '--iters', '2', *options])
    benchmark.main()


def test_a_run_goes_on_and_other_settings_are_refused(
        small, exported, data, tmp_path, monkeypatch, capsys):
    run(monkeypatch, exported, data, tmp_path, '--scores', 'class_attention')
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.json')}
    run(monkeypatch, exported, data, tmp_path, '--scores', 'class_attention', 'random')
    assert all(path.stat().st_mtime_ns == made for path, made in done.items())
    text = capsys.readouterr().out
    assert 'less random' in text and 'before: 0.7' in text
    record = json.loads((tmp_path / 'seed0' / 'after_random.json').read_text())
    assert {keep: len(draws) for keep, draws in record.items()} == {'1': 1, '0.7': 3, '0.5': 3}
    before = {score: json.loads((tmp_path / 'seed0' / f'before_{score}.json').read_text())
              for score in ('class_attention', 'random')}
    assert before['class_attention']['1'] == before['random']['1']
    assert before['class_attention']['0.5'] != before['random']['0.5']
    figure = street_scenes.figures(tmp_path / 'seed0' / 'after_dense.json')['1']
    assert figure.num_units == 10 and 0 < figure.estimate < 100
    start, adapted = (torch.load(tmp_path / 'seed0' / f'{name}.pth')['state']
                      for name in ('head', 'adapted_random'))
    assert all(not torch.equal(start[key], adapted[key])
               for key in ('backbone.pos_embed', 'head.bias'))
    with pytest.raises(SystemExit, match='choose another --out'):
        run(monkeypatch, exported, data, tmp_path, '--iters', '3')

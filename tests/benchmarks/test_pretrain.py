"""The benchmark that pretrains a backbone."""
import importlib.util
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmengine.config import ConfigDict
from mmseg.models.backbones import SwinTransformer as SegSwin

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.config.reading import load_config

SCRIPT = ROOT / 'benchmarks' / 'pretrain.py'
CLASSES = ('n01', 'n02', 'n03')
SIDE = 32


@pytest.fixture(scope='module')
def pretrain():
    spec = importlib.util.spec_from_file_location('pretrain', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A narrow segmentor as a config file; no more of it than the backbone."""
    path = tmp_path_factory.mktemp('config') / 'narrow.py'
    path.write_text(
        "custom_imports = dict(imports=['sparsevit_mm'])\n"
        "model = dict(backbone=dict(type='SparseSwinTransformer', embed_dims=8, depths=(2, 2), "
        'num_heads=(1, 2), strides=(4, 2), window_size=4, out_indices=(0, 1), sparsity=.5))\n')
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Tiny ImageNet in small: smooth images, each class of a colour of its own; one is grey."""
    folder = tmp_path_factory.mktemp('tiny')
    rng = np.random.default_rng(0)

    def write(path, label):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.resize(rng.uniform(0, 80, (4, 4, 3)).astype(np.float32), (SIDE, SIDE))
        pixels[..., label] += 150
        assert cv2.imwrite(str(path), pixels)

    for label, name in enumerate(CLASSES):
        for i in range(8):
            write(folder / 'train' / name / 'images' / f'{name}_{i}.JPEG', label)
    order = [2, 0, 1, 1, 0]
    for i, label in enumerate(order):
        write(folder / 'val' / 'images' / f'val_{i}.JPEG', label)
    grey = np.full((SIDE, SIDE), 99, np.uint8)
    assert cv2.imwrite(str(folder / 'train' / 'n01' / 'images' / 'n01_0.JPEG'), grey)
    (folder / 'val' / 'val_annotations.txt').write_text(''.join(
        f'val_{i}.JPEG\t{CLASSES[label]}\t0\t0\t9\t9\n' for i, label in enumerate(order)))
    return folder


@pytest.fixture(scope='module')
def run(pretrain, config, data):

    def call(out, **options):
        options = dict(dict(data=data, config=config, out=out, epochs=3, batch_size=8, lr=.1,
                            device='cpu'), **options)
        arguments = [f'--{key.replace("_", "-")}={value}' for key, value in options.items()]
        with mock.patch.object(sys, 'argv', ['pretrain.py', *arguments]):
            pretrain.main()
        return torch.load(out, map_location='cpu')

    return call


@pytest.fixture(scope='module')
def made(run, tmp_path_factory):
    path = tmp_path_factory.mktemp('made') / 'folder' / 'a.pth'
    return path, run(path)


@pytest.mark.parametrize('kind', [SparseSwinTransformer, DetSwin, SegSwin])
def test_the_checkpoint_fits_each_backbone(kind, config, made):
    path, held = made
    arguments = {key: value for key, value in load_config(str(config)).model.backbone.items()
                 if key != 'type' and (key != 'sparsity' or kind is SparseSwinTransformer)}
    backbone = kind(init_cfg=ConfigDict(type='Pretrained', checkpoint=str(path)), **arguments)
    backbone.init_weights()
    state = {key[9:]: value for key, value in held['state_dict'].items()
             if key.startswith('backbone.')}
    own = backbone.state_dict()
    assert set(state) == set(own)
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_it_learns_and_keeps_no_optimizer(made):
    _, held = made
    assert held['meta']['top1'] == 100 and held['meta']['epoch'] == 3
    assert set(held) == {'meta', 'state_dict'}


def test_a_stopped_run_goes_on_as_if_it_had_not_been(pretrain, run, made, tmp_path, capsys):
    path, (_, unbroken) = tmp_path / 'a.pth', made
    train_epoch = pretrain.train_epoch

    def stopped(*args):
        if args[3] == 2:
            raise KeyboardInterrupt
        return train_epoch(*args)

    with mock.patch.object(pretrain, 'train_epoch', stopped), pytest.raises(KeyboardInterrupt):
        run(path)
    assert 'optimizer' in torch.load(path)
    capsys.readouterr()
    resumed = run(path)
    assert capsys.readouterr().out.startswith('epoch 3/3: loss ')
    assert resumed['meta'] == unbroken['meta']
    assert all(torch.equal(resumed['state_dict'][key], value)
               for key, value in unbroken['state_dict'].items())


def test_a_finished_run_is_left_alone_and_another_is_refused(run, made):
    path, held = made
    before = path.read_bytes()
    assert run(path)['meta'] == held['meta'] and path.read_bytes() == before
    with pytest.raises(SystemExit, match='made with other settings'):
        run(path, seed=1)


def test_packs_hold_what_the_folder_holds(pretrain, data, tmp_path):
    pretrain.write_packs(data, tmp_path, quality=95)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['train_0.npz', 'train_1.npz',
                                                          'val_0.npz']
    every = torch.arange(24)
    for part, order in (('train', torch.cat([every[::2], every[1::2]])), ('val', every[:5])):
        split, packed = (pretrain.load_split(folder, part, 'cpu') for folder in (data, tmp_path))
        assert packed.images.shape == (len(order), 3, SIDE, SIDE)
        assert torch.equal(split.labels[order], packed.labels)
        assert (split.images[order].float() - packed.images).abs().mean() < 4


def test_a_folder_without_images_is_an_error(run, tmp_path):
    with pytest.raises(SystemExit, match='neither packs'):
        run(tmp_path / 'a.pth', data=tmp_path)

"""Swaps in new-style configs: those that import their bases (``read_base``) and types."""
from pathlib import Path

import pytest
from mmengine.config import Config

from sparsevit_mm import SparseSwinTransformer, SparsityAdaptationHook
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import find_backbone, load_config
from sparsevit_mm.config.swap import swap_backbone

RUNTIME = '''
from mmengine.hooks import EMAHook
custom_hooks = [dict(type=EMAHook, momentum=.1)]
work_dir = 'some/where'
'''
# Of packages that are not installed: a swap must not import what a config names.
CONFIG = '''
from mmengine.config import read_base
with read_base():
    from .runtime import *
import elsewhere.models
from nowhere.models import Detector, SwinTransformer
swin = dict(type=SwinTransformer, embed_dims=8, num_heads=(1, 2, 4, 8), depths=(2, 2, 6, 2))
model = dict(type=Detector, neck=dict(type=elsewhere.models.FPN, in_channels=[8, 16]), {})
'''
MODELS_WITH_SWIN = {
    'backbone=swin': 'model.backbone',
    'parts=[dict(a=1), (dict(img_backbone=swin), )]': 'model.parts.1.0.img_backbone',
    'backbone=dict(type=elsewhere.models.SwinTransformer)': 'model.backbone',
    'backbone=dict(type="mmdet.SwinTransformer", depths=(2, 2, 6, 2))': 'model.backbone'}


@pytest.fixture
def write(tmp_path):
    """Writes a new-style config with its base; gives its path."""

    def write_file(model='backbone=swin', name='configs/base.py', text=CONFIG):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / 'runtime.py').write_text(RUNTIME)
        path.write_text(text.format(model))
        return str(path)

    return write_file


def with_type(cfg, dotted, **changes):
    """A config as plain dicts in which one dict is changed."""
    cfg = node = cfg.to_dict()
    for key in dotted.split('.'):
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
    node.update(changes)
    return cfg


@pytest.mark.parametrize('model, dotted', MODELS_WITH_SWIN.items())
@pytest.mark.parametrize('name', ['configs/new.py', 'new.py', 'own/deep/new.py'])
def test_child_differs_in_the_type_alone(model, dotted, name, write, tmp_path):
    config, out = write(model), tmp_path / name
    swap, = swap_backbone(config, out, sparsity=.5)
    assert swap.dotted == dotted and swap.old_type.endswith('.SwinTransformer')
    child = load_config(str(out))
    assert child.to_dict() == with_type(
        load_config(config), dotted, type='sparsevit_mm.SparseSwinTransformer', sparsity=.5)
    assert Config._is_lazy_import(str(out)) and not list(out.parent.glob('.*'))


@pytest.mark.parametrize('hooks', [True, False])
def test_adaptation_is_appended_and_its_class_and_that_of_the_backbone_are_found(
        hooks, write, tmp_path):
    text = CONFIG.replace('nowhere', 'mmdet').replace('elsewhere', 'mmdet').replace(
        'Detector', 'RetinaNet')
    config = write(text=text if hooks else text.replace('import *', 'import work_dir'))
    out = tmp_path / 'new.py'
    swap_backbone(config, out, adapt=True)
    child = load_config(str(out))
    assert find_backbone(child) == ('model', 'backbone')
    assert child.model.backbone.type is SparseSwinTransformer
    assert isinstance(build_backbone(child), SparseSwinTransformer)
    types = [hook.type.__name__ for hook in child.custom_hooks]
    assert types == [*(['EMAHook'] if hooks else []), 'SparsityAdaptationHook']
    assert child.custom_hooks[-1].type is SparsityAdaptationHook
    child.dump(str(tmp_path / 'dumped.py'))  # as a Runner does: names stand for classes there
    assert isinstance(build_backbone(load_config(str(tmp_path / 'dumped.py'))),
                      SparseSwinTransformer)
    with pytest.raises(ValueError, match='already, at model.backbone'):
        swap_backbone(str(out), tmp_path / 'again.py')


def test_backbone_of_mmpretrain_is_replaced_by_its_translation(write, tmp_path):
    text = CONFIG.replace('nowhere', 'mmpretrain').replace(
        'embed_dims=8, num_heads=(1, 2, 4, 8), depths=(2, 2, 6, 2)', 'pad_small_map=True')
    swap_backbone(write('parts=(swin, )', text=text), tmp_path / 'new.py')
    assert load_config(str(tmp_path / 'new.py')).to_dict()['model']['parts'][0] == dict(
        type='sparsevit_mm.SparseSwinTransformer', embed_dims=96, depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24], strides=[4, 2, 2, 2], patch_size=4, out_indices=[3])


def test_base_in_an_installed_package_is_named_by_it(write, tmp_path, monkeypatch):
    config = write(name='site-packages/zoo_of_swins/configs/base.py')
    (tmp_path / 'site-packages/zoo_of_swins/__init__.py').touch()
    monkeypatch.syspath_prepend(str(tmp_path / 'site-packages'))
    swap_backbone(config, tmp_path / 'new.py')
    assert 'from zoo_of_swins.configs.base import *' in (tmp_path / 'new.py').read_text()


@pytest.mark.parametrize('name', ['swin-t.py', 'with-dash/base.py', 'class.py', '3d/base.py'])
def test_base_that_no_import_can_name_is_refused_with_what_to_do(name, write, tmp_path):
    config, out = write(name=name), tmp_path / 'new.py'
    with pytest.raises(ValueError, match=f'{name} is a new-style .*{out} .*beside it.*rename'):
        swap_backbone(config, out)
    assert not out.exists()
    if '/' in name:
        swap_backbone(config, Path(config).with_name('new.py'))


def test_a_link_leads_neither_child_nor_base_astray(write, tmp_path, monkeypatch):
    write(name='proj/configs/det.py')
    (tmp_path / 'disk/deep/er').mkdir(parents=True)
    (tmp_path / 'proj/work_dirs').symlink_to('../disk/deep/er')
    # A config that is a link itself is based on what lies beside the link.
    (tmp_path / 'proj/configs/det.py').rename(tmp_path / 'disk/det.py')
    (tmp_path / 'proj/configs/det.py').symlink_to('../../disk/det.py')
    monkeypatch.chdir(tmp_path / 'proj')
    for out in ('work_dirs/new.py', 'configs/new.py'):
        swap_backbone('configs/det.py', Path(out))
        assert load_config(out).model['backbone']['type'] is SparseSwinTransformer


def test_an_adaptation_loads_no_pretraining_that_the_model_names(write, tmp_path):
    config = write('backbone=swin, pretrained="imagenet.pth"')
    swap_backbone(config, tmp_path / 'configs/new.py', adapt=True)
    assert load_config(str(tmp_path / 'configs/new.py')).model['pretrained'] is None

import importlib
import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from sparsevit_mm import SparseSwinTransformer
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import find_backbone, find_type, load_config
from sparsevit_mm.config.swap import swap_backbone

SHIPPED = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
SWIN = dict(type='SwinTransformer', embed_dims=8, num_heads=(1, 2, 4, 8),
            init_cfg=dict(type='Pretrained', checkpoint='a.pth'), convert_weights=True)
SCOPED = dict(SWIN, type='mmdet.SwinTransformer')
NECK = dict(type='FPN', in_channels=[8, 16])
MODELS_WITH_SWIN = dict(
    backbone=dict(type='A', backbone=SWIN, neck=NECK),
    img_backbone=dict(type='A', img_backbone=SCOPED, neck=NECK),
    nested=dict(type='A', detector=dict(_scope_='mmdet', backbone=SWIN), neck=NECK),
    item=dict(type='A', parts=[NECK, dict(type='B', backbone=SCOPED)], neck=NECK),
    item_of_item=dict(type='A', parts=([NECK, SWIN], ), neck=NECK))
HOOKS = [dict(type='EMAHook', momentum=.1), dict(type='NumClassCheckHook')]
ADAPT = dict(type='SparsityAdaptationHook', distillation=1.)


def with_type(value, new='SparseSwinTransformer'):
    """A config in which each Swin is of another type."""
    if isinstance(value, dict):
        value = {k: with_type(v, new) for k, v in value.items() if k != '_scope_'}
        if str(value.get('type')).split('.')[-1] == 'SwinTransformer':
            value['type'] = new
    elif isinstance(value, (list, tuple)):
        value = type(value)(with_type(v, new) for v in value)
    return value


@pytest.mark.parametrize('model', MODELS_WITH_SWIN.values(), ids=MODELS_WITH_SWIN)
def test_child_differs_in_type_and_imports_alone(model, write, swapped):
    config = write(model=model, custom_hooks=HOOKS, default_scope='mmdet', load_from=None)
    child, base = swapped(config), load_config(config)
    assert child.pop('custom_imports') == dict(imports=['sparsevit_mm'])
    assert with_type(child.to_dict()) == with_type(base.to_dict())
    assert find_type(base, 'SwinTransformer') == [find_backbone(child)]
    assert build_backbone(child).num_features == [8, 16, 32, 64]


@pytest.mark.parametrize('name', ['base.json', 'base.yaml'])
def test_base_may_be_of_any_format(name, tmp_path, swapped):
    Config(dict(model=MODELS_WITH_SWIN['backbone'])).dump(str(tmp_path / name))
    assert swapped(str(tmp_path / name)).model.backbone.type == 'SparseSwinTransformer'


@pytest.mark.parametrize('settings, imports', [
    ({}, dict(imports=['sparsevit_mm'])),
    (dict(custom_imports=None), dict(imports=['sparsevit_mm'])),
    (dict(custom_imports=dict(imports='json')), dict(imports=['json', 'sparsevit_mm'])),
    (dict(custom_imports=dict(imports=['json', 'csv'], allow_failed_imports=True)),
     dict(imports=['json', 'csv', 'sparsevit_mm'], allow_failed_imports=True)),
    (dict(custom_imports=dict(imports=['sparsevit_mm', 'csv'])),
     dict(imports=['sparsevit_mm', 'csv']))])
def test_imports_of_the_base_are_kept(settings, imports, write, swapped):
    config = write(model=MODELS_WITH_SWIN['backbone'], **settings)
    assert swapped(config).custom_imports == imports


@pytest.mark.parametrize('model', ['backbone', 'item'])
@pytest.mark.parametrize('sparsity, written', [
    (None, None), ('0.6', .6), ([.5] * 4, .5),
    ('[[.3,.3],[0,0],[.1,.2,.3],.8]',
     [[.3, .3], [0, 0], [.1, .1, .2, .2, .3, .3], [.8, .8]])])
def test_sparsity_is_written(sparsity, written, model, write, swapped):
    child = swapped(write(model=MODELS_WITH_SWIN[model]), sparsity=sparsity)
    node = child
    for key in find_backbone(child):
        node = node[int(key)] if isinstance(node, list) else node[key]
    assert node.get('sparsity') == written


def test_config_of_a_toolkit_is_named_as_given(swapped, tmp_path, monkeypatch):
    child = swapped(SHIPPED, adapt=True)
    assert f"['{SHIPPED}']" in (tmp_path / 'out/new.py').read_text()
    base = load_config(SHIPPED).to_dict()
    model = child.to_dict()['model']
    assert model['backbone'].pop('skipped') == 'linear'
    assert model['backbone']['init_cfg'] is None and base['model']['backbone'].pop('init_cfg')
    del model['backbone']['init_cfg']
    assert with_type(model) == with_type(base['model'])
    assert child.model._scope_ == 'mmdet' and child.custom_hooks == [ADAPT]
    assert isinstance(build_backbone(child), SparseSwinTransformer)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmdet3d', None])
@pytest.mark.parametrize('own', [{}, dict(_scope_='mmdet'), dict(_scope_='mmseg')])
def test_bare_name_is_found_from_every_scope(scope, own, write, swapped):
    settings = {} if scope is None else dict(default_scope=scope)
    child = swapped(write(model=dict(type='A', backbone=dict(SWIN, **own)), **settings))
    assert isinstance(build_backbone(child), SparseSwinTransformer)


def test_child_means_the_same_from_any_directory(write, tmp_path, monkeypatch):
    write('a/base.py', model=MODELS_WITH_SWIN['backbone'])
    monkeypatch.chdir(tmp_path)
    swap_backbone('a/base.py', Path('b/c/new.py'))
    monkeypatch.chdir('/')
    child = load_config(str(tmp_path / 'b/c/new.py'))
    assert child.model.backbone.type == 'SparseSwinTransformer'


def test_child_of_a_child_and_options_over_it(write, swapped, tmp_path):
    write('base.py', model=MODELS_WITH_SWIN['backbone'], custom_hooks=HOOKS)
    middle = write('middle.py', _base_='base.py', model=dict(backbone=dict(with_cp=True)))
    child = swapped(middle, sparsity=.5)
    assert child.model.backbone.to_dict() == dict(
        SWIN, type='SparseSwinTransformer', with_cp=True, sparsity=.5)
    options = {'model.backbone.sparsity': .1, 'model.backbone.depths': (2, 2)}
    changed = load_config(str(tmp_path / 'out/new.py'), options)
    assert changed.model.backbone.sparsity == .1 and changed.model.neck == NECK
    last = write('out/last.py', _base_='new.py', model=dict(backbone=dict(sparsity=.2)))
    assert load_config(last).model.backbone.sparsity == .2


def test_all_of_several_backbones_are_swapped(write, swapped, tmp_path):
    model = dict(type='A', teacher=dict(backbone=SWIN), parts=[SWIN, dict(backbone=SCOPED)])
    config = write(model=model)
    swaps = swap_backbone(config, tmp_path / 'new.py')
    assert [(swap.dotted, swap.old_type) for swap in swaps] == [
        ('model.teacher.backbone', 'SwinTransformer'), ('model.parts.0', 'SwinTransformer'),
        ('model.parts.1.backbone', 'mmdet.SwinTransformer')]
    assert load_config(str(tmp_path / 'new.py')).model.to_dict() == with_type(model)
    with pytest.raises(ValueError, match='exactly one.*3: model.teacher.backbone, model.parts.0'):
        swap_backbone(config, tmp_path / 'adapted.py', adapt=True)


@pytest.mark.parametrize('settings, place', [
    (dict(backbone=dict(SWIN, type='mmpretrain.SwinTransformer')), None),
    (dict(backbone=dict(SWIN, type='mmcls.SwinTransformer')), None),
    (dict(backbone=dict(SWIN, _scope_='mmpretrain')), None),
    (dict(backbone=SWIN, _scope_='mmpretrain'), None),
    (dict(parts=[NECK, dict(SWIN, type='mmpretrain.SwinTransformer')]), ('parts', 1)),
    (dict(backbone=SWIN), 'mmpretrain')])
def test_backbone_of_mmpretrain_is_replaced_by_its_translation(settings, place, write, swapped):
    theirs = dict(arch='tiny', out_indices=(1, 2, 3), img_size=384, pad_small_map=True)
    settings = deepcopy(settings)
    node = settings['parts'][1] if 'parts' in settings else settings['backbone']
    for key in set(SWIN) - {'type'}:
        del node[key]
    node.update(theirs)
    scope = dict(default_scope='mmpretrain') if place == 'mmpretrain' else {}
    child = swapped(write(model=dict(type='A', neck=NECK, **settings), **scope), sparsity=.3)
    node = child.model.parts[1] if 'parts' in settings else child.model.backbone
    assert node.to_dict() == dict(
        type='SparseSwinTransformer', embed_dims=96, depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24], strides=[4, 2, 2, 2], patch_size=4, out_indices=[1, 2, 3],
        sparsity=.3)
    assert child.model.neck == NECK


@pytest.mark.parametrize('model, options, named', [
    (dict(backbone=dict(type='ResNet'), det=dict(img_backbone=dict(type='VoVNet'))), {},
     r'no SwinTransformer.*model.backbone \(ResNet\), model.det.img_backbone \(VoVNet\)'),
    (dict(type='A'), {}, 'no SwinTransformer.*none'),
    (None, {}, 'no SwinTransformer.*none'),
    (dict(backbone=dict(SWIN, type='SparseSwinTransformer')), {},
     'SparseSwinTransformer already, at model.backbone.*--sparsity'),
    (dict(backbone=dict(SWIN, own=1)), {}, 'model.backbone: .*takes no argument own'),
    (dict(parts=[dict(SWIN, type='mmpretrain.SwinTransformer', arch='t')]), {},
     'model.parts.0: pad_small_map=False'),
    (dict(backbone=SWIN), dict(sparsity='[.1,.2]'), r'model.backbone: .*2 entries.*\(2, 2, 6, 2\)'),
    (dict(backbone=SWIN), dict(sparsity='much'), "model.backbone: sparsity 'much'"),
    (dict(backbone=SWIN), dict(sparsity={}), 'model.backbone: sparsity must be'),
    (dict(backbone=dict(SWIN, window_size=-1)), {}, 'model.backbone: window_size -1'),
    (dict(backbone=dict(SWIN, depths=(2, 2, 2, 2, 2))), {}, 'model.backbone: num_heads .*depths'),
    (dict(parts=[SWIN, float('inf')]), {}, "state: name 'inf'")])
def test_what_can_not_be_swapped_is_refused_and_nothing_is_written(
        model, options, named, write, tmp_path):
    config, out = write(), tmp_path / 'new.py'
    Path(config).write_text(f'inf = float("inf")\nmodel = {model!r}')
    with pytest.raises(ValueError, match=named):
        swap_backbone(config, out, **options)
    assert sorted(tmp_path.iterdir()) == [Path(config)]
    out.write_text('precious = 1')
    with pytest.raises(ValueError, match=named):
        swap_backbone(config, out, overwrite=True, **options)
    assert out.read_text() == 'precious = 1'
    assert sorted(tmp_path.iterdir()) == [Path(config), out]


def test_target_that_is_there_or_a_base_or_no_python_is_refused(write, tmp_path):
    base = write(model=MODELS_WITH_SWIN['backbone'])
    config = write('folder/child.py', _base_=['../base.py'])
    before = {path: path.read_text() for path in tmp_path.rglob('*.py')}
    for out, options, kind, named in (
            (config, {}, ValueError, 'child.py is the config itself'),
            (config, dict(overwrite=True), ValueError, 'child.py is the config itself'),
            (base, {}, FileExistsError, 'base.py .*--overwrite'),
            (base, dict(overwrite=True), ValueError, 'base.py is a base of .*child.py'),
            (tmp_path / 'new.yaml', {}, ValueError, 'new.yaml.* must end in .py')):
        with pytest.raises(kind, match=named):
            swap_backbone(config, Path(out), **options)
    assert {path: path.read_text() for path in tmp_path.rglob('*.*')} == before
    swap_backbone(config, tmp_path / 'new.py')
    swap_backbone(config, tmp_path / 'new.py', sparsity=.5, overwrite=True)
    assert load_config(str(tmp_path / 'new.py')).model.backbone.sparsity == .5


def test_config_that_can_not_be_read_is_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.py'):
        swap_backbone(str(tmp_path / 'nowhere.py'), tmp_path / 'new.py')
    lost = write(model={}, custom_imports=dict(imports=['no.such.module']))
    with pytest.raises(ValueError, match='base.py .*no.such.module'):
        swap_backbone(lost, tmp_path / 'new.py')


@pytest.fixture(scope='module')
def shipped_configs():
    """(toolkit, path) of each config with a Swin that mmdet and mmseg ship."""
    found = []
    for toolkit in ('mmdet', 'mmseg'):
        root = Path(pytest.importorskip(toolkit).__file__).parent / '.mim' / 'configs'
        for path in sorted(root.rglob('*.py')):
            if 'swin' in (path.name + path.read_text(encoding='utf-8')).lower():
                if find_type(load_config(str(path)), 'SwinTransformer'):
                    found.append((toolkit, str(path)))
    return found


@pytest.mark.slow
@torch.no_grad()
def test_every_config_with_a_swin_that_the_toolkits_ship_is_swapped(
        shipped_configs, swapped, randomise):
    """Its child differs in the type of the backbone alone, and that gives the same features;
    widths are cut to one head in the first stage, nothing else is changed."""
    distinct, number = {}, 0
    for toolkit, path in shipped_configs:
        base, child = load_config(path).to_dict(), swapped(path, overwrite=True)
        node = child = child.to_dict()
        for key in find_backbone(child):
            node = node[int(key)] if isinstance(node, list) else node[key]
        assert child.pop('custom_imports')['imports'][-1] == 'sparsevit_mm'
        base.pop('custom_imports', None)
        assert with_type(base) == child, path
        args = {k: v for k, v in node.items() if k not in ('init_cfg', 'pretrained')}
        distinct[toolkit, json.dumps(args, sort_keys=True)] = args
        number += 1
    assert (number, len(distinct)) == (121, 35)
    for (toolkit, text), args in distinct.items():
        registry = importlib.import_module(f'{toolkit}.registry').MODELS
        init_default_scope(toolkit)
        importlib.import_module(f'{toolkit}.models')
        heads = args['num_heads'][0]
        args.update(embed_dims=args['embed_dims'] // heads,
                    num_heads=[n // heads for n in args['num_heads']])
        ours = registry.build(args)
        theirs = randomise(registry.build(dict(args, type='SwinTransformer')))
        assert isinstance(ours, SparseSwinTransformer)
        ours.load_state_dict(theirs.state_dict(), strict=True)
        image = torch.randn(1, args.get('in_channels', 3), 101, 133)
        for model in (theirs, ours):
            model.eval()
        for got, expected in zip(ours(image), theirs(image)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5, msg=text)


@pytest.mark.slow
@torch.no_grad()
def test_every_vit_that_mmseg_ships_is_swapped(swapped, randomise):
    """As above, for the VisionTransformer of vit, setr, segmenter, dpt and san; depths are cut."""
    root = Path(pytest.importorskip('mmseg').__file__).parent / '.mim' / 'configs'
    distinct, number = {}, 0
    for path in sorted(root.rglob('*.py')):
        if '_base_' in path.parts or not {'vit', 'setr', 'segmenter', 'dpt', 'san'} & {*path.parts}:
            continue
        if not find_type(load_config(str(path)), 'VisionTransformer'):
            continue
        child = swapped(str(path), overwrite=True)
        keys, = find_type(child, 'EvoVisionTransformer')
        node = child
        for key in keys:
            node = node[key]
        args = {k: v for k, v in node.to_dict().items() if k not in ('init_cfg', 'pretrained')}
        assert args.get('with_cls_token', True) or args['importance'] == 'received'
        distinct[json.dumps(args, sort_keys=True)] = args
        number += 1
    assert number == 30
    for text, args in distinct.items():
        registry = importlib.import_module('mmseg.registry').MODELS
        init_default_scope('mmseg')
        importlib.import_module('mmseg.models')
        cut = dict(num_layers=2, embed_dims=4 * args['num_heads'], out_indices=(0, 1),
                   img_size=64)
        ours = registry.build({**args, **cut})
        dense = {k: v for k, v in args.items() if k != 'importance'}
        theirs = randomise(registry.build({**dense, **cut, 'type': 'VisionTransformer'}))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        theirs.train(False)
        image = torch.randn(1, 3, 71, 90)
        for got, expected in zip(ours.eval()(image), theirs(image)):
            for a, b in zip(*((x if isinstance(x, list) else [x]) for x in (got, expected))):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=text)


def test_a_child_behind_a_link_finds_its_base(write, tmp_path, monkeypatch):
    write('proj/configs/det.py', model=dict(type='A', backbone=SWIN))
    (tmp_path / 'disk/deep/er').mkdir(parents=True)
    (tmp_path / 'proj/work_dirs').symlink_to('../disk/deep/er')
    monkeypatch.chdir(tmp_path / 'proj')
    for config, out in (('configs/det.py', 'work_dirs/new.py'),
                        ('work_dirs/../../../proj/configs/det.py', 'new.py')):
        swap_backbone(config, Path(out))
        assert load_config(out).model.backbone.type == 'SparseSwinTransformer'

"""Weights of any origin give the backbone that the toolkits would make of them."""
import importlib
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict

from sparsevit_mm import SparseSwinTransformer

TOOLKITS = ['mmdet', 'mmseg']
IMAGE = torch.randn(1, 3, 50, 61, generator=torch.Generator().manual_seed(0))


def init_cfg(path):
    return ConfigDict(type='Pretrained', checkpoint=str(path))


@pytest.fixture
def swin_of(narrow, randomise):
    """A toolkit's own Swin, with random weights or those that `source` gives."""

    def make(toolkit, source=None, **changes):
        module = importlib.import_module(f'{toolkit}.models.backbones.swin')
        if source is None:
            model = randomise(module.SwinTransformer(**narrow(**changes)))
        else:
            model = module.SwinTransformer(init_cfg=init_cfg(source), **narrow(**changes))
            model.init_weights()
        model.eval()
        return model

    return make


@pytest.fixture
def loaded(narrow):
    """Our backbone, loaded from a file, its weights far from the file's before."""

    def load(path, **changes):
        torch.manual_seed(99)
        model = SparseSwinTransformer(init_cfg=init_cfg(path), **narrow(**changes))
        model.init_weights()
        return model.eval()

    return load


@pytest.fixture
def save(tmp_path):

    def write(checkpoint):
        torch.save(checkpoint, tmp_path / 'weights.pth')
        return tmp_path / 'weights.pth'

    return write


def assert_same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-6, msg=name)


def assert_same_features(ours, theirs):
    for got, expected in zip(ours(IMAGE), theirs(IMAGE)):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('toolkit', TOOLKITS)
@pytest.mark.parametrize('prefix', ['', 'backbone.', 'img_backbone.', 'module.',
                                    'module.backbone.'])
@pytest.mark.parametrize('container', ['state_dict', 'model', None])
def test_toolkit_checkpoints_load(swin_of, loaded, save, toolkit, prefix, container):
    theirs = swin_of(toolkit)
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    if 'backbone' in prefix:
        state[prefix.replace('backbone', 'rpn_head') + 'weight'] = torch.ones(1)
    ours = loaded(save({container: state, 'meta': {}} if container else state))
    assert_same_weights(ours, theirs)
    assert_same_features(ours, theirs)


@pytest.fixture
def official(narrow, randomise):
    """A state dict as the official Swin repository writes it: its names, its classification
    head, its buffers."""

    def make(**changes):
        model = randomise(SparseSwinTransformer(**narrow(**changes)))
        state = {}
        for name, value in model.state_dict().items():
            if re.match(r'norm\d', name):
                continue
            for ours, theirs in [(r'^stages\.', 'layers.'), (r'\.w_msa\.', '.'),
                                 (r'ffn\.layers\.0\.0', 'mlp.fc1'), (r'ffn\.layers\.1', 'mlp.fc2'),
                                 (r'^patch_embed\.projection', 'patch_embed.proj')]:
                name = re.sub(ours, theirs, name)
            state[name] = value
        state['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
        state.update({'norm.weight': torch.ones(32), 'norm.bias': torch.ones(32),
                      'head.weight': torch.ones(10, 32), 'head.bias': torch.ones(10)})
        return {'model': state}

    return make


@pytest.mark.parametrize('changes', [
    dict(), dict(depths=(2, 1, 2), num_heads=(1, 2, 4), strides=(4, 2, 2), out_indices=(1, 2)),
    dict(patch_norm=False, qkv_bias=False)])
def test_official_checkpoints_load_as_mmdet_converts_them(swin_of, loaded, official, save,
                                                          changes):
    source = save(official(**changes))
    ours = loaded(source, convert_weights=True, **changes)
    theirs = swin_of('mmdet', source, convert_weights=True, **changes)
    assert_same_weights(ours, theirs)
    assert_same_features(ours, theirs)


def test_an_official_checkpoint_needs_convert_weights(loaded, official, save):
    source = save(official())
    with pytest.raises(ValueError, match='stages.0.blocks.0.attn.w_msa.qkv.weight'):
        loaded(source)


@pytest.mark.parametrize('window_size', [3, 6, 7])
@pytest.mark.parametrize('keep_index', [True, False])
def test_bias_tables_are_resized_as_mmdet_resizes_them(swin_of, loaded, save, window_size,
                                                       keep_index):
    """mmdet itself fails on the index buffers, which depend on the window size alone."""
    state = {f'backbone.{name}': value for name, value in
             swin_of('mmdet', window_size=window_size).state_dict().items()}
    bare = {name: value for name, value in state.items() if 'position_index' not in name}
    theirs = swin_of('mmdet', save({'state_dict': bare}))
    ours = loaded(save({'state_dict': state if keep_index else bare}))
    assert_same_weights(ours, theirs)
    assert_same_features(ours, theirs)


@pytest.mark.parametrize('size', [32, 48, 64])
@pytest.mark.parametrize('convert', [True, False])
def test_position_embeddings_are_resized(swin_of, loaded, official, save, size, convert):
    changes = dict(use_abs_pos_embed=True, pretrain_img_size=size)
    file = official(**changes) if convert else {
        'model': swin_of('mmdet', **changes).state_dict()}
    ours = loaded(save(file), use_abs_pos_embed=True, pretrain_img_size=48,
                  convert_weights=convert)
    grid = file['model']['absolute_pos_embed'].reshape(size // 4, size // 4, 16).permute(2, 0, 1)
    expected = F.interpolate(grid[None], size=(12, 12), mode='bicubic')[0].permute(1, 2, 0)
    torch.testing.assert_close(ours.absolute_pos_embed[0], expected.reshape(144, 16))


def test_a_head_of_another_count_is_misshapen(swin_of, loaded, save):
    source = save(swin_of('mmdet', num_heads=(4, 4)).state_dict())
    with pytest.raises(ValueError, match=r'relative_position_bias_table: \(49, 4\) in the file, '
                                         r'\(49, 2\) in the backbone'):
        loaded(source)


def test_a_file_that_does_not_fit_lists_keys(swin_of, loaded, save):
    state = swin_of('mmdet').state_dict()
    state['stages.0.blocks.0.norm1.surplus'] = state.pop('stages.0.blocks.0.norm1.weight')
    state['stages.1.blocks.0.norm1.bias'] = torch.zeros(5)
    source = save(state)
    with pytest.raises(ValueError) as error:
        loaded(source)
    for part in [str(source), "missing: ['stages.0.blocks.0.norm1.weight']",
                 "unexpected: ['stages.0.blocks.0.norm1.surplus']",
                 'stages.1.blocks.0.norm1.bias: (5,) in the file, (32,) in the backbone']:
        assert part in str(error.value)


@pytest.mark.parametrize('source', ['no/such/weights.pth', 'http://127.0.0.1:9/none.pth'])
def test_an_unreadable_source_is_named_and_a_way_out(loaded, source):
    with pytest.raises(FileNotFoundError) as error:
        loaded(source)
    assert source in str(error.value)
    assert 'local file' in str(error.value) and 'init_cfg' in str(error.value)


@pytest.mark.parametrize('content', [b'', b'no checkpoint', b'PK\x03\x04 cut short'])
def test_a_broken_file_is_named(loaded, tmp_path, content):
    source = tmp_path / 'broken.pth'
    source.write_bytes(content)
    with pytest.raises(ValueError, match=str(source)):
        loaded(source)


def test_the_deprecated_argument_loads_too(swin_of, narrow, save):
    theirs = swin_of('mmseg')
    source = str(save(theirs.state_dict()))
    with pytest.warns(DeprecationWarning, match='init_cfg'):
        ours = SparseSwinTransformer(pretrained=source, **narrow())
    ours.init_weights()
    assert_same_weights(ours, theirs)


def test_without_a_source_weights_start_as_mmdet_starts_them(narrow, swin_of):
    ours = SparseSwinTransformer(use_abs_pos_embed=True, pretrain_img_size=64, **narrow())
    theirs = swin_of('mmdet', use_abs_pos_embed=True, pretrain_img_size=64)
    torch.manual_seed(1)
    ours.init_weights()
    torch.manual_seed(1)
    theirs.init_weights()
    tables = 'relative_position_bias_table'  # mmdet draws these at construction, of the same law
    for (name, got), expected in zip(ours.state_dict().items(), theirs.state_dict().values()):
        if name.endswith('index') or name.startswith('patch_embed.projection'):
            continue
        spread = 0 if got.dim() == 1 else .02
        assert got.std() == pytest.approx(spread, rel=.4), name
        if tables not in name:
            assert got.mean() == pytest.approx(expected.mean().item(), abs=.005), name

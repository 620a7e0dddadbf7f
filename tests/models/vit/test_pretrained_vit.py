"""Checkpoints of plain ViTs under the names of five projects."""
import pytest
import torch

from sparsevit_mm import EvoVisionTransformer
from sparsevit_mm.models.grids import resize_grid

SHAPE = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=3, num_heads=2, patch_bias=True)
TO_MMPRETRAIN = [('.attn.attn.in_proj_', '.attn.qkv.'), ('.attn.attn.out_proj', '.attn.proj')]
TO_TIMM = [*TO_MMPRETRAIN, ('.ffn.layers.0.0', '.mlp.fc1'), ('.ffn.layers.1', '.mlp.fc2'),
           ('patch_embed.projection', 'patch_embed.proj'), ('layers.', 'blocks.'),
           ('.ln1.', '.norm1.'), ('.ln2.', '.norm2.')]


def renamed(state, names):
    new = {}
    for key, value in state.items():
        key = 'norm' + key[3:] if key.startswith('ln1.') and names is TO_TIMM else key
        for old, other in names:
            key = key.replace(old, other)
        new[key] = value
    return new


def build(path, **changes):
    model = EvoVisionTransformer(**{**SHAPE, **changes}, init_cfg=dict(
        type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    return model


@pytest.fixture
def source(randomise):
    return randomise(EvoVisionTransformer(**SHAPE, final_norm=True))


def with_head(state, width=16):
    return {**state, 'head.weight': torch.randn(10, width), 'head.bias': torch.randn(10)}


@pytest.mark.parametrize('origin', ['mmseg', 'mmseg model', 'timm', 'DeiT', 'mmpretrain',
                                    'distilled', 'mmpretrain distilled'])
def test_weights_of_every_origin_arrive(source, tmp_path, origin):
    state = source.state_dict()
    if 'distilled' in origin:
        extra = torch.randn(1, 1, 16)
        state = {**state, 'dist_token': extra, 'pos_embed': torch.cat(
            [state['pos_embed'][:, :1], extra, state['pos_embed'][:, 1:]], 1)}
    if 'mmpretrain' in origin:
        held = {f'backbone.{k}': v for k, v in renamed(state, TO_MMPRETRAIN).items()}
        held = dict(state_dict={**held, 'head.layers.head.weight': torch.randn(10, 16)})
    elif origin == 'mmseg':
        held = state
    elif origin == 'mmseg model':
        held = dict(state_dict={**{f'backbone.{k}': v for k, v in state.items()},
                                'decode_head.conv.weight': torch.randn(3)})
    else:
        held = with_head(renamed(state, TO_TIMM))
        held = dict(model=held) if origin == 'DeiT' else held
    torch.save(held, tmp_path / 'w.pth')
    loaded = build(tmp_path / 'w.pth', final_norm=True).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items())


def test_a_final_norm_without_a_place_and_a_head_are_left_out(source, tmp_path):
    torch.save(with_head(renamed(source.state_dict(), TO_TIMM)), tmp_path / 'w.pth')
    loaded = build(tmp_path / 'w.pth').state_dict()
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in loaded.items())


def test_a_part_of_a_checkpoint_loads_as_mmseg_takes_it(source, tmp_path):
    torch.save({f'image_encoder.{k}': v for k, v in source.state_dict().items()},
               tmp_path / 'w.pth')
    model = EvoVisionTransformer(**SHAPE, final_norm=True, init_cfg=dict(
        type='Pretrained_Part', checkpoint=str(tmp_path / 'w.pth')))
    model.init_weights()
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_positions_of_another_size_are_resized_where_the_grid_is_certain(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / 'w.pth')
    larger = build(tmp_path / 'w.pth', img_size=64, final_norm=True)
    assert larger.pos_embed.shape == (1, 65, 16)
    assert torch.equal(larger.pos_embed[:, 0], source.pos_embed[:, 0])
    state = source.state_dict()
    state['pos_embed'] = state['pos_embed'][:, :16]  # 15 patches
    torch.save(state, tmp_path / 'odd.pth')
    with pytest.raises(ValueError, match='15 positions .*4x4'):
        build(tmp_path / 'odd.pth', final_norm=True)


@pytest.mark.parametrize('changes, named', [
    (dict(patch_bias=False), 'patch_bias=True'), (dict(num_layers=4), r"missing: \['layers.3"),
    (dict(num_layers=2), r"unexpected: \['layers.2"), (dict(embed_dims=24, num_heads=3), '16')])
def test_what_does_not_fit_is_listed(source, tmp_path, changes, named):
    torch.save(source.state_dict(), tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=named):
        build(tmp_path / 'w.pth', final_norm=True, **changes)


def test_a_distillation_token_without_positions_lists_them_as_missing(source, tmp_path):
    state = {**source.state_dict(), 'dist_token': torch.zeros(1, 1, 16)}
    del state['pos_embed']
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='pos_embed'):
        build(tmp_path / 'w.pth', final_norm=True)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='w.pth'):
        build(tmp_path / 'w.pth')


def test_a_distillation_token_and_its_position_have_a_place_where_asked_for(randomise, tmp_path):
    source = randomise(EvoVisionTransformer(**SHAPE, with_dist_token=True, output_cls_token=True))
    torch.save(renamed(source.state_dict(), TO_MMPRETRAIN), tmp_path / 'w.pth')
    same = build(tmp_path / 'w.pth', with_dist_token=True).state_dict()
    assert all(torch.equal(same[key], value) for key, value in source.state_dict().items())
    larger = build(tmp_path / 'w.pth', with_dist_token=True, img_size=64)
    assert torch.equal(larger.pos_embed[:, :2], source.pos_embed[:, :2])
    (map_, token, distilled), = source(torch.randn(2, 3, 40, 32))
    assert map_.shape == (2, 16, 5, 4) and token.shape == distilled.shape == (2, 16)
    with pytest.raises(ValueError, match='with_dist_token needs with_cls_token'):
        EvoVisionTransformer(**SHAPE, with_dist_token=True, with_cls_token=False)


def test_positions_are_resized_in_any_mode():
    positions = torch.arange(4.).reshape(1, 4, 1)
    resized = resize_grid(positions, (2, 2), (4, 4), 'nearest').reshape(4, 4)
    assert torch.equal(resized, torch.kron(positions.reshape(2, 2), torch.ones(2, 2)))

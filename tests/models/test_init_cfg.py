"""Where a backbone's weights come from: what can't be followed is told when it is built."""
import pytest
import torch
from helpers import BACKBONE, backbone
from mmengine.registry import MODELS

from sparsevit_mm.config.arguments import check_swin
from sparsevit_mm.models.grids import grid_of, resize_grid
from sparsevit_mm.models.swin.pretrained import load_pretrained

VIT = dict(type='EvoVisionTransformer', img_size=16, patch_size=4, embed_dims=8, num_layers=2,
           num_heads=2)
WRONG = [dict(type='TruncNormal', layer='Linear', std=.02), [dict(type='Pretrained')],
         dict(type='Pretrained'), dict(type='Pretrained', checkpoint=123),
         dict(type='Pretrained', checkpoint='a.pth', strict=False)]


@pytest.mark.parametrize('init_cfg', WRONG, ids=str)
def test_what_can_not_be_followed_is_refused_when_built_and_in_a_swap(init_cfg):
    with pytest.raises(ValueError, match='init_cfg'):
        backbone(init_cfg=init_cfg)
    with pytest.raises(ValueError, match='init_cfg'):
        check_swin(dict(init_cfg=init_cfg))
    if isinstance(init_cfg, dict) and init_cfg['type'] == 'Pretrained':
        with pytest.raises(ValueError, match='init_cfg'):
            MODELS.build({**VIT, 'init_cfg': init_cfg})


@pytest.mark.parametrize('arguments, message', [
    (dict(pretrained=123), 'pretrained 123'), (dict(pretrain_img_size=(224, 224, 3)), '224, 3'),
    (dict(pretrain_img_size='224'), 'pretrain_img_size')])
def test_a_swap_tells_of_them_before_it_writes(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_swin(arguments)
    if 'pretrain_img_size' in arguments:
        with pytest.raises(ValueError, match=message):
            backbone(use_abs_pos_embed=True, **arguments)


@pytest.mark.parametrize('built, arguments', [(BACKBONE, {}), (VIT, {})])
def test_a_prefix_is_followed(tmp_path, built, arguments):
    source = MODELS.build(built)
    file = str(tmp_path / 'whole.pth')
    torch.save(dict(state_dict={
        **{f'student.encoder.{k}': v for k, v in source.state_dict().items()},
        **{f'backbone.{k}': v + 1 for k, v in source.state_dict().items()}}), file)
    init_cfg = dict(type='Pretrained', checkpoint=file, prefix='student.encoder.')
    model = MODELS.build({**built, 'init_cfg': init_cfg})
    model.init_weights()
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))
    wrong = MODELS.build({**built, 'init_cfg': {**init_cfg, 'prefix': 'teacher'}})
    with pytest.raises(ValueError, match="prefix 'teacher'"):
        wrong.init_weights()


@pytest.mark.parametrize('count, like, grid', [
    (64, (16, 16), (8, 8)), (32, (16, 8), (8, 4)), (128, (16, 32), (8, 16)),
    (3136, (40, 24), (56, 56))])
def test_a_grid_that_is_certain_is_taken(count, like, grid):
    assert grid_of(count, like, 'it') == grid


@pytest.mark.parametrize('count, like', [(64, (16, 4)), (64, (8, 32)), (30, (8, 8)), (48, (8, 4))])
def test_a_grid_that_is_not_certain_is_refused_with_both_shapes(count, like):
    with pytest.raises(ValueError, match=rf'it of {count} positions .*{like[0]}x{like[1]}'):
        grid_of(count, like, 'it')


def test_a_ramp_on_a_grid_that_is_no_square_stays_a_ramp():
    ramp = torch.arange(32.).view(1, 32, 1)  # 8 rows of 4
    resized = resize_grid(ramp, grid_of(32, (16, 8), 'it'), (16, 8)).view(16, 8)
    rows = resized.diff(dim=0)[3:-3]
    assert rows.allclose(rows.new_full(rows.shape, 2.), atol=.4)


def test_an_embedding_of_unknown_shape_is_no_bare_error(tmp_path):
    wide = backbone(use_abs_pos_embed=True, pretrain_img_size=(8, 16))
    file = str(tmp_path / 'wide.pth')
    torch.save(wide.state_dict(), file)
    square = backbone(use_abs_pos_embed=True, pretrain_img_size=16)
    with pytest.raises(ValueError, match='absolute_pos_embed.*32 positions.*8x8'):
        load_pretrained(square, file)
    double = backbone(use_abs_pos_embed=True, pretrain_img_size=(16, 32))
    load_pretrained(double, file)
    table = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    state = square.state_dict()
    state[table] = torch.zeros(11, state[table].shape[1])
    torch.save(state, file)
    with pytest.raises(ValueError, match='table of 11 positions'):
        load_pretrained(square, file)

"""Equal to the released Evo-ViT, as its values tell."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import deit_state, image, load, needs_reference

from sparsevit_mm import EvoVisionTransformer

HALF = [0] * 4 + [.5] * 8
BLEND = [1.] * 4 + [.5] * 8
RUNS = {
    'dense': dict(),
    'layer50': dict(sparsity=HALF),
    'sharp_layer50_t05': dict(sparsity=HALF, blend=.5),
    'sharp_stage50': dict(sparsity=[0, .5, .5], reselect='stage', stages=(4, 8)),
    'cut6_dense': dict(num_layers=6, blend=BLEND[:6]),
    'sharp_cut6_layer50': dict(num_layers=6, blend=BLEND[:6], sparsity=[0, 0] + [.5] * 4),
    'derived_rep_sharp_layer50_t05': dict(sparsity=HALF, blend=.5, fast='representative'),
}


def build(tmp_path, run, **settings):
    state = deit_state(settings.get('num_layers', 12), sharp='sharp' in run)
    torch.save(dict(model=state), tmp_path / 'evo.pth')
    settings = {**dict(fast='copy', num_layers=12, blend=BLEND), **settings}
    depth = settings['num_layers']
    model = EvoVisionTransformer(
        img_size=64, patch_size=8, embed_dims=48, num_heads=3, patch_bias=True, final_norm=False,
        norm_cfg=dict(type='LN', eps=1e-6), out_indices=range(depth), output_cls_token=True,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'evo.pth')), **settings)
    model.init_weights()
    return model.eval(), state


def sequences(outs):
    """(B, 1 + N, C) after each layer."""
    return [torch.cat([cls[:, None], out.flatten(2).transpose(1, 2)], 1) for out, cls in outs]


@needs_reference
@pytest.mark.parametrize('run', RUNS)
def test_features_selections_and_logits_are_the_released_ones(tmp_path, run):
    values = load('evo_deit.npz')
    model, state = build(tmp_path, run, **RUNS[run])
    with torch.no_grad(), model.recording() as maps:
        outs = sequences(model(image(64, 64)))
    maps = [layer for stage in maps for layer in stage]
    sample = values['sample_idx']
    for i, (x, ran) in enumerate(zip(outs, maps)):
        np.testing.assert_allclose(x.flatten()[sample], values[f'{run}/L{i}_feat'], 2e-5, 2e-5)
        np.testing.assert_allclose(x.mean(-1), values[f'{run}/L{i}_tokmean'], 2e-5, 2e-5)
        wanted = torch.ones(2, 64, dtype=torch.bool)
        if f'{run}/L{i}_sel' in values:
            selected = torch.from_numpy(values[f'{run}/L{i}_sel'].astype(np.int64))
            wanted = torch.zeros(2, 64, dtype=torch.bool).scatter(1, selected, True)
        assert torch.equal(ran.flatten(1), wanted), i
    pooled = F.layer_norm(outs[-1][:, 1:].mean(1), (48, ), state['norm.weight'],
                          state['norm.bias'], 1e-6)
    logits = F.linear(pooled, state['head.weight'], state['head.bias'])
    np.testing.assert_allclose(logits, values[f'{run}/logits'], 2e-5, 2e-5)


def test_a_few_of_the_values_without_the_files(tmp_path):
    model, _ = build(tmp_path, 'sharp_stage50', **RUNS['sharp_stage50'])
    with torch.no_grad(), model.recording() as maps:
        outs = sequences(model(image(64, 64)))
    assert maps[2][0].flatten(1)[0].nonzero().flatten().tolist()[:8] == [
        2, 5, 7, 9, 11, 12, 13, 15]
    np.testing.assert_allclose(outs[-1].mean(-1)[0, :4], [-.0517, .0073, -.2693, -.1243],
                               atol=1e-4)

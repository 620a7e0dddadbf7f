"""The laws that the windows of one stage keep."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from sparsevit_mm.models.selection.head import ImportanceHead
from sparsevit_mm.models.selection.importance import TOKEN_SCORES, TRAINED
from sparsevit_mm.models.selection.ranking import Selection, rank_windows, score_windows
from sparsevit_mm.models.selection.selector import TokenSelector
from sparsevit_mm.models.swin import layout
from sparsevit_mm.models.swin import stage as stage_module
from sparsevit_mm.models.swin.stage import SwinStage
from sparsevit_mm.models.windows import num_windows, partition
from sparsevit_mm.sparsity import kept_windows

WINDOW = 4
SIZES = st.tuples(st.integers(1, 14), st.integers(1, 14))
RATIOS = st.integers(1, 19).map(lambda i: i / 20)


@pytest.fixture
def make_stage(randomise):
    """Equal arguments give equal weights; the first blocks of a deeper stage have those of a
    shallower one."""

    def make(depth, drop_path=0., head=False):
        stage = SwinStage(
            depth=depth, drop_path_rates=[drop_path] * depth, downsample=None,
            window_size=WINDOW, embed_dims=8, num_heads=[2] * depth,
            feedforward_channels=[16] * depth, qkv_bias=True, qk_scale=None, drop_rate=0.,
            attn_drop_rate=0., act_cfg=dict(type='GELU'), norm_cfg=dict(type='LN'), with_cp=False)
        randomise(stage)
        if head:
            stage.importance = randomise(ImportanceHead(8))
            stage.selector = randomise(TokenSelector(8))
        return stage.eval()

    return make


def windows_of(size, shift):
    return partition(*size, WINDOW, shift, torch.device('cpu'))


def changed_windows(before, after, size, shift):
    """The set of windows of each image that hold a changed token; none is changed in part."""
    windows = windows_of(size, shift)
    result = []
    for changed in (before != after).any(-1):
        parts = [changed[tokens[tokens < len(changed)]] for tokens in windows.table]
        assert all(part.all() == part.any() for part in parts)
        result.append({w for w, part in enumerate(parts) if part.any()})
    return result


def features(size, batch_size=2):
    return torch.randn(batch_size, size[0] * size[1], 8)


@pytest.mark.parametrize('importance', sorted(TOKEN_SCORES))
@torch.no_grad()
@given(SIZES, RATIOS)
def test_a_block_changes_k_windows_and_no_bit_elsewhere(make_stage, importance, size, ratio):
    """The plain block first, then the shifted one, whose input is the plain block's output."""
    x, outputs = features(size), []
    for depth in (1, 2):
        stage = make_stage(depth, head=importance in TRAINED)
        torch.manual_seed(7)
        outputs.append(stage(x.clone(), size, [ratio] * depth, Selection(importance)))
    k = kept_windows(num_windows(*size, WINDOW), ratio)
    torch.manual_seed(7)
    token_scores = TOKEN_SCORES[importance](x, stage.map_info(size))
    for shift, before, after in [(0, x, outputs[0]), (WINDOW // 2, *outputs)]:
        ranking = rank_windows(score_windows(token_scores, windows_of(size, shift)))
        expected = [set(image[:k].tolist()) for image in ranking]
        assert changed_windows(before, after, size, shift) == expected


@torch.no_grad()
def test_ten_windows_at_nine_tenths_run_one(make_stage):
    x = features((8, 20), batch_size=3)
    after = make_stage(1)(x.clone(), (8, 20), [.9])
    assert [len(w) for w in changed_windows(x, after, (8, 20), 0)] == [1, 1, 1]


@torch.no_grad()
def test_a_stage_never_runs_no_window(make_stage):
    x = features((8, 8))
    after = make_stage(1)(x.clone(), (8, 8), [.99])
    assert [len(w) for w in changed_windows(x, after, (8, 8), 0)] == [1, 1]


@pytest.fixture
def selections(monkeypatch):
    """Every (ranking, selected) of a forward pass, in the order of the blocks that prune."""
    made, select = [], stage_module.select_windows

    def spy(ranking, num_kept):
        made.append((ranking, select(ranking, num_kept)))
        return made[-1][1]

    monkeypatch.setattr(stage_module, 'select_windows', spy)
    return made


def test_later_blocks_run_a_prefix_of_one_ranking(make_stage, selections):
    make_stage(5)(features((14, 17)), (14, 17), [0, .2, .2, .5, .8], Selection('random'))
    assert [s.shape[1] for _, s in selections] == [16, 16, 10, 4]
    for earlier, later in ((0, 2), (1, 3)):  # the shifted blocks, the plain ones
        assert selections[earlier][0] is selections[later][0]
        kept = selections[later][1]
        assert torch.equal(kept, selections[earlier][1][:, :kept.shape[1]])


def test_scores_come_from_the_first_block_that_prunes(make_stage, monkeypatch):
    stage, seen = make_stage(4), []
    score = TOKEN_SCORES['variation']
    monkeypatch.setitem(TOKEN_SCORES, 'variation',
                        lambda x, info: seen.append(x) or score(x, info))
    x = features((9, 13))
    stage(x, (9, 13), [0, 0, .3, .6])
    expected = x
    for block in stage.blocks[:2]:
        expected = block(expected, windows_of((9, 13), block.shift))
    assert len(seen) == 1 and torch.equal(seen[0], expected)


@pytest.mark.parametrize('importance', sorted(TOKEN_SCORES))
def test_a_dense_stage_neither_scores_nor_selects(make_stage, selections, monkeypatch, importance):
    stage = make_stage(2)
    monkeypatch.setitem(TOKEN_SCORES, importance, None)  # calling it fails
    for mode in (True, False):
        stage.train(mode)(features((9, 13)), (9, 13), [0, 0], Selection(importance))
    assert not selections
    with pytest.raises(TypeError):
        stage(features((9, 13)), (9, 13), [0, .5], Selection(importance))


@torch.no_grad()
@given(SIZES, RATIOS, RATIOS)
def test_the_order_of_windows_does_not_matter(make_stage, size, one, other):
    x, ratios, select = features(size), sorted([one, other]), stage_module.select_windows
    stage = make_stage(2)
    expected = stage(x.clone(), size, ratios)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, 'select_windows',
                      lambda *args: select(*args).flip(1))
        torch.testing.assert_close(stage(x, size, ratios), expected, atol=1e-6, rtol=1e-6)


@given(SIZES, RATIOS)
def test_windows_not_run_pass_gradients_through(make_stage, size, ratio):
    x = features(size).requires_grad_()
    stage = make_stage(2).train()
    after = stage(x, size, [ratio, ratio])
    gradient = torch.randn_like(after)
    after.backward(gradient)
    untouched = (after == x).all(-1)
    assert torch.equal(x.grad[untouched], gradient[untouched])
    assert not torch.isclose(x.grad[~untouched], gradient[~untouched]).all(-1).any()


@pytest.mark.parametrize('ratios', [[.2, .5, .5], [0, 0, .5]])
def test_where_gradients_flow_the_input_is_not_written_to(make_stage, ratios):
    x = features((8, 9))
    before = x.clone()
    make_stage(3)(x, (8, 9), ratios)
    assert torch.equal(x, before)


@given(SIZES, RATIOS, RATIOS)
def test_gradients_are_those_of_plain_indexing(make_stage, size, one, other):
    """The functional form, which autograd differentiates by itself, is the oracle. Of a token that
    is written several times one copy counts."""

    def put(x, values, rows, spare):
        if spare is not None:
            values = torch.where(spare.reshape(-1, 1), values.detach(), values)
        return x.flatten(0, 1).index_copy(0, rows, values).reshape(x.shape)

    ratios = sorted([one, other])
    stage, grads = make_stage(2).train(), []
    x = features(size)
    for functional in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if functional:
                patch.setattr(layout, 'put_rows', put)
                patch.setattr(layout, 'take_rows', lambda x, rows: (
                    x.flatten(0, 1).index_select(0, rows), x))
            leaf = x.clone().requires_grad_()
            stage.zero_grad()
            after = stage(leaf, size, ratios)
            after.backward(after.detach().cos())
        grads.append([leaf.grad, *(p.grad.clone() for p in stage.parameters())])
    for got, expected in zip(*grads):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_stage_may_be_checkpointed_as_a_whole(make_stage):
    """The reentrant form runs it without gradients first, then again on the same input."""
    x, stage, grads = features((8, 9)), make_stage(2).train(), []
    for run in (stage, lambda *args: checkpoint(stage, *args, use_reentrant=True)):
        leaf = x.clone().requires_grad_()
        run(leaf, (8, 9), [.5, .5]).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_a_gradient_that_others_hold_is_not_written_to(make_stage):
    x = features((8, 9)).requires_grad_()
    stage = make_stage(2)
    gradient = torch.randn(2, 72, 8)
    before = gradient.clone()
    stage(x, (8, 9), [.5, .5]).backward(gradient)
    assert torch.equal(gradient, before)
    stage(x, (8, 9), [.5, .5]).sum().backward()  # an expanded scalar: cannot be written to


def test_drop_path_is_drawn_per_image(make_stage):
    """An image keeps a branch in all of its windows or in none. Both branches of a block drop
    with probability 1/4; drawn by window, hardly an image would come out whole."""
    x = features((8, 16), batch_size=64)
    out = make_stage(1, drop_path=.5).train()(x, (8, 16), [.5])
    counts = [len(w) for w in changed_windows(x, out, (8, 16), 0)]
    assert set(counts) == {0, 4}
    assert 4 <= counts.count(0) <= 32


def test_drop_path_in_a_pruned_block_keeps_the_mean(make_stage):
    """Branches that stay are scaled by 1 / (1 - p); the mean over images is what eval gives."""
    x = features((4, 8), batch_size=1)
    stage = make_stage(1, drop_path=.5)
    stage.blocks[0].ffn.layers[1].weight.data.zero_()
    stage.blocks[0].ffn.layers[1].bias.data.zero_()
    expected = stage(x, (4, 8), [.5]) - x
    out = stage.train()(x.expand(32, -1, -1), (4, 8), [.5]) - x
    kept = out[out.flatten(1).any(1)]
    assert 4 <= len(kept) <= 28
    torch.testing.assert_close(kept, 2 * expected.expand_as(kept), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_windows_are_ranked_in_fp32(make_stage, selections, dtype):
    """Mean activations 1 and 1 + 2**-13, one number in bf16: the later window still wins."""
    x = torch.ones(1, 4, 8, 8)
    x[:, :, 4:, 0] += 2**-7
    stage = make_stage(1).to(dtype)
    stage(x.flatten(1, 2).to(dtype), (4, 8), [.5], Selection('magnitude'))
    assert selections[0][1].tolist() == [[1]]
    assert x.to(dtype).mean(-1)[0, 0].unique().numel() == (1 if dtype == torch.bfloat16 else 2)

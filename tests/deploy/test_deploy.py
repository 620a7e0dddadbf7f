import re
import sys
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from helpers import ROOT, backbone, refused, run_tool

from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.latency import LatencySetting
from sparsevit_mm.deploy import (check_onnx, check_program, export, export_onnx, export_program,
                                 measure_onnx, open_session)
from sparsevit_mm.models.swin.inspect import smallest_margin
from sparsevit_mm.deploy.export import random_image
from sparsevit_mm.models.selection.ranking import Selection
from sparsevit_mm.models.swin import stage

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

# Two heads: PyTorch lays their result out otherwise than that of one.
ONE_STAGE = dict(depths=(2, ), embed_dims=16, num_heads=(2, ), strides=(2, ), out_indices=(0, ))
PADDED, WHOLE = (18, 14), (16, 16)
CONFIG = '''
_base_ = '{root}/demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py'
model = dict(backbone=dict(_delete_=True, type='SparseSwinTransformer', embed_dims=8,
    depths=(1, 1), num_heads=(1, 2), strides=(2, 2), patch_size=2, window_size=2,
    out_indices=(0, 1), sparsity={sparsity}))
'''


@pytest.fixture(scope='module')
def sparse(randomise):
    return randomise(backbone(sparsity=.5, **ONE_STAGE)).eval()


@pytest.fixture(scope='module')
def dynamic(sparse, tmp_path_factory):
    """The file of `sparse`, for any batch of padded images."""
    path = tmp_path_factory.mktemp('dynamic') / 'any.onnx'
    export_onnx(sparse, path, PADDED, dynamic_batch=True)
    return path


@pytest.fixture
def config(tmp_path):

    def write(sparsity):
        path = tmp_path / 'tiny.py'
        path.write_text(CONFIG.format(root=ROOT, sparsity=sparsity))
        return path

    return write


def images(number, shape=PADDED):
    """One image after another, each with a bright square at a place of its own."""
    for i in range(number):
        image = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(i)) * .1
        image[..., 4 * i:4 * i + 8, :8] *= 50
        yield image


@contextmanager
def selections(change=lambda selected: selected):
    """The windows that PyTorch keeps, block by block."""
    seen, select = [], stage.select_windows

    def spy(*args):
        seen.append(change(select(*args)))
        return seen[-1]

    stage.select_windows = spy
    try:
        yield seen
    finally:
        stage.select_windows = select


def run(path, image):
    return [torch.from_numpy(out) for out in open_session(path).run(None, {'image': image.numpy()})]


def test_file_of_any_batch_equals_pytorch(dynamic, sparse):
    assert check_onnx(dynamic, sparse, [1, 2, 3], seeds=range(4)) < 1e-4
    assert check_onnx(dynamic, sparse) < 1e-4


@torch.no_grad()
def test_windows_are_selected_within_the_graph(dynamic, sparse):
    first, second = images(2)
    with selections() as kept:
        wanted = sparse(first)[0], sparse(second)[0]
    assert set(kept[0][0].tolist()) != set(kept[2][0].tolist())
    for image, features in zip((first, second), wanted):
        assert (run(dynamic, image)[0] - features).abs().max() < 1e-4
    # What a file with the first image's windows baked in would give for the second.
    baked = iter(kept[:2])
    with selections(lambda _: next(baked)):
        assert (sparse(second)[0] - wanted[1]).abs().max() > .1


def test_graph_ranks_gathers_and_scatters_and_tells_no_folder(dynamic, sparse):
    model = onnx.load(str(dynamic))
    assert {'TopK', 'ScatterND', 'Softmax'} < {node.op_type for node in model.graph.node}
    assert [(o.domain, o.version) for o in model.opset_import] == [('', 18)]
    assert {p.key: p.value for p in model.metadata_props} == {'sparsity': str(sparse.sparsity)}
    assert str(ROOT).encode() not in dynamic.read_bytes()
    image, = model.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        'batch', 3, *PADDED]


def test_dense_file_of_one_batch_and_its_latency(randomise, tmp_path):
    model = randomise(backbone(depths=(1, 1))).double().train()
    before = deepcopy(model.state_dict())
    path = tmp_path / 'dense.onnx'
    export_onnx(model, path, WHOLE, batch_size=2)
    assert check_onnx(path, model) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ['dense.onnx']
    assert model.training and model.sparsity.is_dense
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype
               for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match='batches of 2 only'):
        check_onnx(path, model, [1])
    file, eager = measure_onnx([path, path], [model], LatencySetting(WHOLE, 2), rounds=2)
    assert len(file) == 2 and file[0].ratio == eager[0].ratio == 1
    assert all(0 < t.low <= t.median <= t.high for t in file + eager)


@pytest.mark.parametrize('shape, dynamic_batch', [(PADDED, True), (WHOLE, False)])
def test_program_equals_pytorch(sparse, tmp_path, shape, dynamic_batch):
    path = tmp_path / 'sparse.pt2'
    export_program(sparse, path, shape, 2, dynamic_batch)
    assert check_program(path, sparse) < 1e-4


@pytest.mark.parametrize('selection, how', [
    (dict(scope='group', group_size=3), dict(dynamic_batch=True)),
    pytest.param(dict(scope='group', group_size=2), dict(batch_size=4), marks=pytest.mark.slow),
    pytest.param(dict(scope='group'), dict(batch_size=2), marks=pytest.mark.slow)])
@pytest.mark.parametrize('shape', [PADDED, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_images_of_a_file_share_a_budget(randomise, tmp_path, selection, how, shape):
    model = randomise(backbone(sparsity=.5, **selection, **ONE_STAGE)).eval()
    export_onnx(model, tmp_path / 'm.onnx', shape, **how)
    assert check_onnx(tmp_path / 'm.onnx', model) < 1e-4
    export_program(model, tmp_path / 'm.pt2', shape, **how)
    assert check_program(tmp_path / 'm.pt2', model) < 1e-4


@pytest.mark.parametrize('importance', [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ('variation', 'distinct')), 'learned'])
@pytest.mark.parametrize('shape, how', [
    pytest.param(PADDED, dict(dynamic_batch=True), marks=pytest.mark.slow), (WHOLE, {})])
def test_scores_of_the_map_are_in_the_graph(randomise, tmp_path, importance, shape, how):
    model = randomise(backbone(sparsity=.5, importance=importance, **ONE_STAGE)).eval()
    export_onnx(model, tmp_path / 'm.onnx', shape, **how)
    assert check_onnx(tmp_path / 'm.onnx', model) < 1e-4
    export_program(model, tmp_path / 'm.pt2', shape, **how)
    assert check_program(tmp_path / 'm.pt2', model) < 1e-4
    others = {}
    for name in ('magnitude', importance):  # the file heeds the score
        model.selection = Selection(name)
        with torch.no_grad():
            others[name] = model(random_image(model, shape, 1, 0))[0]
    assert (others['magnitude'] - others[importance]).abs().max() > .1


@pytest.mark.filterwarnings('ignore:the checkpoint was adapted under')
def test_weights_adapted_under_another_score_are_exported_too(tmp_path):
    """The warning about them stays out of the graph."""
    model = backbone(sparsity=.5, importance='variation', **ONE_STAGE)
    model.train()(torch.randn(1, 3, *WHOLE))
    model.selection = Selection('distinct')
    export_program(model, tmp_path / 'm.pt2', WHOLE)
    assert check_program(tmp_path / 'm.pt2', model) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('sparsity', [0., .5, [[.3, .3], [.5, .5]]])
@pytest.mark.parametrize('shape, how', [
    (PADDED, dict(batch_size=3)), (PADDED, dict(dynamic_batch=True)),
    (WHOLE, dict(dynamic_batch=True)), (WHOLE, dict(opset=20))])
def test_two_stages_equal_pytorch(randomise, tmp_path, sparsity, shape, how):
    model = randomise(backbone(sparsity=sparsity, importance='l2', use_abs_pos_embed=True))
    export_onnx(model, tmp_path / 'm.onnx', shape, **how)
    assert check_onnx(tmp_path / 'm.onnx', model, seeds=range(5)) < 1e-4


@pytest.mark.parametrize('arguments, settings, named', [
    (dict(shape=(0, 16)), {}, 'shape .0, 16.'),
    (dict(shape=(16., 16)), {}, 'shape .16.0, 16.'),
    (dict(shape=(16, )), {}, 'shape .16,.'),
    (dict(batch_size=0), {}, 'batch size 0'),
    (dict(opset=17), {}, 'opset 17 .*18'),
    (dict(name='m.pb'), {}, 'does not end in .onnx'),
    ({}, dict(importance='random', sparsity=.5), 'random'),
    (dict(dynamic_batch=True), dict(scope='group', sparsity=.5), 'a batch of fixed size'),
    (dict(batch_size=4), dict(scope='group', group_size=3, sparsity=.5),
     'multiple of the group size, 3')])
def test_what_can_not_be_exported_is_refused_by_name(tmp_path, arguments, settings, named):
    arguments = dict(dict(shape=WHOLE, name='m.onnx'), **arguments)
    path = tmp_path / arguments.pop('name')
    with pytest.raises(ValueError, match=named):
        export_onnx(backbone(**settings), path, **arguments)
    assert not list(tmp_path.iterdir())


def test_missing_folder_package_and_torch_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        export_onnx(backbone(), tmp_path / 'nowhere' / 'm.onnx', WHOLE)
    monkeypatch.setattr(export, 'MIN_TORCH', '99')
    for function, name in ((export_onnx, 'm.onnx'), (export_program, 'm.pt2')):
        with pytest.raises(ValueError, match='torch >= 99'):
            function(backbone(), tmp_path / name, WHOLE)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ValueError, match='onnxscript.*pip install onnx onnxruntime onnxscript'):
        export_onnx(backbone(), tmp_path / 'm.onnx', WHOLE)


def test_weights_beyond_the_limit_of_a_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'MAX_BYTES', 100)
    with pytest.raises(ValueError, match='weights exceed'):
        export_onnx(backbone(), tmp_path / 'm.onnx', WHOLE)


@pytest.mark.parametrize('function, name, broken', [
    (export_onnx, 'm.onnx', 'onnx.export'), (export_program, 'm.pt2', 'export.save')])
def test_failed_export_keeps_the_file_that_was_there(tmp_path, monkeypatch, function, name, broken):

    def fail(*args, **kwargs):
        for path in args:
            if str(path).endswith('.pt2'):
                path.write_bytes(b'half')
        raise RuntimeError('disk full')

    monkeypatch.setattr(f'torch.{broken}', fail)
    (tmp_path / name).write_bytes(b'old')
    with pytest.raises(RuntimeError, match='disk full'):
        function(backbone(depths=(1, 1)), tmp_path / name, WHOLE)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b'old')]


def test_file_that_differs_is_refused_with_the_figures(dynamic, sparse, randomise):
    other = randomise(backbone(sparsity=.5, **ONE_STAGE), seed=1)
    with pytest.raises(ValueError, match=r'output stage0 differs from PyTorch by .* batch 1.*'
                                         r'rounding does not explain'):
        check_onnx(dynamic, other)
    with pytest.raises(ValueError, match='the file gives outputs'):
        check_onnx(dynamic, backbone(**dict(ONE_STAGE, embed_dims=8)))
    with pytest.raises(ValueError, match='differs'):
        check_onnx(dynamic, sparse, tolerance=0.)


def test_a_tie_is_reported_as_one(dynamic, sparse, monkeypatch):
    monkeypatch.setattr('sparsevit_mm.deploy.check.ROUNDING', float('inf'))
    with pytest.raises(ValueError, match='the other may have been kept'):
        check_onnx(dynamic, sparse, tolerance=0.)


def test_smallest_margin_is_the_gap_between_kept_and_left_out(sparse):
    image = next(images(1))
    gap = smallest_margin(sparse, image)
    assert 0 < gap < 1
    assert smallest_margin(sparse, torch.zeros_like(image)) == 0  # every window is like the next
    dense = deepcopy(sparse)
    dense.sparsity = 0.
    assert smallest_margin(dense, image) == float('inf')


def test_tool_exports_checks_and_times_a_dense_backbone(config, tmp_path):
    outcome = run_tool('export_onnx', config(0.), '--out', tmp_path / 'm.onnx', '--shape', 16, 16,
                       '--rounds', 1, '--threads', 1, '--batch-size', 2,
                       model__backbone__out_indices='(1,)')
    assert outcome.code == 0, outcome.error
    for line in ('weights are random', 'image: 2 x 3 x 16 x 16', 'stage1: 2 x 16 x 4 x 4',
                 'difference from PyTorch', 'on 3 random inputs', 'batch 2 of 16x16, fp32'):
        assert line in outcome.output
    assert sum('│' in line for line in outcome.output.splitlines()) == 1


@pytest.mark.slow
def test_tool_times_a_trained_sparse_backbone_beside_dense(config, tmp_path):
    path = config(.5)
    model = build_backbone(load_config(str(path)))
    checkpoint, program = tmp_path / 'c.pth', tmp_path / 'm.pt2'
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    torch.save(dict(state_dict={**state, 'rpn_head.bias': torch.zeros(1)}), checkpoint)
    outcome = run_tool('export_onnx', path, checkpoint, '--out', tmp_path / 'm.onnx', '--shape',
                       18, 14, '--rounds', 1, '--threads', 1, '--dynamic-batch', '--sparsity',
                       '[.2,.6]', '--torch-export', program)
    assert outcome.code == 0, outcome.error
    assert 'random weights' not in outcome.output and 'image: batch x 3 x 18' in outcome.output
    assert str(program) in outcome.output.replace('\n', '')
    rows = [line for line in outcome.output.splitlines() if '│' in line]
    assert rows[0].startswith('│ dense') and len(rows) > 1
    model.sparsity = [.2, .6]
    assert check_onnx(tmp_path / 'm.onnx', model, [1, 2]) < 1e-4
    assert check_program(program, model, [1, 2]) < 1e-4


@pytest.mark.parametrize('keys, named', [
    (['backbone.stages.0.odd'], 'does not fit.*\n.*Missing.*\n.*stages.0.odd'),
    (['neck.weight'], 'no key that starts with backbone.')])
def test_tool_refuses_a_checkpoint_that_does_not_fit(config, tmp_path, keys, named):
    torch.save(dict(state_dict={key: torch.zeros(1) for key in keys}), tmp_path / 'c.pth')
    message = refused('export_onnx', config(0.), tmp_path / 'c.pth', '--out', tmp_path / 'm.onnx')
    assert re.search(named, message)
    assert not (tmp_path / 'm.onnx').exists()


@pytest.mark.parametrize('arguments, named', [
    (['--sparsity', '2'], 'stage 0'), (['--shape', 0, 16], 'shape'),
    (['--batch-size', 0], 'batch size'), (['--out', 'nowhere/m.onnx'], 'nowhere'),
    (['--out', 'm.engine'], '.onnx')])
def test_tool_refuses_unusable_arguments(config, arguments, named):
    assert named in refused('export_onnx', config(0.), *arguments)

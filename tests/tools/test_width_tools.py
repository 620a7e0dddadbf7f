"""Order, search with widths, run, cut for good: one checkpoint through the tools."""
import json

import pytest
import torch
from helpers import refused, run_tool
from test_search_modes import FEW, search, steady_latencies, summary_of
from trained import metrics_of

from sparsevit_mm import Front, set_latency_budget
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.macs import backbone_macs
from sparsevit_mm.evaluation.loading import load_model, prepare
from sparsevit_mm.operating_point import operating_point
from sparsevit_mm.search.pipeline import SearchPipeline
from sparsevit_mm.widths import KINDS, StageWidths

WIDTHS = ['--widths', 'heads=1,.5', 'ffn=1,.5']
IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def ordered(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp('ordered') / 'ordered.pth'
    done = run_tool('order_units', tiny.config, tiny.checkpoint, '-o', path)
    assert done.code == 0, done.error
    assert f'wrote {path}' in done.output
    return path


@pytest.fixture(scope='module')
def searched(tiny, ordered, tmp_path_factory):
    """Folder and summary of a search of the front."""
    folder = tmp_path_factory.mktemp('searched')
    with steady_latencies():
        done = run_tool('search_sparsity', tiny.config, ordered, '--work-dir', folder, *FEW,
                        '--pareto', '--points', '90%,55%', '--trials', 14, '--finalists', 1,
                        *WIDTHS)
    assert done.code == 0, done.error
    return folder, summary_of(folder)


def backbone_of(config, checkpoint):
    return build_backbone(load_config(str(config)), str(checkpoint)).eval()


@torch.no_grad()
def run(backbone):
    return backbone(IMAGE)


@pytest.mark.parametrize('importance', ['l1', 'taylor'])
def test_ordering_changes_nothing_of_what_the_model_gives(tiny, tmp_path, importance):
    out = tmp_path / 'ordered.pth'
    done = run_tool('order_units', tiny.config, tiny.checkpoint, '-o', out, '--importance',
                    importance, '--num-images', 4)
    assert done.code == 0, done.error
    before, after = backbone_of(tiny.config, tiny.checkpoint), backbone_of(tiny.config, out)
    for one, other in zip(run(before), run(after)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert after.unit_order and not before.unit_order
    moved = [not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters())]
    assert any(moved)
    message = refused('order_units', tiny.config, tiny.checkpoint, '-o', out)
    assert f'{out} already exists' in message


def test_an_unordered_checkpoint_is_refused_with_the_command(tiny, tmp_path):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path,
                      *FEW, '--max-latency', '90%', *WIDTHS)
    assert '--widths' in message and 'python tools/order_units.py CONFIG CHECKPOINT' in message


@pytest.mark.parametrize('widths, message', [
    ('heads=1,2', 'width of heads is 2.0'), ('tails=1', "widths of 'tails'"), ('ffn', 'is not')])
def test_bad_widths_are_refused(tiny, ordered, tmp_path, widths, message):
    assert message in refused('search_sparsity', tiny.config, ordered, '--work-dir', tmp_path,
                              *FEW, '--max-latency', '90%', '--widths', widths)


def test_a_masked_checkpoint_is_not_ordered(tiny, tmp_path):
    held = torch.load(tiny.checkpoint, weights_only=False)
    torch.save(dict(held, structured_sparse_training={}), tmp_path / 'masked.pth')
    message = refused('order_units', tiny.config, tmp_path / 'masked.pth', '-o',
                      tmp_path / 'new.pth')
    assert 'compact it first' in message


def test_candidates_have_widths_and_their_macs(tiny, ordered, searched):
    _, summary = searched
    backbone = backbone_of(tiny.config, ordered)
    points = [c.config for c in summary.candidates]
    names = {*(f'ffn_stage{stage}' for stage in range(4)), 'heads_stage2', 'heads_stage3'}
    assert all(set(dict(point.knobs)) == names for point in points)
    assert len({point.knobs for point in points}) > 3
    for candidate in summary.candidates:
        assert candidate.macs == backbone_macs(backbone, (64, 64), 1, candidate.config)
        if candidate.latency is not None:  # of the backbone, by its MACs
            assert candidate.latency == pytest.approx(candidate.macs / 1e6)
    assert summary.dense.macs == backbone_macs(backbone, (64, 64))


def test_the_winner_is_the_point_that_was_judged(tiny, ordered, searched):
    folder, summary = searched
    for finalist in summary.finalists:
        point = finalist.candidate.config
        config = folder / f'winner_{finalist.name.replace("%", "pct")}.py'
        backbone = backbone_of(config, ordered)
        assert backbone.widths == StageWidths.of(None, 4).at(point)
        assert backbone.sparsity.ratios == point.ratios
        model = backbone_of(tiny.config, ordered)
        model.sparsity, model.widths = point, backbone.widths
        assert all(map(torch.equal, run(backbone), run(model)))


def test_the_front_sets_them_at_run_time(tiny, ordered, searched):
    cfg = load_config(str(tiny.config))
    prepare(cfg, 'cpu')
    model, _ = load_model(cfg, str(ordered), 'cpu')
    front = Front.load(searched[0] / 'front.json')
    assert all(len(p['knobs']) == 6 for p in json.loads(
        (searched[0] / 'front.json').read_text())['points'])
    for point in front.points:
        assert set_latency_budget(model, point.latency, front) == point.config
        assert model.backbone.widths == StageWidths.of(None, 4).at(point.config)


def test_the_report_names_them(searched):
    done = run_tool('search_report', searched[0], '--images', 1, '--device', 'cpu')
    assert done.code == 0, done.error
    page = (searched[0] / 'report.html').read_text()
    assert any(f.candidate.config.label in page for f in searched[1].finalists)
    assert 'Not drawn' not in page


def test_a_winners_widths_are_cut_for_good(tiny, ordered, searched, tmp_path):
    folder, summary = searched
    narrow = operating_point(summary.dense.config, {
        f'{kind}_stage{stage}': .5 for kind in KINDS for stage in range(4)})
    config = tmp_path / 'narrow.py'
    config.write_text(f"_base_ = ['{folder / 'winner_55pct.py'}']\nmodel = dict(backbone=dict("
                      f"widths={StageWidths.of(None, 4).at(narrow).to_dict()}))\n")
    done = run_tool('compact_model', config, ordered, '-o', tmp_path / 'small.py')
    assert done.code == 0, done.error
    assert float(done.output.split('differ by ')[1].split()[0]) < 1e-5
    before = backbone_of(config, ordered)
    after = backbone_of(tmp_path / 'small.py', tmp_path / 'small.pth')
    assert after.widths.is_full and not before.widths.is_full
    assert after.sparsity == before.sparsity
    for one, other in zip(run(before), run(after)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert backbone_macs(after, (64, 64)) == backbone_macs(before, (64, 64))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    assert sizes[1] < .8 * sizes[0]
    assert metrics_of(config, ordered) == pytest.approx(
        metrics_of(tmp_path / 'small.py', tmp_path / 'small.pth'), abs=1e-3)


def test_widths_alone_are_searched(tiny, ordered, tmp_path):
    with steady_latencies():
        done = search(tiny._replace(checkpoint=ordered), tmp_path, '--max-latency', '90%',
                      '--trials', 4, '--choices', 0, *WIDTHS)
    assert done.code == 0, done.error
    points = [c.config for c in summary_of(tmp_path).candidates]
    assert all(point.is_dense for point in points) and len(set(points)) >= 4


def test_the_search_leaves_the_models_own_values_to_its_end(tiny, ordered, tmp_path, monkeypatch):
    """What is measured at the end as the dense model has all units, whatever was evaluated last."""
    seen = []
    own = SearchPipeline._end

    def end(pipeline, key):
        seen.append(pipeline.backbone.widths)
        own(pipeline, key)

    monkeypatch.setattr(SearchPipeline, '_end', end)
    with steady_latencies():
        done = search(tiny._replace(checkpoint=ordered), tmp_path, '--max-latency', '95%',
                      '--trials', 3, *WIDTHS)
    assert done.code == 0, done.error
    assert seen and all(widths.is_full for widths in seen)

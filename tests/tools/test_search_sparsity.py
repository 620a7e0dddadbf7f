import csv
import shutil

import optuna
import pytest
from helpers import refused, run_tool
from mmengine.config import Config
from trained import lines_of, metrics_of

from sparsevit_mm import SparsityConfig
from sparsevit_mm.config.building import build_backbone
from sparsevit_mm.config.reading import load_config
from sparsevit_mm.cost.macs import backbone_macs

DEPTHS = (2, 2, 2, 2)
SAMPLES = ['--num-samples', 5, '--seed', 1]
SEARCH = [*SAMPLES, '--finalists', 1, '--rounds', 1, '--threads', 1, '--max-latency', 1e6,
          '--max-macs']


def rows_of(work_dir):
    with (work_dir / 'candidates.csv').open() as file:
        return list(csv.DictReader(file))


def search(tiny, work_dir, *arguments, trials=5, max_macs=.006, **options):
    return run_tool('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', work_dir,
                    *SEARCH, max_macs, '--trials', trials, *arguments, **options)


@pytest.fixture(scope='module')
def searched(tiny, tmp_path_factory):
    """Work directory of a search that some configurations are too large for."""
    work_dir = tmp_path_factory.mktemp('searched')
    outcome = search(tiny, work_dir)
    assert outcome.code == 0, outcome.error
    return work_dir, outcome.output


def test_search_leaves_winner_candidates_figure_and_storage(searched):
    work_dir, output = searched
    files = {path.name for path in work_dir.iterdir() if path.is_file()}
    assert files - {'tiny.py'} == {  # a copy of the config is mmengine's habit
        'winner.py', 'candidates.csv', 'tradeoff.png', 'search.db', 'search.json',
        'instances_train2017_5_images_seed1.json'}
    assert (work_dir / 'tradeoff.png').read_bytes().startswith(b'\x89PNG')
    assert f'{work_dir}/winner.py' in output and 'dense' in output
    assert 'Average Precision' not in output  # the tables of pycocotools would hide the progress


def test_candidates_meet_the_limit_or_were_never_evaluated(searched, tiny):
    backbone = build_backbone(load_config(str(tiny.config)))
    rows = rows_of(searched[0])
    assert [row['state'] for row in rows].count('evaluated') == 5
    assert 'outside' in {row['state'] for row in rows}
    for row in rows:
        config = SparsityConfig(row['sparsity'], DEPTHS)
        if row['state'] != 'duplicate':
            assert int(row['macs']) == backbone_macs(backbone, (64, 64), sparsity=config)
            assert (int(row['macs']) <= .006e9) == (row['state'] == 'evaluated')
        measured = [key for key, value in row.items()
                    if value and key.startswith(('metric', 'coco/', 'latency'))]
        assert bool(measured) == (row['state'] == 'evaluated')


def test_test_of_the_winner_gives_what_the_search_logged(searched):
    work_dir, _ = searched
    winner = Config.fromfile(work_dir / 'winner.py')
    evaluated = [row for row in rows_of(work_dir) if row['state'] == 'evaluated']
    best = next(row for row in evaluated if SparsityConfig(
        row['sparsity'], DEPTHS).to_list() == winner.model.backbone.sparsity)
    assert float(best['metric']) == max(float(row['metric']) for row in evaluated) > 0
    logged = {key: float(value) for key, value in best.items() if key.startswith('coco/')}
    assert metrics_of(work_dir / 'winner.py', '--split', 'val', *SAMPLES) == logged
    assert f'coco/bbox_mAP {float(best["metric"]):.4g} on 5 images' in (
        work_dir / 'winner.py').read_text()


def test_train_takes_the_winner_as_it_is(searched, tiny, tmp_path):
    options = dict(tiny.options, val_evaluator__metric='bbox')
    outcome = run_tool('train', searched[0] / 'winner.py', '--work-dir', tmp_path, **options)
    assert outcome.code == 0, outcome.error
    assert f'from {tiny.checkpoint}' in next(tmp_path.glob('*/*.log')).read_text()
    lines = lines_of(tmp_path)
    assert [line['base_lr'] for line in lines if 'loss' in line] == pytest.approx([3e-4] * 2)
    assert not any('sparsity' in line for line in lines)  # no draws: it has its own
    assert (tmp_path / 'iter_2.pth').exists()


def test_search_goes_on_with_resume_and_only_then(searched, tiny, tmp_path):
    work_dir = tmp_path / 'copy'
    shutil.copytree(searched[0], work_dir)
    command = 'search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', work_dir
    assert '--overwrite' in refused(*command, '--resume', *SEARCH, .006)
    assert '--resume' in refused(*command, '--overwrite', *SEARCH, .006)
    message = refused(*command, '--resume', '--overwrite', *SEARCH, .005)
    assert 'max_macs: 6000000.0 in the study, 5000000.0 now' in message
    assert rows_of(work_dir) == rows_of(searched[0])

    assert search(tiny, work_dir, '--resume', '--overwrite', trials=7).code == 0
    before, after = rows_of(searched[0]), rows_of(work_dir)
    assert [{**row, **dict.fromkeys(set(row) - set(old))} for row, old in zip(after, before)] == [
        {**old, **dict.fromkeys(set(row) - set(old))} for row, old in zip(after, before)]
    states = [row['state'] for row in after]
    assert states.count('evaluated') == 7
    assert len({row['sparsity'] for row in after if row['state'] == 'evaluated'}) == 7


@pytest.mark.parametrize('arguments, named', [
    (['--metric', 'mIoU'], ["'mIoU'", 'coco/bbox_mAP', 'coco/segm_mAP_50']),
    (['--max-latency', 1e-3], ['--max-latency 0.001 ms', 'sparsest', 'dense', 'would fit']),
    pytest.param(['--min-latency', 1e5], ['--min-latency 100000 ms', 'sparsest', 'would fit'],
                 marks=pytest.mark.slow),
    pytest.param(['--max-macs', .001], ['--max-macs', 'the sparsest configuration takes'],
                 marks=pytest.mark.slow)])
def test_what_nothing_meets_stops_the_search_before_it_began(
        tiny, tmp_path, arguments, named):
    command = ['search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path, *SEARCH, 9]
    message = refused(*command, *arguments)
    assert all(text in message for text in named)
    assert not list(tmp_path.glob('winner*')) and not list(tmp_path.glob('*.csv'))
    # The corrected command is not told that a search was begun here.
    assert not optuna.get_all_study_names(f'sqlite:///{tmp_path}/search.db')


@pytest.mark.parametrize('arguments, named', [
    (['--min-latency', 2e6], '--min-latency'), (['--trials', 0], '--trials 0'),
    (['--num-samples', 0], '--num-samples 0'), (['--rounds', 0], 'rounds'),
    (['--batch-size', 0], 'batch size')])
def test_unusable_number_is_refused_before_a_search_begins(
        tiny, tmp_path, arguments, named):
    message = refused('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir',
                      tmp_path / 'w', *SEARCH, 9, *arguments)
    assert named in message
    assert not list(tmp_path.rglob('winner*')) and not list(tmp_path.rglob('*.db'))


def test_checkpoint_that_is_missing_or_does_not_fit_leaves_nothing(tiny, tmp_path):
    options = dict(model__backbone__mlp_ratio=2)
    for checkpoint, changes, named in (
            (tmp_path / 'nowhere.pth', {}, 'nowhere.pth'),
            (tiny.checkpoint, options, 'backbone.stages.0.blocks.0.ffn.layers.0.0.weight')):
        message = refused('search_sparsity', tiny.config, checkpoint, '--work-dir',
                          tmp_path / 'w', *SEARCH, 9, **changes)
        assert str(checkpoint) in message and named in message
    assert not list(tmp_path.rglob('*.db')) and not list(tmp_path.rglob('winner*'))


def test_broken_image_ends_the_search_with_its_name_and_no_winner(tiny, tmp_path):
    folder = tmp_path / 'images'
    shutil.copytree(tiny.data / 'train2017', folder)
    broken = sorted(folder.iterdir())[4]
    broken.write_bytes(b'no JPEG' * 50)
    with pytest.raises(AssertionError, match=str(broken)):
        run_tool('search_sparsity', tiny.config, tiny.checkpoint, '--work-dir', tmp_path / 'w',
                 '--rounds', 1, '--max-latency', 1e6,
                 val_dataloader__dataset__data_prefix__img=folder)
    assert not list(tmp_path.rglob('winner*')) and not list(tmp_path.rglob('*.csv'))
    assert not optuna.get_all_study_names(f'sqlite:///{tmp_path}/w/search.db')


@pytest.mark.slow
def test_options_of_the_search_hold_for_its_winner(tiny, tmp_path):
    """Another depth of data and model than the config's: the child must carry it."""
    options = dict(val_dataloader__dataset__indices=7, model__test_cfg__rcnn__max_per_img=3,
                   custom_hooks__0__seed=9)
    assert search(tiny, tmp_path, *SAMPLES, trials=2, **options).code == 0
    winner = Config.fromfile(tmp_path / 'winner.py')
    assert winner.model.test_cfg.rcnn.max_per_img == 3
    assert winner.val_dataloader.dataset.indices == 7
    assert winner.val_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'
    assert winner.custom_hooks == []
    best = max(float(row['metric'] or 0) for row in rows_of(tmp_path))
    assert metrics_of(tmp_path / 'winner.py', '--split', 'val', *SAMPLES)['coco/bbox_mAP'] == best

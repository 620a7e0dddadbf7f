"""The benchmark of joint searches: what each search may choose, and how fronts are compared."""
import argparse
import json
import sys

import numpy as np
import pytest
from helpers import ROOT, drawn

sys.path.insert(0, str(ROOT / 'benchmarks'))
import joint_search  # noqa: E402

from sparsevit_mm.operating_point import operating_point  # noqa: E402
from sparsevit_mm.sparsity import SparsityConfig  # noqa: E402

WINNER = '''
model = dict(backbone=dict(type='SparseSwinTransformer', depths=(2, 2),
    sparsity=[[.4, .4], [0., 0.]], widths=dict(heads=[1., .5], ffn=.75)))
'''


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(work_dir=tmp_path, seeds=[0, 1], iters=[90, 60], shares=[1., .5],
                              limits=['80%'], trials=5, num_samples=None, jobs=1)


def test_each_kind_is_adapted_to_what_it_searches(args):
    options = {name: joint_search.adapt_options(kind, args)
               for name, kind in joint_search.KINDS.items()}
    drawn_of = {name: {key.rsplit('.', 1)[1] for key in held if key.startswith('custom_hooks')}
                for name, held in options.items()}
    assert drawn_of == dict(windows=set(), widths={'choices', 'widths'}, joint={'widths'})


def test_all_start_from_one_ordered_model(args):
    jobs = {job.done.relative_to(args.work_dir).as_posix(): job
            for job in joint_search.make_jobs(args, 1)}
    for kind in joint_search.KINDS:
        assert [path.name for path in jobs[f'seed1/{kind}.pth'].needs] == ['ordered.pth']
        assert [path.name for path in jobs[f'seed1/{kind}/front.json'].needs] == [f'{kind}.pth']
    assert len(jobs['seed1/latencies.json'].needs) == 3


def test_winners_are_read_with_their_widths(tmp_path):
    (tmp_path / 'winner_80pct.py').write_text(WINNER)
    assert joint_search.points_of(tmp_path, ['80%', '20%']) == {'80%': operating_point(
        SparsityConfig([.4, 0], (2, 2)), dict(heads_stage0=1., heads_stage1=.5, ffn_stage0=.75,
                                              ffn_stage1=.75))}


def test_the_report_compares_on_the_same_images(args, capsys):
    scatter = np.random.default_rng(0).normal(size=200)
    for seed in args.seeds:
        folder = args.work_dir / f'seed{seed}'
        folder.mkdir()
        for kind, value in (('windows', .3), ('widths', .2), ('joint', .35)):
            held = dict(metric=value, resampled=drawn(.1 * scatter, value).to_json())
            tested = {'dense': held, **({} if kind == 'widths' else {'80%': held})}
            (folder / f'{kind}.json').write_text(json.dumps(tested))
        (folder / 'latencies.json').write_text(json.dumps({
            f'{kind} 80%': dict(ratio=.79, point='a point') for kind in joint_search.KINDS}))
    joint_search.report(args)
    printed = capsys.readouterr().out
    assert '+0.05' in printed and '0.790' in printed and printed.count('not reached') == 1

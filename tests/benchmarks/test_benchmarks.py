"""The benchmark measures what it says: turns, ratios within a round, peers with our weights."""
import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))
import measure  # noqa: E402
import report  # noqa: E402
import subjects  # noqa: E402

WITHOUT_OPERATORS = '''
import sys
sys.path.insert(0, {folder!r})

class Missing:

    def find_spec(self, name, path=None, target=None):
        if name in ('mmdet', 'mmcv._ext'):
            raise ModuleNotFoundError(f'{{name}} is not installed')

sys.meta_path.insert(0, Missing())
import torch
from subjects import toolkit_swin
name, swin = toolkit_swin()
model = swin(embed_dims=8, depths=(1, ), num_heads=(1, ), strides=(4, ), out_indices=(0, ))
print(name, *model(torch.zeros(1, 3, 32, 32))[0].shape)
'''


@pytest.fixture
def tiny(monkeypatch):
    """A model of three windows that stands in for Swin-T."""
    monkeypatch.setitem(subjects.MODELS, 'swin-t', dict(
        embed_dims=8, depths=(2, 2, 6, 2), num_heads=(1, 1, 1, 1), window_size=2))
    return subjects.make_image(2, (32, 64), 'fp32', 'cpu')


def group_of(times, macs):
    rows = [dict(name=name, execution='eager', macs=m, uniform=u, times=t)
            for (name, u, t), m in zip(times, macs)]
    return dict(title='title', subjects=rows, missing=['timm: gone'], overlap=[1., .5])


def test_subjects_run_in_turn_after_a_warm_up():
    order = []
    two = [subjects.Subject(name, 'eager', lambda image, name=name: order.append(name))
           for name in 'ab']
    times = measure.latencies(two, torch.zeros(1), 3, 'title')
    assert order == ['a', 'b'] * 4 and [len(t) for t in times] == [3, 3]


def test_ours_and_the_peer_compute_the_same(tiny):
    peers, state, missing = subjects.peers('swin-t', tiny)
    ours = subjects.ours('swin-t', tiny, ['eager'], False, state)
    assert [s.name for s in ours] == ['ours dense', 'ours 30%', 'ours 60%', 'ours 80%',
                                      'ours cfg1', 'ours cfg2', 'ours cfg3']
    assert peers[0].name == 'mmdet dense'
    assert {m.partition(':')[0] for m in missing} <= {'timm', 'torchvision'}
    with torch.no_grad():
        for got, expected in zip(ours[0].run(tiny), peers[0].run(tiny)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ours[2].run(tiny)[0], peers[0].run(tiny)[0])
    macs = [s.macs for s in ours]
    assert macs[:4] == sorted(macs[:4], reverse=True) and macs[3] < macs[0]


@pytest.mark.parametrize('dtype', ['bf16', 'fp16'])
def test_peers_that_fail_in_low_precision_run_under_autocast(tiny, dtype):
    image = subjects.make_image(1, (30, 50), dtype, 'cpu')
    (peer, *_), state, _ = subjects.peers('swin-t', image)
    assert peer.execution == 'autocast' and peer.run(image)[0].isfinite().all()
    dense = subjects.ours('swin-t', image, ['eager'], False, state)[0]
    assert dense.run(image)[0].dtype == image.dtype
    assert all(0 < share <= 1 for share in measure.overlap('swin-t', state, image, .5))


def test_overlap_with_itself_is_whole(tiny):
    _, state, _ = subjects.peers('swin-t', tiny)
    assert measure.overlap('swin-t', state, tiny, .5) == [1., 1., 1., 1.]


def test_shares_add_up_and_each_kind_is_counted():
    wide = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU())
    shares = measure.product_shares(subjects.Subject('wide', 'eager', wide), torch.ones(512, 512))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares['products'] > 0 and shares['other'] > 0 and shares['attention'] == 0


def test_training_keeps_less_at_higher_sparsity(tiny):
    _, swin = subjects.toolkit_swin()
    rows = measure.training(swin(**subjects.MODELS['swin-t']), 'mmdet', tiny, 'swin-t', 1)
    assert [row['name'] for row in rows] == ['mmdet dense', 'ours dense', 'ours 30%', 'ours 60%']
    memory = [row['memory'] for row in rows[1:]]
    assert memory == sorted(memory, reverse=True) and memory[2] < .7 * memory[0]


def test_ratios_are_medians_of_ratios_within_a_round():
    group = group_of([('peer dense', None, [10., 20., 30.]), ('ours dense', 0., [10., 10., 60.]),
                      ('ours 60%', .6, [5., 5., 6.])], [None, 200, 82])
    text = report.markdown(dict(
        environment=dict(command='run', device='a chip', threads=2, torch='2', date='today'),
        groups=[group], training=None))
    line = next(line for line in text.splitlines() if line.startswith('| ours 60%'))
    row = [cell.strip() for cell in line.split('|')[1:-1]]
    assert row == ['ours 60%', 'eager', '5 ms', '5 to 5.5', '0.250', '0.500', '0.410', '']
    assert 'Not compared: timm: gone.' in text and '100.0%, 50.0%' in text


def test_the_figure_is_drawn(tmp_path):
    group = group_of([('peer dense', None, [10.] * 3), ('ours dense', 0., [9., 10., 11.]),
                      ('ours 60%', .6, [4., 5., 5.])], [None, 200, 82])
    report.draw(dict(groups=[group, group]), tmp_path / 'latency.png')
    assert (tmp_path / 'latency.png').stat().st_size > 5000


@pytest.mark.slow
def test_mmseg_stands_in_for_mmdet_without_compiled_operators():
    code = WITHOUT_OPERATORS.format(folder=str(ROOT / 'benchmarks'))
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                          text=True)
    assert done.stdout.split()[-5:] == ['mmseg', '1', '8', '8', '8'], done.stderr


@pytest.mark.parametrize('flags, message', [
    (['--execution', 'captured'], 'captured execution needs CUDA'),
    (['--triton'], 'the Triton kernel needs'), (['--rounds', '0'], 'rounds')])
def test_what_can_not_be_measured_is_refused(monkeypatch, capsys, flags, message):
    import run
    monkeypatch.setattr(sys, 'argv', ['run.py', '--device', 'cpu', *flags])
    with pytest.raises(SystemExit):
        run.parse_args()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_leaves_record_table_and_figure(tmp_path):
    command = [sys.executable, str(ROOT / 'benchmarks/run.py'), '--settings', 'nuscenes',
               '--batch-size', '1', '--rounds', '1', '--training-rounds', '1', '--out', tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / 'results.json').read_text())
    assert len(record['groups']) == 1 and len(record['training']['rows']) == 4
    assert (tmp_path / 'results.md').read_text().strip() in done.stdout
    assert (tmp_path / 'latency.png').exists()

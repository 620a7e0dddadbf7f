"""The benchmark of a GPU, on the CPU: all parts at small sizes."""
import json
import runpy
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT

BENCHMARKS = ROOT / 'benchmarks'


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ('gpu', 'gpu_checks', 'gpu_speed', 'gpu_report', 'measure', 'subjects', 'report'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu
    yield gpu
    for name in ('gpu', 'gpu_checks', 'gpu_speed', 'gpu_report', 'measure', 'subjects', 'report'):
        sys.modules.pop(name, None)


def run(out, *arguments):
    return subprocess.run([sys.executable, str(BENCHMARKS / 'gpu.py'), '--out', str(out), '--quick',
                           '--device', 'cpu', *arguments], capture_output=True, text=True,
                          timeout=500)


@pytest.mark.slow
def test_all_parts_run_on_the_cpu_and_what_is_done_is_not_run_again(tmp_path):
    done = run(tmp_path, '--rounds', '1', '--budget', '3000')
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob('*.json')}
    assert set(records) == {'equality', 'execution', 'triton', 'latency', 'vit', 'training',
                            'profile', 'table'}
    assert all(record['done'] and record['rows'] for record in records.values())
    assert records['triton']['rows'] == [dict(what='Triton kernel',
                                              skipped='needs CUDA and Triton 3')]
    text = (tmp_path / 'gpu.md').read_text()
    assert '**no**' not in text and 'needs CUDA' in text and '| ours 60% |' in text
    again = run(tmp_path, '--rounds', '1')
    assert again.stdout.count('.json exists') == 8


def test_the_backbones_equal_themselves_on_the_cpu(gpu):
    rows = list(gpu.equality('cpu', True))
    assert all(row['ok'] for row in rows)
    exact = [row['difference'] for row in rows if 'fp32' in row['what'] and 'difference' in row]
    assert exact == [0.] * len(exact) and len(exact) == 9
    assert {row['what'].split(',')[0] for row in rows} == {'Swin', 'ViT', 'LeViT'}


def test_a_wrong_result_is_found(gpu):
    checks = sys.modules['gpu_checks']
    row = checks._row('x', [torch.ones(3)], [torch.tensor([1., 1., 1.1])], 'fp32')
    assert not row['ok'] and row['difference'] == pytest.approx(.1, abs=1e-6)
    assert '**no**' in gpu.markdown([dict(part='equality', device='d', torch='t', date='now',
                                          done=True, rows=[row])])


def test_a_part_that_raises_or_takes_too_long_leaves_what_it_has(gpu, tmp_path, monkeypatch):
    def raising(args):
        yield dict(what='first', ok=True, difference=0., bound=1.)
        raise RuntimeError('the device is lost')

    def endless(args):
        while True:
            yield dict(what='one more', ok=True, difference=0., bound=1.)
            time.sleep(.01)

    monkeypatch.setitem(gpu.PARTS, 'triton', (raising, .1))
    monkeypatch.setitem(gpu.PARTS, 'table', (endless, .001))
    monkeypatch.setattr(sys, 'argv', ['gpu.py', '--out', str(tmp_path), '--quick', '--device',
                                      'cpu', '--budget', '100', '--parts', 'triton', 'table'])
    with pytest.raises(SystemExit, match='triton'):
        gpu.main()
    raised, stopped = (json.loads((tmp_path / f'{name}.json').read_text())
                       for name in ('triton', 'table'))
    assert 'the device is lost' in raised['error'] and len(raised['rows']) == 1
    assert not stopped['done'] and 'a larger one' in stopped['stopped'] and stopped['rows']


def test_without_a_gpu_only_quick_is_offered(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, 'argv', ['gpu.py', '--out', str(tmp_path), '--device', 'cpu'])
    with pytest.raises(SystemExit):
        runpy.run_path(str(BENCHMARKS / 'gpu.py'), run_name='__main__')
    assert '--quick' in capsys.readouterr().err

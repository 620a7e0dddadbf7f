import json
import re
import shutil

from fake_search import FakeSearch
from helpers import refused, run_tool

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.report import sections


def test_the_report_of_a_search_that_was_moved(tmp_path):
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    FakeSearch(work_dir, storage=f'sqlite:///{work_dir}/search.db', evaluated=4, references=False)
    moved = shutil.copytree(work_dir, tmp_path / 'moved')
    shutil.rmtree(work_dir)
    assert '--storage' in refused('search_report', moved)
    done = run_tool('search_report', moved, '--images', 0, '--storage',
                    f'sqlite:///{moved}/search.db')
    assert done.code == 0, done.error
    assert done.output.strip() == f'{moved}/report.html'
    text = (moved / 'report.html').read_text()
    assert text.rstrip().endswith('</html>') and 'The winner, trial' in text
    names = {path.name for path in (moved / 'report').iterdir()}
    assert {'tradeoff.png', 'ratios.png', 'progress.png', 'check.png'} <= names
    assert not any('partial' in path.name for path in moved.rglob('*'))


def test_windows_of_the_winner_are_in_the_page(tiny, tmp_path, monkeypatch):
    FakeSearch(tmp_path, evaluated=1, first_look=False, references=False, finals=False)
    manifest = json.loads((tmp_path / 'search.json').read_text())
    (tmp_path / 'search.json').write_text(json.dumps(dict(
        manifest, checkpoint=str(tiny.checkpoint))))
    monkeypatch.setattr(sections, 'winner_config', lambda _: load_config(str(tiny.config)))
    done = run_tool('search_report', tmp_path, '--images', 1, '--device', 'cpu')
    assert done.code == 0, done.error
    text = (tmp_path / 'report.html').read_text()
    assert 'Not drawn' not in text
    assert len(re.findall('<img [^>]*src="data:image/jpeg;base64,', text)) == 2
    drawn = {path.name.rsplit('_', 1)[1] for path in (tmp_path / 'report').glob('*_*.png')}
    assert {'panel.png', 'windows.png'} <= drawn


def test_a_folder_without_a_search_is_refused(tmp_path):
    assert f'{tmp_path}/search.json' in refused('search_report', tmp_path)
    assert '--images -1' in refused_after_search(tmp_path)


def refused_after_search(folder):
    FakeSearch(folder, evaluated=1, references=False, finals=False)
    return refused('search_report', folder, '--images', -1)

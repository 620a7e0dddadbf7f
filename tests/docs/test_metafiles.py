"""model-index.yml and the metafiles: what `mim` and model-index read about the configs."""
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config

MMPRETRAIN = find_spec('mmpretrain') is not None  # an extra
FOLDERS = sorted(path.parent.name for path in ROOT.glob('configs/*/metafile.yml'))


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def leaf_configs(folder):
    return {f'configs/{folder}/{path.name}' for path in (ROOT / 'configs' / folder).glob('*.py')}


def test_the_index_imports_every_metafile_and_each_stands_beside_a_readme():
    assert FOLDERS == sorted(path.name for path in ROOT.glob('configs/*') if path.is_dir()
                             and not path.name.startswith('_'))
    assert sorted(read('model-index.yml')['Import']) == [
        f'configs/{folder}/metafile.yml' for folder in FOLDERS]
    assert all((ROOT / 'configs' / folder / 'README.md').is_file() for folder in FOLDERS)


@pytest.mark.parametrize('folder', FOLDERS)
def test_a_metafile_names_each_config_of_its_folder_once(folder):
    metafile = read(f'configs/{folder}/metafile.yml')
    models = metafile['Models']
    assert [model['Config'] for model in models] == list(
        dict.fromkeys(model['Config'] for model in models))
    assert {model['Config'] for model in models} == leaf_configs(folder)
    collection, = metafile['Collections']
    for model in models:
        assert model['Name'] == Path(model['Config']).stem
        assert model['In Collection'] == collection['Name']
        if 'mmpretrain::' in (ROOT / model['Config']).read_text() and not MMPRETRAIN:
            continue
        loop = Config.fromfile(ROOT / model['Config']).train_cfg
        length = {key: model['Metadata'][key] for key in ('Epochs', 'Iterations')
                  if key in model['Metadata']}
        assert length in (dict(Epochs=loop.get('max_epochs')),
                          dict(Iterations=loop.get('max_iters')))


def test_readmes_of_the_configs_name_each_of_them():
    for folder in FOLDERS:
        text = (ROOT / 'configs' / folder / 'README.md').read_text()
        missing = [config for config in leaf_configs(folder) if Path(config).name not in text]
        assert not missing, f'configs/{folder}/README.md does not name {missing}'


def test_the_short_path_is_the_config_in_its_folder():
    short, config = (Config.fromfile(ROOT / f'configs/{path}mask_rcnn_sparsevit.py').to_dict()
                     for path in ('', 'sparsevit/'))
    assert short == config


def test_model_index_finds_no_error(monkeypatch):
    modelindex = pytest.importorskip('modelindex')
    monkeypatch.chdir(ROOT)
    index = modelindex.load('model-index.yml')
    index.build_models_with_collections()
    assert sorted(model.config for model in index.models) == sorted(
        config for folder in FOLDERS for config in leaf_configs(folder))
    checked = [*index.models, *index.collections]
    for part in checked:
        part.check(silent=True)
    assert not [error for part in checked for error in part.check_errors]


@pytest.mark.slow
def test_a_wheel_holds_configs_and_tools_where_mim_looks(tmp_path):
    source, out = tmp_path / 'source', tmp_path / 'out'
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(
        '.*', 'build', 'tests', 'docs', 'demo', 'benchmarks', 'work_dirs', 'data', '*.egg-info'))
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps',
                    '--no-build-isolation', '-w', str(out), str(source)], check=True)
    wheel, = out.glob('sparsevit_mm-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    mim = tmp_path / 'site' / 'sparsevit_mm' / '.mim'
    assert (mim / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                assert (mim / path.relative_to(ROOT)).is_file(), path
    cfg = Config.fromfile(mim / 'configs' / 'mask_rcnn_sparsevit.py')
    assert cfg.model.backbone.type == 'SparseSwinTransformer'

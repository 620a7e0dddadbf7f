from pathlib import Path

import pytest
from mmengine.config import Config

from sparsevit_mm.config.data import check_data


@pytest.fixture
def data(tmp_path):
    """A config whose data are all there: a plain, a wrapped and a concatenated split."""
    def dataset(split):
        (tmp_path / split).mkdir()
        (tmp_path / f'{split}.json').touch()
        return dict(type='CocoDataset', data_root=str(tmp_path), ann_file=f'{split}.json',
                    data_prefix=dict(img=f'{split}/'))

    test = dataset('test')
    del test['data_root']
    return Config(dict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(
            type='ConcatDataset', datasets=[dataset('train'), dataset('extra')]))),
        val_dataloader=dict(dataset=dataset('val')),
        val_evaluator=[dict(type='CocoMetric', ann_file=f'{tmp_path}/val.json')],
        test_dataloader=dict(dataset=dict(
            test, ann_file=f'{tmp_path}/test.json', data_prefix=f'{tmp_path}/test'))))


def test_data_that_are_there_pass(data):
    check_data(data, 'train', 'val', 'test')


@pytest.mark.parametrize('split, name', [
    (split, f'{file}{suffix}') for split, file in (
        ('train', 'train'), ('train', 'extra'), ('val', 'val'), ('test', 'test'))
    for suffix in ('', '.json')])
def test_missing_file_or_folder_is_named_with_its_split(data, tmp_path, split, name):
    path: Path = tmp_path / name
    path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_data(data, 'train', 'val', 'test')
    assert f'{split} {path}' in str(error.value)
    check_data(data, *({'train', 'val', 'test'} - {split}))


def test_every_missing_file_is_named_once(data, tmp_path):
    names = ['train.json', 'extra.json', 'val.json', 'test.json']
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_data(data, 'train', 'val', 'val', 'test')
    for name in names:
        assert str(error.value).count(f' {tmp_path / name}') == (2 if name == 'val.json' else 1)
    assert f'val evaluator {tmp_path / "val.json"}' in str(error.value)


def test_remote_data_are_not_looked_for_on_this_disk(data, tmp_path):
    (tmp_path / 'val.json').unlink()
    data.val_dataloader.dataset.backend_args = dict(backend='petrel')
    data.val_evaluator[0].ann_file = None
    check_data(data, 'val')


def test_split_without_a_loader_is_an_error(data):
    data.pop('val_dataloader')
    with pytest.raises(ValueError, match='no val_dataloader'):
        check_data(data, 'train', 'val')

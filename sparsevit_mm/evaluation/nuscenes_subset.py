"""A nuScenes split of fewer frames: infos and devkit tables that hold only those.

mmdet3d's NuScenesMetric wants predictions for every sample of its tables that lies in a scene of
its split, and reads the tables again at each evaluation. With smaller tables it scores the frames
in them, by the devkit's own code, and soon.
"""
import hashlib
import json
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, List, Set

from mmengine.logging import print_log

from .nuscenes_eval import EVAL_SETS

INFOS = 'infos.pkl'

# What the devkit's NuScenes loads; of the others only the rows that the frames need are kept.
_WHOLE = ('attribute', 'category', 'visibility', 'sensor', 'calibrated_sensor', 'log')
_CONTEXT = 'context'


def write_frames(infos: Dict, data_root: str, version: str, work_dir: str, name: str) -> Path:
    """Writes infos, and the devkit's tables cut to their frames.

    The ground truth of each frame, as the devkit reads it, is that of the full tables: all its
    annotations in their order, poses, and velocities. For the latter the annotations before and
    after each one are kept, their samples too, but in a scene of its own named 'context', which
    is in no split. Links to rows that were cut lead nowhere; the evaluation follows none of them.

    Args:
        infos: In mmdet3d's format, ``data_list`` with a ``token`` per frame.
        data_root: Holds the folder `version` with the tables, and the maps that they name.
        version: 'v1.0-mini' or 'v1.0-trainval'.
        work_dir: The folder to be written goes in here.
        name: Start of its name. Its end depends on the infos and the tables: a folder that is
            there for the same ones is taken as it is, and other processes may write it too.

    Returns:
        The folder, with the infos in ``INFOS`` and the tables in `version`; to be NuScenesMetric's
        ``data_root``.

    Raises:
        FileNotFoundError: There are no such tables.
        ValueError: NuScenesMetric scores no split of this version, a frame is not in the tables
            or not in that split, or no frame shows an object to be scored.
    """
    if version not in EVAL_SETS:
        raise ValueError(f'NuScenesMetric scores no split of nuScenes {version!r}, only of '
                         f'{", ".join(EVAL_SETS)}: see metainfo.version of the data set')
    tables = Path(data_root).resolve() / version
    if not tables.is_dir():
        raise FileNotFoundError(f'the tables of nuScenes {version} are not there: {tables}')
    target = Path(work_dir).resolve() / f'{name}_{_fingerprint(infos, tables)}'
    if target.is_dir():
        return target
    print_log(f'cutting the tables in {tables} to {len(infos["data_list"])} frames; '
              'of a large version this takes some minutes, once', 'current')
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix='.partial_') as partial:
        whole = Path(partial) / 'whole'
        (whole / version).mkdir(parents=True)
        (whole / INFOS).write_bytes(pickle.dumps(infos))
        _cut(tables, whole / version, [info['token'] for info in infos['data_list']])
        try:
            whole.rename(target)
        except OSError:  # unless another process was faster, it is an error
            if not target.is_dir():
                raise
    return target


def _fingerprint(infos: Dict, tables: Path) -> str:
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
             for file in sorted(tables.glob('*.json'))]
    return hashlib.sha256(pickle.dumps((infos, str(tables), stats))).hexdigest()[:8]


def _cut(source: Path, target: Path, tokens: List[str]) -> None:
    """Tables of `source` with the samples `tokens` alone; one large table in memory at a time."""
    def read(table: str) -> List[Dict]:
        return json.loads((source / f'{table}.json').read_text())

    def write(table: str, rows: List[Dict]) -> None:
        (target / f'{table}.json').write_text(json.dumps(rows))

    for table in _WHOLE:
        write(table, read(table))
    write('map', [{**row, 'filename': str(source.parent / row['filename'])}
                  for row in read('map')])
    samples, scenes, scored = read('sample'), read('scene'), set(tokens)
    used = _check_frames(tokens, samples, scenes, source)
    write('scene', [row for row in scenes if row['token'] in used] +
          [{**scenes[0], 'token': _CONTEXT, 'name': _CONTEXT}])

    annotations = read('sample_annotation')
    near = {token for row in annotations if row['sample_token'] in scored
            for token in (row['token'], row['prev'], row['next'])}
    annotations = [row for row in annotations if row['token'] in near]
    write('sample_annotation', annotations)
    shown = {row['sample_token'] for row in annotations}
    write('sample', [row if row['token'] in scored else {**row, 'scene_token': _CONTEXT}
                     for row in samples if row['token'] in scored or row['token'] in shown])
    tracks = {row['instance_token'] for row in annotations}
    instances = [row for row in read('instance') if row['token'] in tracks]
    write('instance', instances)
    _check_objects({row['category_token'] for row in instances}, read('category'))

    data = [row for row in read('sample_data')
            if row['is_key_frame'] and row['sample_token'] in scored]
    write('sample_data', data)
    poses = {row['ego_pose_token'] for row in data}
    write('ego_pose', [row for row in read('ego_pose') if row['token'] in poses])


def _check_frames(tokens: List[str], samples: List[Dict], scenes: List[Dict],
                  tables: Path) -> Set[str]:
    """Scenes that the frames are in. Raises ValueError for a frame that would not be scored."""
    from nuscenes.utils.splits import create_splits_scenes
    scene_of = {row['token']: row['scene_token'] for row in samples}
    names = {row['token']: row['name'] for row in scenes}
    split = EVAL_SETS[tables.name]
    in_split = set(create_splits_scenes()[split])
    for token in tokens:
        if token not in scene_of:
            raise ValueError(f'sample {token} of the annotation file is not in {tables}')
        if names[scene_of[token]] not in in_split:
            raise ValueError(f'sample {token} of the annotation file is in '
                             f'{names[scene_of[token]]}, which {split} does not have: '
                             f'NuScenesMetric would not score it')
    return {scene_of[token] for token in tokens}


def _check_objects(shown: Set[str], categories: List[Dict]) -> None:
    """Raises ValueError if no category shown is one that is scored: the devkit fails then."""
    from nuscenes.eval.detection.utils import category_to_detection_name
    if not any(category_to_detection_name(row['name']) for row in categories
               if row['token'] in shown):
        raise ValueError('the frames drawn show no object of the classes that nuScenes scores: '
                         'more --num-samples or another seed may')

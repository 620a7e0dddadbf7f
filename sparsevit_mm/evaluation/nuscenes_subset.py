"""nuScenes subsets: infos and devkit tables with fewer frames.

mmdet3d's NuScenesMetric requires predictions for every sample of its tables in a scene of its
split, and rereads the tables at each evaluation. Smaller tables make it score only their frames,
with the devkit's own code, and save time.
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

# Tables that are copied whole. Of the others that the devkit's NuScenes loads, only the rows that
# the frames need are kept.
_WHOLE = ('attribute', 'category', 'visibility', 'sensor', 'calibrated_sensor', 'log')
_CONTEXT = 'context'


def write_frames(infos: Dict, data_root: str, version: str, work_dir: str, name: str) -> Path:
    """Write infos and the devkit tables restricted to their frames.

    The devkit reads the same ground truth for each frame as from the full tables: all annotations
    in their order, poses and velocities. Velocities need the previous and next annotation of each
    object, so these are kept with their samples, which move to an extra scene named 'context' that
    is in no split. Links to removed rows are dangling, but the evaluation follows none of them.

    Args:
        infos: Infos in mmdet3d's format: ``data_list`` with a ``token`` per frame.
        data_root: Directory of the folder `version` with the tables, and of their maps.
        version: 'v1.0-mini' or 'v1.0-trainval'.
        work_dir: Parent of the output folder.
        name: Prefix of the folder's name. The suffix is a hash of the infos and the tables: an
            existing folder is reused, and several processes may write it at once.

    Returns:
        The folder, with the infos in ``INFOS`` and the tables in `version`. Use it as the
        ``data_root`` of NuScenesMetric.

    Raises:
        FileNotFoundError: If the tables do not exist.
        ValueError: If NuScenesMetric scores no split of this version, a frame is not in the tables
            or not in that split, or no frame shows an object of a scored class.
    """
    if version not in EVAL_SETS:
        raise ValueError(f'NuScenesMetric scores no split of nuScenes {version!r}, only of '
                         f'{", ".join(EVAL_SETS)}: see metainfo.version of the data set')
    tables = Path(data_root).resolve() / version
    if not tables.is_dir():
        raise FileNotFoundError(f'tables of nuScenes {version} not found: {tables}')
    target = Path(work_dir).resolve() / f'{name}_{_fingerprint(infos, tables)}'
    if target.is_dir():
        return target
    print_log(f'reducing the tables in {tables} to {len(infos["data_list"])} frames; '
              'for a large version this takes some minutes, but only once', 'current')
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix='.partial_') as partial:
        whole = Path(partial) / 'whole'
        (whole / version).mkdir(parents=True)
        (whole / INFOS).write_bytes(pickle.dumps(infos))
        _cut(tables, whole / version, [info['token'] for info in infos['data_list']])
        try:
            whole.rename(target)
        except OSError:  # no error if another process was faster
            if not target.is_dir():
                raise
    return target


def _fingerprint(infos: Dict, tables: Path) -> str:
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns)
             for file in sorted(tables.glob('*.json'))]
    return hashlib.sha256(pickle.dumps((infos, str(tables), stats))).hexdigest()[:8]


def _cut(source: Path, target: Path, tokens: List[str]) -> None:
    """Write the tables of `source` restricted to the samples `tokens`, holding one large table in
    memory at a time."""
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
    """Return the tokens of the scenes that the frames are in.

    Raises:
        ValueError: If a frame would not be scored.
    """
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
                             f'{names[scene_of[token]]}, which is not in {split}: '
                             f'NuScenesMetric would not score it')
    return {scene_of[token] for token in tokens}


def _check_objects(shown: Set[str], categories: List[Dict]) -> None:
    """Check that at least one object is of a scored class, since the devkit fails without one.

    Raises:
        ValueError: If there is none.
    """
    from nuscenes.eval.detection.utils import category_to_detection_name
    if not any(category_to_detection_name(row['name']) for row in categories
               if row['token'] in shown):
        raise ValueError('the drawn frames show no object of a class that nuScenes scores: '
                         'increase --num-samples or change the seed')

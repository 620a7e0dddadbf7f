"""Ground truth through targets, outputs and decoding to nuScenes' scores: what a perfect network
gets, and with that the axes, the class order and the boxes of the whole chain."""
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
import torch
from encode import META, encode, head_config, make_head
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.evaluation.metrics import NuScenesMetric
from mmengine.structures import InstanceData

from generators import generate_mini_nuscenes

TASKS = [task.class_names for task in head_config().tasks]
METAINFO = dict(classes=[name for names in TASKS for name in names], version='v1.0-mini')
INFOS = 'nuscenes_infos_val.pkl'
REAL = Path(__file__).parents[4] / 'shared' / 'data' / 'nuscenes'
ERRORS = ['mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE']


@pytest.fixture(scope='module')
def generated(tmp_path_factory):
    frames = dict(train=1, val=8, test=1)
    return generate_mini_nuscenes(tmp_path_factory.mktemp('data') / 'mini', frames, (114, 64))


def truth_of(root: Path) -> List[InstanceData]:
    """The boxes of each sample that are to be found."""
    dataset = NuScenesDataset(str(root), INFOS, metainfo=METAINFO, use_valid_flag=True,
                              filter_empty_gt=False)
    annotations = [dataset.get_data_info(i)['ann_info'] for i in range(len(dataset))]
    truth = [InstanceData(bboxes_3d=a['gt_bboxes_3d'], labels_3d=torch.as_tensor(a['gt_labels_3d']),
                          scores_3d=torch.ones(len(a['gt_labels_3d']))) for a in annotations]
    return [sample[sample.labels_3d >= 0] for sample in truth]


def through_head(truth: List[InstanceData], **test_cfg) -> List[InstanceData]:
    head = make_head(test_cfg=test_cfg)
    return [head.predict_by_feat(encode(head.get_targets([sample])), [META])[0]
            for sample in truth]


def score(root: Path, found: List[InstanceData]) -> Dict[str, float]:
    """What the stock metric says, by the last part of its keys; ``{class}_AP`` over distances."""
    metric = NuScenesMetric(str(root), str(root / INFOS))
    metric.dataset_meta = METAINFO
    metric.process({}, [dict(pred_instances_3d=dict(sample.items()), pred_instances={},
                             sample_idx=i) for i, sample in enumerate(found)])
    scores = {key.split('/')[-1]: value for key, value in metric.evaluate(len(found)).items()}
    for name in METAINFO['classes']:
        scores[f'{name}_AP'] = sum(scores[f'{name}_AP_dist_{d}'] for d in (.5, 1., 2., 4.)) / 4
    return scores


def without_shared_cells(truth: List[InstanceData]) -> List[InstanceData]:
    """The boxes on the grid; of those with one cell and class, the last.

    CenterHead cuts decimals off, so that a cell before the first one counts as the first.
    """
    kept = []
    for sample in truth:
        cells = ((sample.bboxes_3d.tensor[:, :2] + 51.2) / .8).long()
        inside = ((cells >= 0) & (cells < 128)).all(1).tolist()
        last = {(*cell, label): i for i, (cell, label) in enumerate(
            zip(cells.tolist(), sample.labels_3d.tolist())) if inside[i]}
        kept.append(sample[torch.tensor(sorted(last.values()), dtype=torch.long)])
    return kept


def counts(samples: List[InstanceData]) -> Tuple[int, ...]:
    labels = torch.cat([sample.labels_3d for sample in samples])
    return tuple(labels.bincount(minlength=10).tolist())


def test_generated_truth_reaches_the_ceiling(generated):
    truth = truth_of(generated)
    found = through_head(truth)
    assert counts(found) == counts(truth) and min(counts(truth)) > 0
    ceiling, scores = score(generated, truth), score(generated, found)
    assert ceiling['mAP'] == pytest.approx(1, abs=1e-3)
    for key in ['mAP', 'NDS', *ERRORS]:
        assert scores[key] == pytest.approx(ceiling[key], abs=1e-3), key


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason='nuScenes is not there')
def test_real_truth_reaches_the_ceiling_but_for_pedestrians_side_by_side():
    truth = truth_of(REAL)
    ceiling, scores = score(REAL, truth), score(REAL, through_head(truth))
    assert ceiling['mAP'] == pytest.approx(.7, abs=1e-3), 'three classes never occur there'
    assert ceiling['NDS'] == pytest.approx(.694, abs=1e-3)
    for key in ERRORS:
        assert scores[key] == pytest.approx(ceiling[key], abs=1e-3)
    # Those of one cell are one box to the head, and scale-NMS takes two within about a metre
    # for one.
    lost = {name: ceiling[f'{name}_AP'] - scores[f'{name}_AP'] for name in METAINFO['classes']}
    assert {name for name, gap in lost.items() if gap > 1e-3} == {'pedestrian', 'traffic_cone'}
    assert scores['pedestrian_AP'] == pytest.approx(.9, abs=.01)
    assert scores['mAP'] == pytest.approx(.687, abs=2e-3)

    unthinned = through_head(truth, nms_rescale_factor=[1.] * 6)
    assert counts(unthinned) == counts(without_shared_cells(truth))
    assert score(REAL, unthinned)['mAP'] == pytest.approx(.697, abs=1e-3)

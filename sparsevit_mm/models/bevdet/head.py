"""Detection head of BEVDet: CenterHead with one loss per box attribute, and scale-NMS."""
from typing import Dict, List, NamedTuple, Optional, Sequence

import torch
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from .scale_nms import read_task_nms, scale_nms

# (name of the loss, key of the prediction, slice of the target)
ATTRIBUTES = (('xy', 'reg', slice(0, 2)), ('z', 'height', slice(2, 3)),
              ('whl', 'dim', slice(3, 6)), ('yaw', 'rot', slice(6, 8)),
              ('vel', 'vel', slice(8, 10)))


class Detections(NamedTuple):
    """Detections of one task in one sample.

    Attributes:
        boxes: (N, 9) float32: gravity centre, length, width, height, yaw, vx, vy.
        scores: (N,) float32.
        labels: (N,) int64.
    """
    boxes: Tensor
    scores: Tensor
    labels: Tensor


@MODELS.register_module()
class BEVDetHead(CenterHead):
    """mmdet3d's CenterHead as BEVDet uses it (arXiv 2112.11790).

    Losses and decoding run in float32, whatever the dtype of the outputs.

    Args:
        loss_bbox: Must have reduction 'mean': with CenterHead's default, 'none', the loss is not
            reduced.
        test_cfg: As in CenterHead, but with NMS settings per task, see
            :func:`~sparsevit_mm.models.bevdet.scale_nms.read_task_nms`.
        **kwargs: As in CenterHead. Labels number the classes of ``tasks`` in order; the dataset's
            ``metainfo.classes`` must have the same order.

    Raises:
        ValueError: If the reduction is not 'mean', or the NMS settings do not fit the tasks.
    """

    def __init__(self,
                 loss_bbox: dict = dict(
                     type='mmdet.L1Loss', reduction='mean', loss_weight=.25),
                 test_cfg: Optional[dict] = None,
                 **kwargs):
        super().__init__(loss_bbox=loss_bbox, test_cfg=test_cfg, **kwargs)
        if self.loss_bbox.reduction != 'mean':
            raise ValueError(f"loss_bbox must have reduction='mean', got "
                             f'{self.loss_bbox.reduction!r}')
        self._coder_range = self.bbox_coder.post_center_range
        if test_cfg is not None:
            self.task_nms = read_task_nms(test_cfg, self.class_names)

    def init_weights(self) -> None:
        """Initialise the weights, and set the heatmap biases that mmengine skips because
        CenterHead keeps its task heads in a plain ModuleList."""
        super().init_weights()
        for head in self.task_heads:
            head.heatmap[-1].bias.data.fill_(head.init_bias)

    def loss_by_feat(self, preds_dicts: Sequence[List[Dict[str, Tensor]]],
                     batch_gt_instances_3d: List[InstanceData], *args,
                     **kwargs) -> Dict[str, Tensor]:
        """Compute the losses.

        Args:
            preds_dicts: For each task, a list with one dict of (B, C, rows, columns) predictions.
            batch_gt_instances_3d: Instances with ``bboxes_3d`` of 9 values and ``labels_3d``.
                Values that are not finite, such as unknown velocities, do not contribute.

        Returns:
            For each task, ``task{i}.loss_`` heatmap, xy, z, whl, yaw and vel. The last five sum up
            to CenterHead's ``loss_bbox``.
        """
        losses = {}
        code_weights = self.train_cfg['code_weights']
        targets = zip(*self.get_targets(batch_gt_instances_3d))
        for i, ((preds, ), (heatmap, boxes, cells, mask)) in enumerate(zip(preds_dicts, targets)):
            preds = to_fp32(preds)
            # mmdet3d's clip_sigmoid would modify the predictions in place.
            likelihood = preds['heatmap'].sigmoid().clamp(1e-4, 1 - 1e-4)
            losses[f'task{i}.loss_heatmap'] = self.loss_cls(
                likelihood, heatmap, avg_factor=heatmap.eq(1).sum().clamp(min=1))

            weights = mask[..., None] * boxes.isfinite() * boxes.new_tensor(code_weights)
            boxes = boxes.where(boxes.isfinite(), boxes.new_zeros(()))  # NaN * 0 is NaN
            for name, key, columns in ATTRIBUTES:
                pred = self._gather_feat(preds[key].flatten(2).transpose(1, 2), cells)
                losses[f'task{i}.loss_{name}'] = self.loss_bbox(
                    pred, boxes[..., columns], weights[..., columns],
                    avg_factor=mask.sum() + 1e-4)
        return losses

    def predict_by_feat(self, preds_dicts: Sequence[List[Dict[str, Tensor]]],
                        batch_input_metas: List[dict], *args, **kwargs) -> List[InstanceData]:
        """Decode the predictions.

        Args:
            preds_dicts: For each task, a list with one dict of (B, C, rows, columns) predictions.
            batch_input_metas: Metadata of each sample, with ``box_type_3d``.

        Returns:
            For each sample, ``bboxes_3d`` with their origin at the bottom centre, ``scores_3d``
            float32 and ``labels_3d`` int64, by task and in descending order of score within it.
        """
        tasks = [self._detect(i, to_fp32(preds)) for i, (preds, ) in enumerate(preds_dicts)]
        results = []
        for meta, detections in zip(batch_input_metas, zip(*tasks)):
            boxes, scores, labels = map(torch.cat, zip(*detections))
            boxes = meta['box_type_3d'](
                boxes, box_dim=self.bbox_coder.code_size, origin=(.5, .5, .5))
            results.append(InstanceData(bboxes_3d=boxes, scores_3d=scores, labels_3d=labels))
        return results

    def _detect(self, task: int, preds: Dict[str, Tensor]) -> List[Detections]:
        """Return the detections of a task in each sample."""
        # decode() replaces the range by a tensor, and would warn if it were one already.
        self.bbox_coder.post_center_range = self._coder_range
        sine, cosine = preds['rot'].split(1, dim=1)
        decoded = self.bbox_coder.decode(
            preds['heatmap'].sigmoid(), sine, cosine, preds['height'],
            preds['dim'].exp() if self.norm_bbox else preds['dim'], preds['vel'],
            reg=preds['reg'], task_id=task)
        return [self._select(task, sample['bboxes'], sample['scores'], sample['labels'].long())
                for sample in decoded]

    def _select(self, task: int, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """Apply the score threshold, scale-NMS and the limits of box centres, in this order."""
        cfg = self.test_cfg
        keep = (scores >= cfg['score_threshold']).nonzero()[:, 0]
        keep = keep[scale_nms(boxes[keep], scores[keep], labels[keep], self.task_nms[task],
                              cfg['pre_max_size'], cfg['post_max_size'])]
        low, high = boxes.new_tensor(cfg['post_center_limit_range']).view(2, 3)
        centres = boxes[keep, :3]
        keep = keep[((centres >= low) & (centres <= high)).all(1)]
        return Detections(boxes[keep], scores[keep], labels[keep] + sum(self.num_classes[:task]))


def to_fp32(preds: Dict[str, Tensor]) -> Dict[str, Tensor]:
    return {key: value.float() for key, value in preds.items()}

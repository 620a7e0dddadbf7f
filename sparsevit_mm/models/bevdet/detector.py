"""BEVDet: 3D object detection from surround-view cameras in bird's eye view (BEV)."""
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from .geometry import view_to_bev

# Written by LoadCameras and ImageAugmentation; Pack3DDetInputs must list them in its meta_keys.
CAMERA_KEYS = ('cam2img', 'lidar2cam', 'img_aug_matrix')


@MODELS.register_module()
class BEVDet(Base3DDetector):
    """BEVDet (arXiv 2112.11790) built on mmdet3d, with the module names of the published code.

    Boxes are in the LiDAR frame, as in ``NuScenesDataset``.

    Args:
        img_backbone, img_neck: Configs of the image encoder, applied to each image separately.
        img_view_transformer: Config of the transformer from image features to BEV.
        img_bev_encoder_backbone, img_bev_encoder_neck: Configs of the BEV encoder.
        pts_bbox_head: Config of the head, with its ``train_cfg`` and ``test_cfg``.
        data_preprocessor, init_cfg: As in mmdet3d.
    """

    def __init__(self,
                 img_backbone: dict,
                 img_neck: dict,
                 img_view_transformer: dict,
                 img_bev_encoder_backbone: dict,
                 img_bev_encoder_neck: dict,
                 pts_bbox_head: dict,
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck)
        self.img_view_transformer = MODELS.build(img_view_transformer)
        self.img_bev_encoder_backbone = MODELS.build(img_bev_encoder_backbone)
        self.img_bev_encoder_neck = MODELS.build(img_bev_encoder_neck)
        self.pts_bbox_head = MODELS.build(pts_bbox_head)

    def extract_feat(self, images: Tensor, samples: Sequence[Det3DDataSample]) -> Tensor:
        """Extract BEV features.

        Args:
            images: Normalised images, (B, V, 3, H, W).
            samples: Samples whose metadata hold the camera matrices.

        Returns:
            (B, C, rows, columns), rows along y and columns along x of the augmented LiDAR frame.

        Raises:
            ValueError: If the cameras or image sizes of a sample do not fit the batch. Names the
                sample.
        """
        matrices = batch_matrices(samples, images)
        features = self.img_neck(self.img_backbone(images.flatten(0, 1)))
        if not isinstance(features, Tensor):
            features = features[0]  # the finest level of an FPN
        features = features.unflatten(0, images.shape[:2])
        bev = self.img_view_transformer(features, matrices)
        return self.img_bev_encoder_neck(self.img_bev_encoder_backbone(bev))

    def loss(self, batch_inputs_dict: dict, batch_data_samples: List[Det3DDataSample],
             **kwargs) -> Dict[str, Tensor]:
        """Compute the losses. ``batch_inputs_dict`` holds ``imgs``, (B, V, 3, H, W)."""
        bev = self.extract_feat(batch_inputs_dict['imgs'], batch_data_samples)
        return self.pts_bbox_head.loss([bev], batch_data_samples)

    def predict(self, batch_inputs_dict: dict, batch_data_samples: List[Det3DDataSample],
                **kwargs) -> List[Det3DDataSample]:
        """Return the samples with ``pred_instances_3d``: boxes in the LiDAR frame, scores and
        labels."""
        bev = self.extract_feat(batch_inputs_dict['imgs'], batch_data_samples)
        found = self.pts_bbox_head.predict([bev], batch_data_samples)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _forward(self, batch_inputs_dict: dict, batch_data_samples: List[Det3DDataSample],
                 **kwargs):
        bev = self.extract_feat(batch_inputs_dict['imgs'], batch_data_samples)
        return self.pts_bbox_head([bev])


def batch_matrices(samples: Sequence[Det3DDataSample], images: Tensor) -> Tensor:
    """Compute :func:`view_to_bev` for each view of a batch, (B, V, 3, 4) float64 on the CPU.

    Args:
        samples: Samples of the batch.
        images: Images of the batch, (B, V, 3, H, W).

    Raises:
        ValueError: If a sample lacks a camera key, or its number of cameras or image size differs
            from the batch. Names the sample, and the key or both sizes.
    """
    views, size = images.shape[1], tuple(images.shape[3:])
    matrices = []
    for sample in samples:
        meta = sample.metainfo
        name = f'sample {meta.get("token", meta.get("sample_idx"))}'
        for key in CAMERA_KEYS:
            if key not in meta:
                raise ValueError(f'{name} has no {key}: Pack3DDetInputs must keep '
                                 f'{", ".join(CAMERA_KEYS)}, bev_aug_matrix and token')
            if len(meta[key]) != views:
                raise ValueError(f'{name} has {len(meta[key])} {key}, but the batch has {views} '
                                 'images per sample')
        if tuple(meta['img_shape'][:2]) != size:
            raise ValueError(f'{name} has images of {tuple(meta["img_shape"][:2])} pixels in a '
                             f'batch of {size}: all images must have the same size')
        cameras = [torch.from_numpy(np.asarray(meta[key], np.float64)) for key in CAMERA_KEYS]
        bev_aug = torch.from_numpy(np.asarray(meta.get('bev_aug_matrix', np.eye(4)), np.float64))
        matrices.append(view_to_bev(*cameras, bev_aug))
    return torch.stack(matrices)

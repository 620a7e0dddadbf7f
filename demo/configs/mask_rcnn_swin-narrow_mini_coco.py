# The dense detector of `make demo`: Mask R-CNN with a narrow Swin, trained from scratch on the
# miniature COCO within minutes on two CPU cores. Neck and heads are narrow, so that the backbone,
# which pruning speeds up, dominates the latency.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py',
    './_base_/mini_coco.py', './_base_/schedule.py'
]

# The pyramid begins at stride 8: the smallest objects are about 25 pixels wide.
strides = [8, 16, 32]
width = 64
num_classes = 5
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=32,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
        drop_path_rate=0.),
    neck=dict(
        in_channels=[32, 64, 128, 256],
        out_channels=width,
        start_level=1,
        num_outs=3,
        norm_cfg=dict(type='BN')),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[2.5, 3.5], ratios=[1.0], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=width,
            featmap_strides=strides,
            finest_scale=32),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=num_classes),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=7, sampling_ratio=1),
            out_channels=width,
            featmap_strides=strides,
            finest_scale=32),
        mask_head=dict(
            num_convs=2, in_channels=width, conv_out_channels=width, num_classes=num_classes)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=32), mask_size=14)),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=32), rcnn=dict(max_per_img=20)))

train_cfg = dict(max_iters=800)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=800)
default_hooks = _base_.by_iteration
log_processor = dict(by_epoch=False)
find_unused_parameters = True  # FPN starts at level 1, so norm0 of the backbone gets no gradient

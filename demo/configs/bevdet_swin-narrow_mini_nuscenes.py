# The dense detector of `make demo-3d`: BEVDet with a narrow three-stage Swin, trained from scratch
# on the miniature nuScenes within minutes on two CPU cores. The grid has 40x40 cells of 1.6 m and
# the head is narrow, so that the backbone, which pruning speeds up, dominates the latency.
_base_ = [
    'mmdet3d::_base_/default_runtime.py', '../../configs/_base_/bevdet.py',
    './_base_/mini_nuscenes.py', './_base_/schedule.py'
]
custom_imports = dict(imports=['sparsevit_mm.models.bevdet'], allow_failed_imports=False)

voxel_size = [0.2, 0.2, 0.2]
point_cloud_range = [-32., -32., -5., 32., 32., 3.]
model = dict(
    img_backbone=dict(
        type='mmdet.SwinTransformer',
        pretrain_img_size=(64, 176),
        use_abs_pos_embed=True,
        embed_dims=32,
        depths=(2, 2, 2),
        num_heads=(1, 2, 4),
        strides=(4, 2, 2),
        window_size=4,
        drop_path_rate=0.,
        out_indices=(1, 2)),
    img_neck=dict(type='FPN_LSS', in_channels=64 + 128, out_channels=64),
    img_view_transformer=dict(
        in_channels=64,
        out_channels=32,
        x=(-32., 32., 1.6),
        y=(-32., 32., 1.6),
        depth=(1., 37., 1.),
        stride=8),
    img_bev_encoder_backbone=dict(in_channels=32, channels=(32, 64, 128), num_blocks=1),
    img_bev_encoder_neck=dict(in_channels=32 + 128, out_channels=32),
    pts_bbox_head=dict(
        in_channels=32,
        share_conv_channel=24,
        separate_head=dict(head_conv=24),
        common_heads=dict(reg=(2, 1), height=(1, 1), dim=(3, 1), rot=(2, 1), vel=(2, 1)),
        bbox_coder=dict(pc_range=point_cloud_range[:2], voxel_size=voxel_size[:2]),
        train_cfg=dict(
            point_cloud_range=point_cloud_range,
            grid_size=[320, 320, 40],
            voxel_size=voxel_size),
        # Scoring dominates the evaluation time of a candidate and grows with the number of boxes.
        test_cfg=dict(post_max_size=20)))

train_cfg = dict(max_iters=900)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=900)
default_hooks = _base_.by_iteration
log_processor = dict(by_epoch=False)

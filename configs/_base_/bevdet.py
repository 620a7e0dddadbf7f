# BEVDet with a grid of 128x128 cells of 0.8 m, without the image encoder, which leaf configs add.
tasks = [['car'], ['truck', 'construction_vehicle'], ['bus', 'trailer'], ['barrier'],
         ['motorcycle', 'bicycle'], ['pedestrian', 'traffic_cone']]
voxel_size = [0.1, 0.1, 0.2]
out_size_factor = 8  # voxels per cell
point_cloud_range = [-51.2, -51.2, -5., 51.2, 51.2, 3.]
post_center_range = [-61.2, -61.2, -10., 61.2, 61.2, 10.]

model = dict(
    type='BEVDet',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    img_view_transformer=dict(
        type='LSSViewTransformer',
        in_channels=512,
        out_channels=64,
        x=(-51.2, 51.2, 0.8),
        y=(-51.2, 51.2, 0.8),
        z=(-10., 10.),
        depth=(1., 60., 1.),
        stride=16),
    img_bev_encoder_backbone=dict(type='BEVResNet', in_channels=64, channels=(128, 256, 512)),
    img_bev_encoder_neck=dict(
        type='FPN_LSS', in_channels=128 + 512, out_channels=256, levels=(0, 2), upsample=2),
    pts_bbox_head=dict(
        type='BEVDetHead',
        in_channels=256,
        tasks=[dict(num_class=len(names), class_names=names) for names in tasks],
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        share_conv_channel=64,
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            pc_range=point_cloud_range[:2],
            post_center_range=post_center_range,
            max_num=500,
            score_threshold=0.1,
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2],
            code_size=9),
        separate_head=dict(type='SeparateHead', init_bias=-2.19, final_kernel=3),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        norm_bbox=True,
        train_cfg=dict(
            point_cloud_range=point_cloud_range,
            grid_size=[1024, 1024, 40],
            voxel_size=voxel_size,
            out_size_factor=out_size_factor,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=500,
            min_radius=2,
            code_weights=[1., 1., 1., 1., 1., 1., 1., 1., 0.2, 0.2]),
        test_cfg=dict(
            post_center_limit_range=post_center_range,
            score_threshold=0.1,
            pre_max_size=1000,
            post_max_size=83,
            # Scale-NMS per task, with factors per class in tasks of two classes.
            nms_type=['rotate', 'rotate', 'rotate', 'circle', 'rotate', 'rotate'],
            nms_thr=[0.2, 0.2, 0.2, 0.2, 0.2, 0.5],
            nms_rescale_factor=[1., [0.7, 0.7], [0.4, 0.55], 1.1, [1., 1.], [4.5, 9.]],
            min_radius=[4., 12., 10., 1., 0.85, 0.175])))

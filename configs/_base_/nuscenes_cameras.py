# The six cameras of nuScenes, with info files from mmdet3d's tools/create_data.py.
dataset_type = 'NuScenesDataset'
data_root = 'data/nuscenes/'
image_size = (256, 704)  # input height and width of the network
backend_args = None
# In the order of the head's tasks, which differs from the order of the data set.
classes = ('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier', 'motorcycle',
           'bicycle', 'pedestrian', 'traffic_cone')
metainfo = dict(classes=classes, version='v1.0-trainval')
modality = dict(use_camera=True, use_lidar=False)
cameras = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_LEFT', 'CAM_BACK',
           'CAM_BACK_RIGHT')
data_prefix = {camera: f'samples/{camera}' for camera in cameras}
meta_keys = ('token', 'sample_idx', 'img_path', 'img_shape', 'ori_shape', 'box_type_3d',
             'box_mode_3d', 'cameras', 'cam2img', 'lidar2cam', 'img_aug_matrix', 'bev_aug_matrix')

train_pipeline = [
    dict(type='LoadCameras', image_size=(900, 1600), backend_args=backend_args),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(
        type='ImageAugmentation',
        size=image_size,
        resize=(-0.06, 0.11),
        random_crop=True,
        flip=0.5,
        rotate=5.4),
    dict(type='BEVAugmentation', rotate=0.3925, scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5),
    dict(type='ObjectRangeFilter', point_cloud_range=[-51.2, -51.2, -5., 51.2, 51.2, 3.]),
    dict(type='ObjectNameFilter', classes=classes),
    dict(type='Pack3DDetInputs', keys=['img', 'gt_bboxes_3d', 'gt_labels_3d'],
         meta_keys=meta_keys)
]
test_pipeline = [
    dict(type='LoadCameras', image_size=(900, 1600), backend_args=backend_args),
    dict(type='ImageAugmentation', size=image_size, resize=0.04),
    dict(type='Pack3DDetInputs', keys=['img'], meta_keys=meta_keys)
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CBGSDataset',
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            ann_file='nuscenes_infos_train.pkl',
            data_prefix=data_prefix,
            metainfo=metainfo,
            modality=modality,
            use_valid_flag=True,
            box_type_3d='LiDAR',
            pipeline=train_pipeline,
            backend_args=backend_args)))
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='nuscenes_infos_val.pkl',
        data_prefix=data_prefix,
        metainfo=metainfo,
        modality=modality,
        test_mode=True,
        box_type_3d='LiDAR',
        pipeline=test_pipeline,
        backend_args=backend_args))
test_dataloader = val_dataloader

val_evaluator = dict(
    type='NuScenesMetric',
    data_root=data_root,
    ann_file=data_root + 'nuscenes_infos_val.pkl',
    modality=modality,
    metric='bbox',
    backend_args=backend_args)
test_evaluator = val_evaluator

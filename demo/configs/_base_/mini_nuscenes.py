# The miniature nuScenes of `demo/make_mini_nuscenes.py`, with the nuScenes pipelines at its size.
_base_ = ['../../../configs/_base_/nuscenes_cameras.py']

data_root = 'data/mini_nuscenes/'
image_size = (64, 176)
metainfo = dict(version='v1.0-mini')
# Augmentations that move the horizon are off: from few frames, the model learns depth from the
# position of objects in the image.
changes = dict(
    LoadCameras=dict(image_size=(198, 352)),
    ImageAugmentation=dict(size=image_size, resize=0.04, random_crop=False, rotate=0.),
    ObjectRangeFilter=dict(point_cloud_range=[-32., -32., -5., 32., 32., 3.]))
train_pipeline, test_pipeline = (
    [dict(step, **changes.get(step['type'], {})) for step in pipeline]
    for pipeline in (_base_.train_pipeline, _base_.test_pipeline))

train_dataloader = dict(
    batch_size=6,
    num_workers=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        **dict(
            _base_.train_dataloader['dataset']['dataset'],
            data_root=data_root,
            metainfo=dict(_base_.metainfo, **metainfo),
            pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
# The stock NuScenesMetric scores one split per folder, so the test split is in a separate one.
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], data_root=data_root + 'test/'))

val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = dict(
    data_root=data_root + 'test/', ann_file=data_root + 'test/nuscenes_infos_val.pkl')

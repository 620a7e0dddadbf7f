# The demo's segmentor on CamVid, stored in the layout of Cityscapes (11 of its 19 classes occur):
# 123 training images of 480x360, of which every fourth is held out for the search, and 51 test
# images.
_base_ = ['./upernet_swin-narrow_mini_cityscapes.py']

crop_size = (240, 320)
model = dict(data_preprocessor=dict(size=crop_size))

data_root = 'data/camvid_cityscapes/'
scale = (480, 360)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        indices=[i for i in range(123) if i % 4],
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        indices=list(range(0, 123, 4)),
        pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline))

train_cfg = dict(max_iters=1500)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=1500)

"""The detector of the demo, shrunk."""
SIZE = 64
CONFIG = '''
_base_ = ['{base}/demo/configs/mask_rcnn_sparsevit-narrow_mini_coco.py']
model = dict(
    backbone=dict(embed_dims=16, num_heads=(1, 1, 2, 2)), neck=dict(in_channels=[16, 32, 64, 128]),
    roi_head=dict(bbox_head=dict(fc_out_channels=64)))
load = [dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='Resize', scale=({size}, {size}), keep_ratio=True)]
pack = dict(type='PackDetInputs',
            meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
common = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}', pipeline=load + [pack]))
train_dataloader = dict(common, batch_size=4)
# Validation is on the images of training, so that a short training shows.
val_dataloader = dict(common, dataset=dict(
    common['dataset'], ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/')))
test_dataloader = common
val_evaluator = dict(ann_file='{root}annotations/instances_train2017.json')
test_evaluator = dict(ann_file='{root}annotations/instances_test2017.json')
max_iters = 50
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [dict(type='ConstantLR', factor=1., by_epoch=False)]
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=max_iters))
'''

"""The BEVDet of the demo, shrunk."""
SIZE = (114, 64)
CONFIG = '''
_base_ = ['{base}/demo/configs/bevdet_sparsevit-narrow_mini_nuscenes.py']
width, height = {size}
shape = (32, 96)
changes = dict(
    LoadCameras=dict(image_size=(height, width)),
    ImageAugmentation=dict(size=shape, resize=0., flip=0.),
    BEVAugmentation=dict(flip_x=0., flip_y=0.))
train_pipeline, pipeline = (
    [dict(step, **changes.get(step['type'], {{}})) for step in steps]
    for steps in (_base_.train_pipeline, _base_.test_pipeline))
model = dict(
    img_backbone=dict(embed_dims=8, num_heads=(1, 1, 2), pretrain_img_size=shape),
    img_neck=dict(in_channels=16 + 32),
    img_view_transformer=dict(depth=(1., 37., 2.)))
common = dict(num_workers=0, persistent_workers=False)
# Training is on the frames of validation, so that a short one shows.
train_dataloader = dict(common, batch_size=4, dataset=dict(
    data_root='{root}', ann_file='nuscenes_infos_val.pkl', pipeline=train_pipeline))
val_dataloader = dict(common, dataset=dict(data_root='{root}', pipeline=pipeline))
test_dataloader = dict(common, dataset=dict(data_root='{root}test/', pipeline=pipeline))
val_evaluator = dict(data_root='{root}', ann_file='{root}nuscenes_infos_val.pkl')
test_evaluator = dict(data_root='{root}test/', ann_file='{root}test/nuscenes_infos_val.pkl')
max_iters = 60
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [dict(type='ConstantLR', factor=1., by_epoch=False)]
optim_wrapper = dict(optimizer=dict(lr=4e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=max_iters))
'''

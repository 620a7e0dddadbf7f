"""The segmentor of the demo, shrunk."""
SIZE = (64, 128)
CONFIG = '''
_base_ = ['{base}/demo/configs/upernet_sparsevit-narrow_mini_cityscapes.py']
height, width = {size}
model = dict(
    data_preprocessor=dict(size=(height, width)),
    backbone=dict(embed_dims=16, depths=(2, 2, 4, 2), num_heads=(1, 1, 2, 2)),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=16),
    auxiliary_head=dict(in_channels=64, channels=16))
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(width, height), keep_ratio=True),
    dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
common = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}', pipeline=pipeline))
train_dataloader = dict(common, batch_size=4)
# Validation is on the images of training, so that a short training shows.
val_dataloader = dict(common, dataset=dict(
    common['dataset'], data_prefix=dict(
        img_path='leftImg8bit/train', seg_map_path='gtFine/train')))
test_dataloader = common
max_iters = 20
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [dict(type='ConstantLR', factor=1., by_epoch=False)]
optim_wrapper = dict(optimizer=dict(lr=3e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=max_iters))
'''

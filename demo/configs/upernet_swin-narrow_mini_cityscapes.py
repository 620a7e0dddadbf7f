# The dense segmentor of `make demo-seg`: UPerNet with a narrow Swin, trained from scratch on the
# miniature Cityscapes within minutes on two CPU cores. The heads are narrow, so that the backbone,
# which pruning speeds up, dominates the latency.
_base_ = [
    'mmseg::_base_/models/upernet_swin.py', 'mmseg::_base_/default_runtime.py',
    './_base_/mini_cityscapes.py', './_base_/schedule.py'
]

width = 32
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 256)),
    backbone=dict(
        embed_dims=32, num_heads=(1, 2, 4, 8), window_size=4, drop_path_rate=0.),
    decode_head=dict(
        in_channels=[32, 64, 128, 256], channels=width, dropout_ratio=0., norm_cfg=norm_cfg),
    auxiliary_head=dict(
        in_channels=128, channels=width, dropout_ratio=0., norm_cfg=norm_cfg))

default_hooks = _base_.by_iteration
log_processor = dict(by_epoch=False)

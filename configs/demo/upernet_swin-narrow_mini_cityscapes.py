# The dense segmentor of `make demo-seg`: UPerNet with a narrow Swin, trained from scratch on the
# miniature Cityscapes within minutes on two processor cores. The head is slim, so that the
# backbone, where pruning acts, carries most of the inference time.
_base_ = [
    'mmseg::_base_/models/upernet_swin.py', 'mmseg::_base_/default_runtime.py',
    '../_base_/mini_cityscapes.py'
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

max_iters = 400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.),
    clip_grad=dict(max_norm=10.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.02,
        by_epoch=False,
        begin=50,
        end=max_iters,
        T_max=max_iters - 50)
]

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=max_iters, save_optimizer=False,
        save_last=False))
randomness = dict(seed=0)

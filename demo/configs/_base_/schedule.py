# Dense training of the demos from scratch: warm-up, then cosine decay. Configs with another length
# set max_iters and the end of the cosine.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=10**5)  # and at the end
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.),
    clip_grad=dict(max_norm=10.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, by_epoch=False, begin=50, end=400)
]
randomness = dict(seed=0)

# Leaf configs assign this to default_hooks, because the toolkits' runtime configs define that too.
by_iteration = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=-1, save_last=True, save_optimizer=False))

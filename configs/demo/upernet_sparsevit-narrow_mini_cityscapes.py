# Sparsity-aware adaptation of the demo's dense segmentor; load_from names its checkpoint.
_base_ = ['./upernet_swin-narrow_mini_cityscapes.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(backbone=dict(type='SparseSwinTransformer', skipped='linear'))
custom_hooks = [
    dict(type='SparsityAdaptationHook', distillation=1., val_sparsity={'dense': 0, '60%': 0.6})
]

max_iters = 150
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type='CosineAnnealingLR',
        eta_min_ratio=0.02,
        by_epoch=False,
        begin=30,
        end=max_iters,
        T_max=max_iters - 30)
]
default_hooks = dict(checkpoint=dict(interval=max_iters))

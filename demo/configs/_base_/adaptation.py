# Settings shared by the adaptations of the demos. Leaf configs assign them in place of the settings
# of the dense config.
adaptation_hooks = [
    dict(type='SparsityAdaptationHook', distillation=1., val_sparsity={'dense': 0, '60%': 0.6})
]
adaptation_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.02, by_epoch=False, begin=30, end=150)
]

# Adaptation of a segmentor: a third of 80,000 iterations at a tenth of the learning rate. Leaf
# configs assign these in place of the dense settings.
adaptation_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]
adaptation_loop = dict(max_iters=27000, val_interval=3000)
adaptation_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', eta_min=0., power=1., begin=500, end=27000, by_epoch=False)
]

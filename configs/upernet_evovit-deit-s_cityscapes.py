# Sparsity-aware adaptation of the dense UPerNet, which is to be trained first; a third of its
# schedule at a tenth of its learning rate. Afterwards tools/search_sparsity.py finds keep ratios.
_base_ = ['./upernet_evovit-deit-s_cityscapes_dense.py']

model = dict(backbone=dict(init_cfg=None))
load_from = 'work_dirs/upernet_evovit-deit-s_cityscapes_dense/iter_80000.pth'

custom_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]

max_iters = 27000
train_cfg = dict(max_iters=max_iters, val_interval=3000)
default_hooks = dict(checkpoint=dict(interval=3000))
optim_wrapper = dict(optimizer=dict(lr=6e-6))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=500),
    dict(type='PolyLR', eta_min=0., power=1., begin=500, end=max_iters, by_epoch=False)
]

# Sparsity-aware adaptation of the dense BEVDet, which must be trained first: a third of its
# schedule at a tenth of its learning rate.
_base_ = ['./bevdet_sparsevit_nuscenes_dense.py']

model = dict(img_backbone=dict(init_cfg=None, skipped='linear'))
load_from = 'work_dirs/bevdet_sparsevit_nuscenes_dense/epoch_20.pth'

custom_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]

max_epochs = 7
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min_ratio=1e-3,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True)
]

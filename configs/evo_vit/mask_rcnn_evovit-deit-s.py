# Sparsity-aware adaptation of the dense Mask R-CNN, which must be trained first: a third of its
# schedule at a tenth of its learning rate. Then search the keep ratios with
# tools/search_sparsity.py.
_base_ = ['./mask_rcnn_evovit-deit-s_dense.py']

model = dict(backbone=dict(init_cfg=None))
load_from = 'work_dirs/mask_rcnn_evovit-deit-s_dense/epoch_25.pth'

custom_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.067, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[7], gamma=0.1)
]

# Sparsity-aware adaptation of the dense 3x model, with a random sparsity configuration at every
# iteration. The adapted checkpoint can be tested at any sparsity, and searched.
_base_ = ['./mask_rcnn_sparsevit_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
load_from = 'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco_20210906_131725-bacf6f7b.pth'  # noqa: E501

custom_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8, 11], gamma=0.1)
]

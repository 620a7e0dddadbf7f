# BEVDet-R50 at 256x704: the convolutional baseline, 24 epochs with a step schedule.
_base_ = ['./bevdet_sparsevit_nuscenes_dense.py']

model = dict(
    img_backbone=dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=50,
        out_indices=(2, 3),
        norm_eval=False,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    img_neck=dict(
        _delete_=True, type='mmdet.FPN', in_channels=[1024, 2048], out_channels=512, num_outs=2))
find_unused_parameters = True  # the second level of the FPN is not used

max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(paramwise_cfg=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[16, 22])
]

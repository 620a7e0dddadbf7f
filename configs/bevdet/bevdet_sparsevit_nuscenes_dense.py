# Dense BEVDet-Tiny at 256x704 with the published recipe, on 8 GPUs with 8 frames each.
_base_ = [
    'mmdet3d::_base_/default_runtime.py', '../_base_/bevdet.py', '../_base_/nuscenes_cameras.py'
]
custom_imports = dict(
    imports=['sparsevit_mm', 'sparsevit_mm.models.bevdet'], allow_failed_imports=False)

pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'  # noqa: E501
model = dict(
    img_backbone=dict(
        type='SparseSwinTransformer',
        sparsity=0.,
        out_indices=(2, 3),
        drop_path_rate=0.,
        convert_weights=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    img_neck=dict(type='FPN_LSS', in_channels=384 + 768, out_channels=512))

max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=1))

lr = 2e-4
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'absolute_pos_embed': dict(decay_mult=0.),
            'relative_position_bias_table': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.)
        }),
    clip_grad=dict(max_norm=35, norm_type=2))
# One cycle that peaks at five times the learning rate.
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max=8,
        eta_min=5 * lr,
        begin=0,
        end=8,
        by_epoch=True,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=12,
        eta_min=1e-4 * lr,
        begin=8,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True)
]
auto_scale_lr = dict(enable=False, base_batch_size=64)

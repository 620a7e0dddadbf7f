# Sparsity-aware adaptation of mmseg's UPerNet with DeiT-S on ADE20K, from mmseg's checkpoint: a
# third of its schedule at a tenth of its learning rate.
_base_ = [
    'mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py', '../_base_/adaptation_27k.py'
]
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(pretrained=None, backbone=dict(type='EvoVisionTransformer'))
load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/vit/upernet_deit-s16_512x512_80k_ade20k/upernet_deit-s16_512x512_80k_ade20k_20210624_095228-afc93ec2.pth'  # noqa: E501

custom_hooks = _base_.adaptation_hooks
train_cfg = _base_.adaptation_loop
default_hooks = dict(checkpoint=dict(interval=3000))
optim_wrapper = dict(optimizer=dict(lr=6e-6))
param_scheduler = _base_.adaptation_scheduler

# Dense UPerNet with DeiT-S (ImageNet-1k) on Cityscapes: mmseg's model and optimizer for DeiT, its
# Cityscapes data and its schedule of 80,000 iterations. mmseg ships no checkpoint of this model.
_base_ = [
    'mmseg::_base_/models/upernet_vit-b16_ln_mln.py', 'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py', '../_base_/adamw_80k.py'
]
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

pretrained = 'https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth'
channels = [384, 384, 384, 384]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    pretrained=None,
    backbone=dict(
        type='EvoVisionTransformer',
        img_size=(512, 1024),
        embed_dims=384,
        num_heads=6,
        drop_path_rate=0.1,
        patch_bias=True,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)),
    neck=None,
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=384))

# SViTE+: DeiT-S trained from scratch on ImageNet-1k with half of its weights and 70% of its
# patches. mmpretrain's DeiT recipe of 300 epochs, with about 80 mask updates, as published. Patches
# are selected once, after the position embedding; the class token is always kept.
_base_ = ['mmpretrain::deit/deit-small_4xb256_in1k.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='EvoVisionTransformer',
        embed_dims=384,
        num_heads=6,
        norm_cfg=dict(type='LN', eps=1e-6),
        patch_bias=True,
        final_norm=True,
        output_cls_token=True,
        sparsity=0.3,
        importance='selector',
        fast='copy',
        reselect='stage',
        stages=(),
        dense_layers=0))

custom_hooks = [
    dict(type='SparseTrainingHook', density=0.5, interval=3750),
    dict(type='TokenSelectorHook')
]

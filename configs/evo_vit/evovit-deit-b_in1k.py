# DeiT-B with token evolution, trained from scratch on ImageNet-1k: mmpretrain's DeiT recipe.
_base_ = ['mmpretrain::deit/deit-base_16xb64_in1k.py', '../_base_/evo_in1k_300e.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='EvoVisionTransformer',
        embed_dims=768,
        num_heads=12,
        drop_path_rate=0.1,
        norm_cfg=dict(type='LN', eps=1e-6),
        patch_bias=True,
        output_cls_token=True,
        sparsity=0.5),
    head=dict(type='EvoClsHead'))

custom_hooks = [
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'), *_base_.evolution_hooks
]

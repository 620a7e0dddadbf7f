# Structured sparse training of mmseg's UPerNet with DeiT-S on ADE20K: 70% of the heads and 60% of
# the FFN neurons of each block, from DeiT's ImageNet checkpoint, with the dense schedule and 80
# mask updates, as published. Then tools/compact_model.py removes the pruned heads and neurons.
_base_ = ['mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

checkpoint = 'https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth'
model = dict(
    pretrained=None,
    backbone=dict(
        type='EvoVisionTransformer', init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))

custom_hooks = [
    dict(type='StructuredSparseTrainingHook', head_density=0.7, neuron_density=0.6, interval=800)
]

# Dense UPerNet with Swin-T (ImageNet-1k) on Cityscapes: mmseg's model, its optimizer for Swin, its
# Cityscapes data and its schedule of 80,000 iterations. mmseg ships no checkpoint of this model.
_base_ = [
    'mmseg::_base_/models/upernet_swin.py', 'mmseg::_base_/datasets/cityscapes.py',
    'mmseg::_base_/default_runtime.py', '../_base_/adamw_80k.py'
]
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

pretrained = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'  # noqa: E501
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(
        type='SparseSwinTransformer',
        sparsity=0.,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained)))

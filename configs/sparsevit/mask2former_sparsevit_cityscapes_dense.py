# Mask2Former with Swin-L (ImageNet-22k, 384): mmseg's Cityscapes recipe with the sparse backbone,
# run dense. Trained on crops of 512x1024, tested on whole images of 1024x2048.
_base_ = ['mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(backbone=dict(type='SparseSwinTransformer', sparsity=0.))

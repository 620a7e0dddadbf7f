# LeViT-192 with token evolution, trained from scratch on ImageNet-1k for 300 epochs: mmpretrain's
# LeViT recipe without the teacher, and with the class token that token evolution needs.
_base_ = ['mmpretrain::levit/levit-192_8xb256_in1k.py', '../_base_/evo_in1k_300e.py']

model = dict(
    backbone=dict(
        _delete_=True, type='EvoLeViT', arch='192', output_cls_token=True, sparsity=0.5),
    neck=None,
    head=dict(type='EvoLeViTClsHead', distillation=False))
train_cfg = dict(max_epochs=300)

custom_hooks = _base_.evolution_hooks

# Sparsity-aware adaptation of the demo's dense segmentor; set load_from to its checkpoint.
_base_ = ['./upernet_swin-narrow_mini_cityscapes.py', './_base_/adaptation.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(backbone=dict(type='SparseSwinTransformer', skipped='linear'))
custom_hooks = _base_.adaptation_hooks

train_cfg = dict(max_iters=150)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = _base_.adaptation_scheduler

# Sparsity-aware adaptation of the demo's dense BEVDet; set load_from to its checkpoint.
_base_ = ['./bevdet_swin-narrow_mini_nuscenes.py', './_base_/adaptation.py']
custom_imports = dict(
    imports=['sparsevit_mm', 'sparsevit_mm.models.bevdet'], allow_failed_imports=False)

model = dict(img_backbone=dict(type='SparseSwinTransformer', skipped='linear'))
custom_hooks = _base_.adaptation_hooks

train_cfg = dict(max_iters=150)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = _base_.adaptation_scheduler

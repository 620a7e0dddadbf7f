# Sparsity-aware adaptation of the dense segmentor on CamVid; set load_from to its checkpoint.
_base_ = ['./upernet_swin-narrow_camvid.py', './_base_/adaptation.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

model = dict(backbone=dict(type='SparseSwinTransformer', skipped='linear'))
custom_hooks = _base_.adaptation_hooks

train_cfg = dict(max_iters=600)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = _base_.adaptation_scheduler
param_scheduler[0].update(end=50)
param_scheduler[1].update(begin=50, end=600)

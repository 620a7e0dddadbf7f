# Sparsity-aware adaptation of the dense UPerNet, which must be trained first: a third of its
# schedule at a tenth of its learning rate. Then search the keep ratios with
# tools/search_sparsity.py.
_base_ = ['./upernet_evovit-deit-s_cityscapes_dense.py', '../_base_/adaptation_27k.py']

model = dict(backbone=dict(init_cfg=None))
load_from = 'work_dirs/upernet_evovit-deit-s_cityscapes_dense/iter_80000.pth'

custom_hooks = _base_.adaptation_hooks
train_cfg = _base_.adaptation_loop
default_hooks = dict(checkpoint=dict(interval=3000))
optim_wrapper = dict(optimizer=dict(lr=6e-6))
param_scheduler = _base_.adaptation_scheduler

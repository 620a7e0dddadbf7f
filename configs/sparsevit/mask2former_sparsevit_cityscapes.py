# Sparsity-aware adaptation of mmseg's dense model, with a random sparsity configuration at every
# iteration. The adapted checkpoint can be tested at any sparsity, and searched. The paper gives no
# schedule for Cityscapes; this one is a third of the dense schedule at a tenth of its learning
# rate.
_base_ = ['./mask2former_sparsevit_cityscapes_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024/mask2former_swin-l-in22k-384x384-pre_8xb2-90k_cityscapes-512x1024_20221202_141901-28ad20f1.pth'  # noqa: E501

custom_hooks = [dict(type='SparsityAdaptationHook', distillation=1.)]

max_iters = 30000
train_cfg = dict(max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1e-5))
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=max_iters, by_epoch=False)
]

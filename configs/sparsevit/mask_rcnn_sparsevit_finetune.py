# Fine-tuning at one sparsity configuration; pass the ratios and the adapted checkpoint:
#   --cfg-options model.backbone.sparsity="[[.3,.3],[0,0],[.1,.1,.2,.2,.2,.2],[0,0]]" load_from=...
_base_ = ['./mask_rcnn_sparsevit_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
optim_wrapper = dict(optimizer=dict(lr=1e-5))

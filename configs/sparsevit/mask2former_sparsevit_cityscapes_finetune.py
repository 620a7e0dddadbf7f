# Fine-tuning at one sparsity configuration; pass the ratios and the adapted checkpoint:
#   --cfg-options model.backbone.sparsity="[0,0,.5,.5]" load_from=...
# The windows of highest activation differ between crops and whole images: if memory allows, train
# at the test size (docs/history.md, CamVid).
_base_ = ['./mask2former_sparsevit_cityscapes_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
optim_wrapper = dict(optimizer=dict(lr=1e-5))

# Fine-tuning at one configuration: give the ratios and the adapted checkpoint,
#   --cfg-options model.backbone.sparsity="[0,0,.5,.5]" load_from=...
# Crops have other windows of highest activation than whole images: where memory allows, train at
# the size of the test (docs/history.md, CamVid).
_base_ = ['./mask2former_sparsevit_cityscapes_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
optim_wrapper = dict(optimizer=dict(lr=1e-5))

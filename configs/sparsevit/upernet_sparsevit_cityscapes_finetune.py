# Fine-tuning at one configuration: give the ratios and the adapted checkpoint,
#   --cfg-options model.backbone.sparsity="[.3,0,[.1,.2,.2],0]" load_from=...
# Crops have other windows of highest activation than whole images: where memory allows, train at
# the size of the test (docs/history.md, CamVid).
_base_ = ['./upernet_sparsevit_cityscapes_dense.py']

model = dict(backbone=dict(init_cfg=None, skipped='linear'))
optim_wrapper = dict(optimizer=dict(lr=6e-6))

# Fine-tuning at one sparsity configuration; pass the ratios and the adapted checkpoint:
#   --cfg-options model.img_backbone.sparsity="[.3,0,[.1,.2,.2],0]" load_from=...
_base_ = ['./bevdet_sparsevit_nuscenes.py']

load_from = None
custom_hooks = []

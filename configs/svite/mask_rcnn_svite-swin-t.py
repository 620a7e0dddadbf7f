# Sparse training of mmdet's Mask R-CNN with Swin-T: half of the weights in the backbone's stages,
# from the ImageNet checkpoint of the dense recipe, with the dense schedule.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py']
custom_imports = dict(imports=['sparsevit_mm'], allow_failed_imports=False)

custom_hooks = [
    dict(type='SparseTrainingHook', density=0.5, interval=1000, layers=r'^backbone\.stages')
]

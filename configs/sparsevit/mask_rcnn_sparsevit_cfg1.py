# Configuration 1 of table 1 in the SparseViT paper.
_base_ = ['./mask_rcnn_sparsevit_finetune.py']

model = dict(
    backbone=dict(
        importance='magnitude',
        skipped='copy',
        sparsity=[[.3, .3], [0, 0], [.1, .1, .2, .2, .2, .2], [0, 0]]))

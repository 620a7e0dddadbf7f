# Configuration 3 of table 1 in the SparseViT paper.
_base_ = ['./mask_rcnn_sparsevit_finetune.py']

model = dict(
    backbone=dict(
        importance='magnitude',
        skipped='copy',
        sparsity=[[.7, .7], [0, 0], [.2, .2, .4, .4, .5, .5], [0, 0]]))

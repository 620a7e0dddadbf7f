_base_ = ['./sparsevit/mask_rcnn_sparsevit.py']

# Structured sparse training of Mask R-CNN with Swin-T: 70% of the heads and 60% of the FFN neurons
# of each block, from the ImageNet checkpoint, with the dense schedule and about 80 mask updates, as
# published. Then tools/compact_model.py removes the pruned heads and neurons.
_base_ = ['../sparsevit/mask_rcnn_sparsevit_dense.py']

custom_hooks = [
    dict(type='StructuredSparseTrainingHook', head_density=0.7, neuron_density=0.6, interval=2500)
]

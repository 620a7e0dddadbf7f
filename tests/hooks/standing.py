"""The adaptation hook without a training."""
from helpers import backbone
from mmengine.logging import MessageHub

from sparsevit_mm import SparsityAdaptationHook


class Standing:
    """As much of a Runner as a draw needs."""

    def __init__(self, depths, iteration=0):
        stages = len(depths)
        self.model = backbone(
            depths=depths, num_heads=[1] * stages, strides=[2] * stages, out_indices=(0, ))
        self.iter = iteration
        self.message_hub = MessageHub('standing')


def ready(depths, **arguments):
    hook = SparsityAdaptationHook(**arguments)
    hook.before_run(Standing(depths))
    return hook

"""The learning rate of the trainings in plain PyTorch."""
import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimizer: Optimizer, iters: int, warm_up: int) -> LambdaLR:
    """Linear for `warm_up` iterations, times a half cosine that ends at zero after `iters`."""
    return LambdaLR(optimizer, lambda i: min(1, (i + 1) / warm_up) * (
        1 + math.cos(math.pi * i / iters)) / 2)

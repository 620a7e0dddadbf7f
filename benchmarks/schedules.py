"""Learning rate schedule of the trainings in plain PyTorch."""
import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimizer: Optimizer, iters: int, warm_up: int) -> LambdaLR:
    """Return a half cosine that reaches 0 after `iters` iterations, times a linear warm-up of
    `warm_up` iterations."""
    return LambdaLR(optimizer, lambda i: min(1, (i + 1) / warm_up) * (
        1 + math.cos(math.pi * i / iters)) / 2)

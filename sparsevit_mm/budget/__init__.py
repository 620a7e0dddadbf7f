from .front import Front, FrontPoint
from .setting import set_latency_budget

__all__ = ['Front', 'FrontPoint', 'set_latency_budget']

"""Search for the sparsity ratio of each block under a latency limit (SparseViT, section 3.3)."""
from .api import Watch, search
from .results import SearchResult

__all__ = ['SearchResult', 'Watch', 'search']

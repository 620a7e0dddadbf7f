"""Search for the sparsity of each layer under a latency limit (SparseViT, section 3.3)."""
from .api import Watch, search
from .results import SearchResult

__all__ = ['SearchResult', 'Watch', 'search']

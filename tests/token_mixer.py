"""A second sparse backbone, as small as one can be: three linear blocks over the tokens of one map,
whose ratios come in any order. Whatever asks the interface alone must do with it."""
import torch
from mmengine.registry import MODELS
from torch import nn

from sparsevit_mm.models import SparseBackbone
from sparsevit_mm.models.selection.ranking import Selection
from sparsevit_mm.sparsity import SparsitySpace, kept_windows


@MODELS.register_module(force=True)
class TokenMixer(SparseBackbone):

    def __init__(self, embed_dims=8, depth=3, patch_size=4, sparsity=None, importance='magnitude',
                 execution='eager', init_cfg=None):
        super().__init__(SparsitySpace((depth, ), group=1, nested=False, dense=1), 3, patch_size,
                         (0, ), sparsity, execution, init_cfg)
        self.embed_dims = embed_dims
        self.patch_embed = nn.Conv2d(3, embed_dims, patch_size, patch_size)
        self.blocks = nn.ModuleList(nn.Linear(embed_dims, embed_dims) for _ in range(depth))
        self.selection = Selection(importance)
        self._maps = None

    def forward(self, x):
        if self._executor is None:
            return self._forward(x)
        return self._executor(self, self._forward, self.sparsity, (x, ))

    def _forward(self, x):
        x = self.patch_embed(x)
        shape = x.shape
        x = x.flatten(2).transpose(1, 2)
        for block, ratio in zip(self.blocks, self.sparsity.ratios[0]):
            k = kept_windows(x.shape[1], ratio) if ratio else x.shape[1]
            kept = x.detach().abs().mean(-1).topk(k).indices
            if self._maps is not None:
                ran = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, kept, True)
                self._maps.append(ran.reshape(len(x), *shape[2:]))
            index = kept[..., None].expand(-1, -1, x.shape[2])
            x = x.scatter_add(1, index, block(x.gather(1, index)))
        return (x.transpose(1, 2).reshape(shape), )

    def _tokens(self, shape):
        return (shape[0] // self.patch_size) * (shape[1] // self.patch_size)

    def macs(self, shape, config, count_padding=False):
        tokens = self._tokens(shape)
        kept = [kept_windows(tokens, r) if r else tokens for r in config.ratios[0]]
        return (tokens * 3 * self.patch_size**2 + sum(kept) * self.embed_dims) * self.embed_dims

    def totals(self, shape):
        return [self._tokens(shape)]

    def token_sides(self):
        return [self.patch_size]

    def identity(self):
        return dict(depths=list(self.depths), width=self.embed_dims, patch=self.patch_size)

    def _record(self, maps):
        self._maps = maps[0]
        return [self]

    def remove(self):
        self._maps = None

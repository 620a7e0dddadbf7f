"""Base class of the backbones with slow-fast token evolution: select patches, run them, update the
others (Evo-ViT, section 3)."""
import math
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from ...sparsity import Sparsity, SparsityConfig, SparsitySpace, kept_windows
from ...widths import StageWidths
from ..checkpoints import rename
from ..interface import SparseBackbone
from ..selection.head import gate_update
from ..selection.importance import LEARNED, SELECTOR, TOKEN_SCORES, MapInfo
from ..selection.ranking import Selection
from ..selection.selector import gumbel_shares
from .block import ATTENTION
from .evolution import blend, gather, margin, representative, select, update
from .plan import FAST, Group, check_config, groups_of
from .watch import PatchWatch

Grid = Tuple[int, int]
Attended = Tuple[Tensor, Optional[Tensor], Union[float, Tensor]]
# (layer, tokens, name of an attention score or None, selected patches or None) -> (tokens, (B, T)
# attention scores or None, weight of these in the importance)
RunLayer = Callable[[int, Tensor, Optional[str], Optional[Tensor]], Attended]
Collect = Callable[[int, Callable[[], Tensor]], None]


class EvolvingBackbone(SparseBackbone):
    """Common base of the plain ViT and LeViT. A subclass implements `_make_space` for each value of
    `reselect`, and `_forward`, which calls :meth:`_run_group` for each group of layers.

    Args:
        fast: Update of the patches that do not run: 'representative', or 'copy' for none.
        reselect: See `reselect`.
        with_cls_token: Whether sequences begin with a class token.
        output_cls_token: Whether each output is a list of feature map and prefix tokens.
        **kwargs: Arguments of :class:`~..interface.SparseBackbone` except `space` and `sparsity`.

    Attributes:
        prefix: Number of tokens before the patches: 0, 1 with a class token, 2 with a distillation
            token as well.
    """
    scores = (*ATTENTION, *(name for name in TOKEN_SCORES if name not in (LEARNED, SELECTOR)))

    def __init__(self, fast: str, reselect: str, with_cls_token: bool, output_cls_token: bool,
                 **kwargs):
        if fast not in FAST:
            raise ValueError(f'fast {fast!r} is not one of {", ".join(FAST)}')
        if output_cls_token and not with_cls_token:
            raise ValueError('output_cls_token needs with_cls_token')
        self._reselect, self._selection = reselect, None
        super().__init__(self._make_space(reselect), **kwargs)
        self.fast, self.output_cls_token = fast, output_cls_token
        self.prefix = int(with_cls_token)
        self._maps: Optional[List[List[Tensor]]] = None  # while recording
        self._margins: Optional[List[float]] = None  # while measuring margins
        self._watcher: Optional[PatchWatch] = None

    def _make_space(self, reselect: str) -> SparsitySpace:
        """Return the sparsity space for a value of `reselect`.

        Raises:
            ValueError: If the value is unknown.
        """
        raise NotImplementedError

    @property
    def reselect(self) -> str:
        """Whether patches are selected in each 'layer' or once per 'stage'. Can be changed at any
        time; the sparsity ratios are kept.

        Raises:
            ValueError: If the layers of a stage have different ratios, or if the number of stages
                changes while `widths` is not full.
        """
        return self._reselect

    @reselect.setter
    def reselect(self, value: str) -> None:
        space = self._make_space(value)
        ratios = [ratio for stage in self.sparsity.ratios for ratio in stage]
        config = SparsityConfig(ratios, space.depths, group=1)
        self._check(config, self.selection, value)
        widths = self.widths
        if len(space.depths) != len(self.depths):
            if not widths.is_full:
                raise ValueError(f'reselect {value!r} has {len(space.depths)} stages, but widths '
                                 f'are set for {len(self.depths)}: set widths to None first')
            widths = StageWidths.of(None, len(space.depths))
        self._reselect, self.space, self._widths = value, space, widths
        self.sparsity = config

    @SparseBackbone.sparsity.setter
    def sparsity(self, value: Sparsity) -> None:
        config = self.space.config(value)
        if self._selection is not None:
            self._check(config, self._selection, self._reselect)
        self._sparsity = config
        self._groups = groups_of(config, self._reselect, self.space.dense)
        # No layer from the last selection on needs to return attention scores.
        self._last_choice = max([g.layers[0] for stage in self._groups for g in stage if g.ratio],
                                default=-1)

    @SparseBackbone.selection.setter
    def selection(self, value: Selection) -> None:
        self._check(self.sparsity, value, self._reselect)
        SparseBackbone.selection.fset(self, value)

    def _check(self, config: SparsityConfig, selection: Selection, reselect: str) -> None:
        name = selection.importance
        check_config(config, reselect, name, name in ATTENTION, self.space.dense)
        if name == 'class_attention' and not (self.prefix or config.is_dense):
            raise ValueError("importance 'class_attention' needs with_cls_token; without it use "
                             "'received', the attention that patches receive")

    def scores_for(self, config: SparsityConfig) -> List[str]:
        """Return the scores usable with a configuration: attention scores need a dense first layer,
        and 'class_attention' needs a class token."""
        found = []
        for name in self.scores:
            try:
                self._check(config, Selection(name), self._reselect)
            except ValueError:
                continue
            found.append(name)
        return found

    def forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        """Extract features.

        Args:
            x: Images, (B, in_channels, H, W).

        Returns:
            One (B, C, h, w) map for each of `out_indices`; with `output_cls_token` a list of the
            map and each (B, C) prefix token.
        """
        if not self.sparsity.is_dense:
            self._check_score()
        if self._watcher is not None:
            return self._watcher.run(self._forward, x)
        if self._executor is None:
            return self._forward(x)
        config = self.sparsity, self.selection, self.reselect, self.fast, self.widths
        return self._executor(self, self._forward, config, (x, ))

    def _forward(self, x: Tensor) -> Tuple[Union[Tensor, List[Tensor]], ...]:
        raise NotImplementedError

    def _run_group(self, x: Tensor, importance: Optional[Tensor], grid: Grid, stage: int,
                   group: Group, run: RunLayer,
                   collect: Collect = lambda layer, whole: None
                   ) -> Tuple[Tensor, Optional[Tensor]]:
        """Run the layers of a group on one selection of patches.

        Args:
            x: Whole sequence, (B, P + N, C).
            importance: (B, N) fp32; None before the first attention scores.
            grid: (H, W) of the patches.
            stage: Index of the stage.
            group: Group of layers.
            run: Function that runs one layer.
            collect: Callback that receives, after each layer, its number and a function that
                returns the whole sequence.

        Returns:
            The whole sequence and the importance after the group.
        """
        if self._watcher is not None:
            x = self._watcher.begin(x, importance, grid, stage)
        tokens, kept, summary = x, None, None
        if group.ratio:
            scores = self._scores(x, importance, grid)
            kept = select(scores.detach(), kept_windows(scores.shape[1], group.ratio), self.prefix)
            tokens = self._gate(gather(x, kept), scores, kept.patches)
            scores = scores.detach()
            if kept.patches.shape[1] < scores.shape[1]:
                if self._margins is not None:
                    self._margins.append(margin(scores, kept.patches.shape[1]))
                if self.fast == 'representative':
                    summary = representative(x[:, self.prefix:], scores, kept.patches)
                    tokens = torch.cat([tokens, summary], 1)
        self._note(x, grid, stage, group, kept and kept.patches)

        def whole() -> Tensor:
            if kept is None:
                return tokens
            if summary is None:
                return update(x, tokens, kept)
            return update(x, tokens[:, :-1], kept, tokens[:, -1:] - summary)

        patches = kept and kept.patches
        for layer in group.layers:
            before = tokens
            tokens, attention, weight = run(layer, tokens, self._attention_score(layer), patches)
            if self._watcher is not None:
                self._watcher.add(before, tokens)
            importance = self._blend(importance, attention, weight, patches)
            if layer != group.layers[-1]:
                collect(layer, whole)
        x = whole()
        collect(group.layers[-1], lambda: x)
        return x, importance

    def _scores(self, x: Tensor, importance: Optional[Tensor], grid: Grid) -> Tensor:
        """Return the scores that patches are ranked by, (B, N) fp32."""
        if self.selection.importance in (*ATTENTION, SELECTOR):
            return importance
        patches = x[:, self.prefix:].detach()
        return TOKEN_SCORES[self.selection.importance](patches, MapInfo(tuple(grid)))

    def _gate(self, tokens: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
        """Return the gathered tokens unchanged in value. When a selector is trained, its gradient
        flows through them as if each patch were multiplied by its Gumbel-softmax share."""
        if not scores.requires_grad:
            return tokens
        shares = gumbel_shares(scores.square(), self.selector.tau).gather(1, kept)
        prefix, patches = tokens[:, :self.prefix], tokens[:, self.prefix:]
        return torch.cat([prefix, gate_update(torch.zeros_like(patches), patches, shares)], 1)

    def _attention_score(self, layer: int) -> Optional[str]:
        """Return the score to compute from a layer's attention; None if no later selection uses
        it."""
        name = self.selection.importance
        return name if name in ATTENTION and layer < self._last_choice else None

    def _blend(self, importance: Optional[Tensor], attention: Optional[Tensor],
               weight: Union[float, Tensor], kept: Optional[Tensor] = None) -> Optional[Tensor]:
        """Return the importance after a layer with (B, T) attention scores, or with None."""
        if attention is None:
            return importance
        end = None if kept is None else self.prefix + kept.shape[1]  # drops the representative
        return blend(importance, attention[:, self.prefix:end], weight, kept)

    def _output(self, x: Tensor, grid: Grid) -> Union[Tensor, List[Tensor]]:
        out = x[:, self.prefix:].transpose(1, 2).unflatten(2, tuple(grid)).contiguous()
        return [out, *x[:, :self.prefix].unbind(1)] if self.output_cls_token else out

    def own_names(self, state: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Rename the weights of mmpretrain's dense backbone, as found in a checkpoint of a whole
        model, to this backbone's names; return others unchanged."""
        return state

    def _load_from_state_dict(self, state_dict, prefix, *args):
        rename(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def smallest_margin(self, image: Tensor) -> float:
        self._margins = []
        try:
            with torch.no_grad():
                self(image)
            return min(self._margins, default=float('inf'))
        finally:
            self._margins = None

    def _watch(self, scores: Sequence[str]) -> PatchWatch:
        return PatchWatch(self, scores)

    def _record(self, maps: List[List[Tensor]]) -> list:
        self._maps = maps
        return [self]

    def remove(self) -> None:
        """End a recording, like the ``remove`` of a hook handle."""
        self._maps = None

    def _note(self, x: Tensor, grid: Sequence[int], stage: int, group: Group,
              kept: Optional[Tensor]) -> None:
        if self._maps is None:
            return
        ran = torch.full((x.shape[0], math.prod(grid)), kept is None)
        if kept is not None:
            ran.scatter_(1, kept.cpu(), True)
        self._maps[stage] += [ran.unflatten(1, tuple(grid))] * len(group.layers)

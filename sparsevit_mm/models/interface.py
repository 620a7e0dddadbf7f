"""Interface of sparse backbones, through which hooks, search, cost, export and figures use
them."""
from contextlib import contextmanager
from itertools import islice
from typing import (Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple,
                    Union)

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..sparsity import Sparsity, SparsityConfig, SparsitySpace
from ..widths import StageWidths, unit_count
from .checkpoints import check_init_cfg
from .execution import EXECUTIONS
from .narrow import BlockWidth
from .selection.adapted_to import AdaptedTo
from .selection.importance import TOKEN_SCORES, TRAINED
from .selection.metadata import ToldBatch, listen_to_models
from .selection.ranking import Selection
from .selection.worth import Seen
from .unit_order import UnitOrder


class SparseBackbone(BaseModule):
    """Base class of sparse backbones, which map images (B, in_channels, H, W) to a tuple of
    feature maps.

    A subclass implements the methods below that raise NotImplementedError and sets `selection`.
    Its forward reads `sparsity`, `selection` and `execution`, which may be set at any time.
    Code outside of :mod:`sparsevit_mm.models` only uses this interface.

    Args:
        space: Valid sparsity configurations.
        in_channels: Channels of the input.
        patch_size: Side of a token of the first map, in pixels.
        out_indices: Indices of the feature maps, which name the outputs of an exported file.
        sparsity: See `sparsity`.
        execution: See `execution`.
        init_cfg: See :func:`~.checkpoints.check_init_cfg`.
        widths: See `widths`.

    Attributes:
        scores: Names of the importance scores that the backbone supports.
        adapted_to: The score with which the weights were adapted.
        lacking: Names of trained scores for which the loaded checkpoint has no weights.
        unit_order: Whether heads and neurons are sorted by importance.
        told: Inputs of the enclosing model, during its forward pass.
        watched: Whether dense passes read the padding of the images too.
    """

    scores: Tuple[str, ...] = tuple(TOKEN_SCORES)
    other_inits = False  # whether mmengine handles an init_cfg without a checkpoint

    def __init__(self, space: SparsitySpace, in_channels: int, patch_size: int,
                 out_indices: Sequence[int], sparsity: Sparsity = None,
                 execution: str = 'eager', init_cfg: Optional[dict] = None,
                 widths: Optional[dict] = None):
        check_init_cfg(init_cfg, self.other_inits)
        super().__init__(init_cfg=init_cfg)
        listen_to_models()
        self.told: Optional[ToldBatch] = None
        self.watched = False
        self.adapted_to = AdaptedTo()
        self.lacking: Set[str] = set()
        self.unit_order = UnitOrder()
        self.space = space
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.out_indices = tuple(out_indices)
        self._widths = StageWidths.of(widths, len(space.depths))  # before the blocks exist
        self.sparsity = sparsity
        self.execution = execution

    @property
    def depths(self) -> Tuple[int, ...]:
        """Number of blocks of each stage."""
        return self.space.depths

    @property
    def sparsity(self) -> SparsityConfig:
        """The sparsity ratio of every block, read at each forward. The setter accepts the values
        of :meth:`~sparsevit_mm.sparsity.SparsitySpace.config` and raises the same errors."""
        return self._sparsity

    @sparsity.setter
    def sparsity(self, value: Sparsity) -> None:
        self._sparsity = self.space.config(value)

    @property
    def selection(self) -> Selection:
        """How the windows or tokens that run are chosen; `sparsity` sets their number.

        Raises:
            ValueError: If the backbone does not support the importance score.
        """
        return self._selection

    @selection.setter
    def selection(self, value: Selection) -> None:
        if value.importance not in self.scores:
            raise ValueError(f'importance {value.importance!r} is not supported by '
                             f'{type(self).__name__}, which supports {", ".join(self.scores)}')
        self._selection = value

    @property
    def widths(self) -> StageWidths:
        """The share of the heads and FFN neurons of each stage that run, read at each forward. The
        setter accepts the values of :meth:`~sparsevit_mm.widths.StageWidths.of`.

        Raises:
            ValueError: See that method; also if the blocks cannot run a part of their units.
            TypeError: See that method.
        """
        return self._widths

    @widths.setter
    def widths(self, value: Union[None, dict, StageWidths]) -> None:
        widths = StageWidths.of(value, len(self.depths))
        self._check_widths(widths)
        self._widths = widths

    def _check_widths(self, widths: StageWidths) -> None:
        if not widths.is_full and not self.attention_blocks():
            raise ValueError(f'{type(self).__name__} has no blocks that can run only some of their '
                             f'heads and neurons')

    def running_units(self, widths: Optional[StageWidths] = None
                      ) -> List[List[Optional[BlockWidth]]]:
        """Return how many heads and neurons run, per stage and block. None means all of them.

        Args:
            widths: Widths to use instead of those of the backbone.
        """
        widths = self._widths if widths is None else widths
        if widths.is_full:
            return [[None] * depth for depth in self.depths]
        blocks, found = iter(self.attention_blocks()), []
        for depth, heads, ffn in zip(self.depths, widths.heads, widths.ffn):
            stage = []
            for block in islice(blocks, depth):
                width = BlockWidth(unit_count(block.num_heads, heads),
                                   unit_count(block.num_neurons, ffn))
                whole = width == (block.num_heads, block.num_neurons)
                stage.append(None if whole else width)
            found.append(stage)
        return found

    def all_units(self) -> List[List[BlockWidth]]:
        """Return how many heads and neurons each block has, per stage."""
        return self._numbers(StageWidths.of(None, len(self.depths)))

    def unit_numbers(self, point: Optional[SparsityConfig] = None) -> List[List[BlockWidth]]:
        """Return the same as :meth:`running_units`, with numbers instead of None.

        Args:
            point: Point whose knobs may set widths. The others are those of the backbone.
        """
        return self._numbers(self._widths if point is None else self._widths.at(point))

    def _numbers(self, widths: StageWidths) -> List[List[BlockWidth]]:
        running = self.running_units(widths)
        blocks = iter(self.attention_blocks())
        return [[width or BlockWidth(block.num_heads, block.num_neurons)
                 for width, block in zip(stage, blocks)] for stage in running]

    @property
    def execution(self) -> str:
        """Inference mode, a key of :data:`~.execution.EXECUTIONS`. Training is always eager."""
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        if value not in EXECUTIONS:
            raise ValueError(f'execution {value!r} is not one of {", ".join(EXECUTIONS)}')
        self._execution = value
        self._executor = EXECUTIONS[value] and EXECUTIONS[value]()

    def scores_for(self, config: SparsityConfig) -> List[str]:
        """Return those of `scores` that support a configuration."""
        return list(self.scores)

    def scores_held(self, state_dict: Mapping[str, Tensor], prefix: str) -> Set[str]:
        """Return the names of the trained scores whose weights a state dict contains.

        Args:
            state_dict: State dict of this backbone, or of a model that contains it.
            prefix: Prefix of the backbone's keys.

        Raises:
            ValueError: If these weights do not fit. The message names the keys.
        """
        return set()

    def _check_score(self) -> None:
        """Check the score before a pass that prunes.

        Raises:
            ValueError: If the checkpoint lacks the weights of the score, in eval mode.
        """
        name = self.selection.importance
        if self.training:
            self.lacking.discard(name)
        elif name in self.lacking:
            raise ValueError(f'importance {name!r} needs trained weights, but the checkpoint '
                             f'has none: {TRAINED[name]}')
        self.adapted_to.check(name, self.training)

    def _make_heads(self, names: Set[str]) -> None:
        """Create the modules with the weights of these scores, where they do not exist yet."""

    def _load_heads(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        """Create the heads that a state dict has weights for, before it is loaded."""
        if any(key.startswith(prefix) for key in state_dict):
            held = self.scores_held(state_dict, prefix)
            self.lacking = TRAINED.keys() - held
            self._make_heads(held)

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Compute the multiply-accumulates (MACs) of one image in closed form.

        Args:
            shape: (H, W) of the input, in pixels.
            config: Sparsity configuration, or an OperatingPoint, which may set widths.
            count_padding: Whether to count padded tokens as if every layer ran on them. Without
                padding it has no effect.
        """
        raise NotImplementedError

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Return how many windows or tokens a dense block of each stage runs, for (H, W) pixels."""
        raise NotImplementedError

    def token_sides(self) -> List[int]:
        """Return the side of a token of each stage, in pixels of the input."""
        raise NotImplementedError

    def attention_blocks(self) -> List[nn.Module]:
        """Return the blocks with attention and FFN whose heads and neurons can be removed, in
        order.

        Each has `num_heads` and `num_neurons`, which the arguments `block_heads` and `ffn_widths`
        of the backbone set. Empty by default.
        """
        return []

    def identity(self) -> Dict:
        """Return everything that affects latency except sparsity, execution and the values of
        weights, as a JSON-serialisable dict. It contains ``depths``."""
        raise NotImplementedError

    def smallest_margin(self, image: Tensor) -> Optional[float]:
        """Return the smallest relative gap between the scores of the last selected and the first
        unselected window or token.

        If the gap is within rounding error, an exported model may select another one. Infinite if
        all are selected; None if the backbone does not support this.
        """
        return None

    @contextmanager
    def recording(self) -> Iterator[List[List[Tensor]]]:
        """Context manager that records which tokens each block runs.

        Yields:
            Lists of maps, one per stage. Each forward pass appends one (B, H, W) bool map per
            block, where H and W are the size of the stage in tokens.
        """
        maps: List[List[Tensor]] = [[] for _ in self.depths]
        # Compiled and captured forwards run no hooks. Setting `execution` would drop them.
        executor, self._executor = self._executor, None
        handles = self._record(maps)
        try:
            yield maps
        finally:
            self._executor = executor
            for handle in handles:
                handle.remove()

    def _record(self, maps: List[List[Tensor]]) -> list:
        """Register hooks that append the maps of each forward pass. Return their handles."""
        raise NotImplementedError

    @contextmanager
    def watching(self, scores: Sequence[str]) -> Iterator[Callable[[], List[Seen]]]:
        """Context manager that collects, from a dense forward pass in eval mode and an optional
        backward pass, the scores of windows or tokens and what running them is worth.

        Args:
            scores: Names from :meth:`scores_for`.

        Yields:
            Function that returns the values of the last pass and clears them.
        """
        executor, self._executor = self._executor, None  # it runs no hooks
        self.watched = True
        watch = self._watch(scores)
        try:
            yield watch.take
        finally:
            watch.close()
            self._executor, self.watched = executor, False

    def _watch(self, scores: Sequence[str]):
        """Return an object with `take`, see :meth:`watching`, and `close`, which ends watching."""
        raise NotImplementedError


def get_sparse_backbone(model: nn.Module) -> SparseBackbone:
    """Return the sparse backbone of a detector or segmentor, wrapped (DDP) or not, at any depth.

    Raises:
        ValueError: If the model does not have exactly one. The message names its backbones.
    """
    found = [m for m in model.modules() if isinstance(m, SparseBackbone)]
    if len(found) == 1:
        return found[0]
    backbones = [
        f'{name}: {type(m).__name__}' for name, m in model.named_modules()
        if name.rsplit('.', 1)[-1] in ('backbone', 'img_backbone')
    ]
    raise ValueError(f'{type(model).__name__} holds {len(found)} sparse backbones, not one; '
                     f'its backbones: {", ".join(backbones) or "none"}')


def backbone_names() -> List[str]:
    """Return the registry names of all sparse backbones, as used in configs."""
    found, names = [SparseBackbone], []
    while found:
        subclasses = found.pop().__subclasses__()
        found += subclasses
        names += [cls.__name__ for cls in subclasses if cls.__name__ in MODELS.module_dict]
    return sorted(names)

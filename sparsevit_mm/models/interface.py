"""What hooks, search, cost, export and figures may ask of any sparse backbone."""
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
    """Base of the sparse backbones: an image (B, in_channels, H, W) to a tuple of feature maps.

    A subclass implements the methods below that raise NotImplementedError, sets `selection`, and
    lets its forward read `sparsity`, `selection` and `execution`, which may be set at any time.
    Nothing outside of :mod:`sparsevit_mm.models` needs to know the class.

    Args:
        space: The configurations that it takes.
        in_channels: Channels of the input.
        patch_size: Side of a token of the first map, in pixels.
        out_indices: Of the feature maps, which name them in an exported file.
        sparsity: See `sparsity`.
        execution: See `execution`.
        init_cfg: See :func:`~.checkpoints.check_init_cfg`.
        widths: See `widths`.

    Attributes:
        scores: Names of importance that it can choose by.
        adapted_to: The score under which its weights were adapted.
        lacking: Names of scores with weights of their own that a loaded checkpoint held none of.
        unit_order: Whether its heads and neurons are in the order of their importance.
        told: What the model around it was called with, for the time of its forward.
        watched: Whether dense passes too should heed what in an image is padding.
    """

    scores: Tuple[str, ...] = tuple(TOKEN_SCORES)
    other_inits = False  # whether an init_cfg that is no checkpoint is mmengine's to follow

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
        self._widths = StageWidths.of(widths, len(space.depths))  # the blocks are not there yet
        self.sparsity = sparsity
        self.execution = execution

    @property
    def depths(self) -> Tuple[int, ...]:
        """Blocks in each stage."""
        return self.space.depths

    @property
    def sparsity(self) -> SparsityConfig:
        """The ratio of every block: the one place where it is kept, read at each forward. Takes
        what :meth:`~sparsevit_mm.sparsity.SparsitySpace.config` takes, and raises as it does."""
        return self._sparsity

    @sparsity.setter
    def sparsity(self, value: Sparsity) -> None:
        self._sparsity = self.space.config(value)

    @property
    def selection(self) -> Selection:
        """Which windows or tokens run, as `sparsity` says how many. Raises ValueError on a score
        that is none of `scores`."""
        return self._selection

    @selection.setter
    def selection(self, value: Selection) -> None:
        if value.importance not in self.scores:
            raise ValueError(f'importance {value.importance!r} is none that '
                             f'{type(self).__name__} can choose by: {", ".join(self.scores)}')
        self._selection = value

    @property
    def widths(self) -> StageWidths:
        """The share of the heads and FFN neurons of each stage that run: the one place where it is
        kept, read at each forward. Takes what :meth:`~sparsevit_mm.widths.StageWidths.of` takes.

        Raises:
            ValueError, TypeError: As that does; or the blocks can't run a part of their units.
        """
        return self._widths

    @widths.setter
    def widths(self, value: Union[None, dict, StageWidths]) -> None:
        widths = StageWidths.of(value, len(self.depths))
        self._check_widths(widths)
        self._widths = widths

    def _check_widths(self, widths: StageWidths) -> None:
        if not widths.is_full and not self.attention_blocks():
            raise ValueError(f'{type(self).__name__} has no blocks that could run a part of their '
                             f'heads and neurons')

    def running_units(self, widths: Optional[StageWidths] = None
                      ) -> List[List[Optional[BlockWidth]]]:
        """For each stage and block, how many of its heads and neurons run; None where all do.

        Args:
            widths: The backbone's own by default.
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
        """How many heads and neurons each block of each stage has."""
        return self._numbers(StageWidths.of(None, len(self.depths)))

    def unit_numbers(self, point: Optional[SparsityConfig] = None) -> List[List[BlockWidth]]:
        """As :meth:`running_units`, with the numbers of whole blocks too.

        Args:
            point: With widths among its knobs; the backbone's own where it names none.
        """
        return self._numbers(self._widths if point is None else self._widths.at(point))

    def _numbers(self, widths: StageWidths) -> List[List[BlockWidth]]:
        running = self.running_units(widths)
        blocks = iter(self.attention_blocks())
        return [[width or BlockWidth(block.num_heads, block.num_neurons)
                 for width, block in zip(stage, blocks)] for stage in running]

    @property
    def execution(self) -> str:
        """How inference runs: a key of :data:`~.execution.EXECUTIONS`. Training is eager."""
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        if value not in EXECUTIONS:
            raise ValueError(f'execution {value!r} is none of {", ".join(EXECUTIONS)}')
        self._execution = value
        self._executor = EXECUTIONS[value] and EXECUTIONS[value]()

    def scores_for(self, config: SparsityConfig) -> List[str]:
        """Those of `scores` that can choose what runs in a configuration."""
        return list(self.scores)

    def scores_held(self, state_dict: Mapping[str, Tensor], prefix: str) -> Set[str]:
        """Names of the scores with weights of their own that a state dict holds weights of.

        Args:
            state_dict: Of this backbone, or of a model around it.
            prefix: Of the backbone's names in it.

        Raises:
            ValueError: They do not fit. Names the keys.
        """
        return set()

    def _check_score(self) -> None:
        """Before a pass that prunes. Raises ValueError in eval mode if the checkpoint lacks weights
        of the score."""
        name = self.selection.importance
        if self.training:
            self.lacking.discard(name)
        elif name in self.lacking:
            raise ValueError(f'importance {name!r} needs weights of its own, and the checkpoint '
                             f'holds none: {TRAINED[name]}')
        self.adapted_to.check(name, self.training)

    def _make_heads(self, names: Set[str]) -> None:
        """Makes the parts that hold the weights of these scores, where there are none yet."""

    def _load_heads(self, state_dict: Mapping[str, Tensor], prefix: str) -> None:
        """Before a state dict is loaded: makes place for what it holds."""
        if any(key.startswith(prefix) for key in state_dict):
            held = self.scores_held(state_dict, prefix)
            self.lacking = TRAINED.keys() - held
            self._make_heads(held)

    def macs(self, shape: Sequence[int], config: SparsityConfig,
             count_padding: bool = False) -> int:
        """Multiply-accumulates of one image, in closed form.

        Args:
            shape: (H, W) of the input, in pixels.
            config: The sparsity; an OperatingPoint may have widths.
            count_padding: Count padded tokens as if every layer ran on them. Of no effect where
                nothing is padded.
        """
        raise NotImplementedError

    def totals(self, shape: Sequence[int]) -> List[int]:
        """Windows, or tokens, that a dense block of each stage runs, for (H, W) pixels."""
        raise NotImplementedError

    def token_sides(self) -> List[int]:
        """Side of a token of each stage, in pixels of the input."""
        raise NotImplementedError

    def attention_blocks(self) -> List[nn.Module]:
        """The blocks of an attention and an FFN whose heads and neurons can be taken out, in order,
        each with `num_heads` and `num_neurons`; `block_heads` and `ffn_widths` of the backbone are
        theirs. None by default."""
        return []

    def identity(self) -> Dict:
        """All that latency depends on but sparsity, execution and the values of weights, as JSON
        holds it; ``depths`` are in it."""
        raise NotImplementedError

    def smallest_margin(self, image: Tensor) -> Optional[float]:
        """The smallest gap between the scores of the last selected and the first not selected, as
        a share of the former: where it is within rounding, an exported model may select another.
        Infinite if all are selected; None if the backbone does not know."""
        return None

    @contextmanager
    def recording(self) -> Iterator[List[List[Tensor]]]:
        """Within the context each forward pass leaves, per stage and block, a (B, H, W) bool map
        of the tokens that ran, H and W being the stage's size in tokens."""
        maps: List[List[Tensor]] = [[] for _ in self.depths]
        # Recordings run no hooks. They are put aside, not dropped, as setting `execution` would do.
        executor, self._executor = self._executor, None
        handles = self._record(maps)
        try:
            yield maps
        finally:
            self._executor = executor
            for handle in handles:
                handle.remove()

    def _record(self, maps: List[List[Tensor]]) -> list:
        """Makes each forward pass add its maps; returns handles whose ``remove`` ends that."""
        raise NotImplementedError

    @contextmanager
    def watching(self, scores: Sequence[str]) -> Iterator[Callable[[], List[Seen]]]:
        """Within the context a dense forward pass in eval mode, and the backward pass after it,
        leave what the scores say where windows or tokens would be chosen, and what running these
        is worth.

        Args:
            scores: Some of :meth:`scores_for`.

        Yields:
            What gives that of the last pass, and forgets it.
        """
        executor, self._executor = self._executor, None  # recordings run no hooks
        self.watched = True
        watch = self._watch(scores)
        try:
            yield watch.take
        finally:
            watch.close()
            self._executor, self.watched = executor, False

    def _watch(self, scores: Sequence[str]):
        """What has the `take` of :meth:`watching`, and a `close` that ends it."""
        raise NotImplementedError


def get_sparse_backbone(model: nn.Module) -> SparseBackbone:
    """The sparse backbone of a detector or segmentor, wrapped (DDP) or not, at any depth.

    Raises:
        ValueError: There is none, or more than one. Names what stands where backbones stand.
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
    """Names of the registered sparse backbones, as configs give them."""
    found, names = [SparseBackbone], []
    while found:
        subclasses = found.pop().__subclasses__()
        found += subclasses
        names += [cls.__name__ for cls in subclasses if cls.__name__ in MODELS.module_dict]
    return sorted(names)

"""Fits the heads of the learned score to a trained model, dense or adapted, and writes them into a
copy of its checkpoint. Nothing is trained: one pass over some images does."""
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import set_random_seed
from torch import nn

from ...compat import run_forward
from ...config.data import check_data
from ...config.labels import check_labels
from ...files import replacing
from ...models import get_sparse_backbone
from ...models.checkpoints import read_checkpoint, unwrapped
from ...models.selection.fit import ImportanceFitter
from ...models.selection.head import ImportanceHead
from ...models.selection.importance import LEARNED
from ...models.selection.ranking import Selection
from ..loading import load_model, prepare
from .images import Images
from .survey import ScoreSurvey

GRADIENT, UPDATE = TARGETS = ('gradient', 'update')
# What models raise where data lack the ground truth, or the loss a way to run outside of training.
_NO_LOSS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError)


class NoLoss(ValueError):
    """A model's loss can not be computed, or has no gradient."""


class StageFit(NamedTuple):
    """How the head of a stage came out.

    Attributes:
        images: Images, views counted singly, that it was fitted to. 0: none was of use, and it
            ranks as 'variation'.
        learned, variation, magnitude: Rank correlation of the score and the targets over the
            windows of an image, mean over the images held out; None where none of them gives a
            figure. See :class:`~sparsevit_mm.evaluation.scores.survey.StageRow`.
    """
    images: int
    learned: Optional[float]
    variation: Optional[float]
    magnitude: Optional[float]


SCORES = StageFit._fields[1:]


class CheckpointFit(NamedTuple):
    """Attributes:
        stages: In their order.
        targets: 'gradient' or 'update'.
        split: Whose images these were: 'train' or 'val'.
        fitted, held_out: Images in all.
    """
    stages: List[StageFit]
    targets: str
    split: str
    fitted: int
    held_out: int


def fit_importance(model: nn.Module, batches: Iterable, targets: str = GRADIENT,
                   held_out: Iterable = (), training: bool = True,
                   on_batch: Callable[[], None] = lambda: None) -> List[StageFit]:
    """Sets the heads of the learned score in a model's sparse backbone, in closed form, as
    :class:`~sparsevit_mm.models.selection.fit.ImportanceFitter` says.

    The model runs dense and as in inference: batch statistics, dropout and weights stay, and so do
    its sparsity, selection and modes after it. Frozen stages get heads like others.

    Args:
        model: A detector or segmentor, wrapped or not, on its device.
        batches: As the data loader gives them.
        targets: 'gradient': what a token's update is worth to the loss, one backward pass a batch.
            'update': the size of the update, by the backbone alone.
        held_out: Batches on which the fit is judged.
        training: Whether the batches are of a training pipeline, for the data preprocessor.
        on_batch: Called after each batch of either.

    Returns:
        One for each stage.

    Raises:
        ValueError: No image was of use for any stage: their values are not finite or all alike.
            As get_sparse_backbone; targets of another name.
        NoLoss: See there; with 'gradient' only.
    """
    if targets not in TARGETS:
        raise ValueError(f'targets {targets!r} are none of {", ".join(TARGETS)}')
    model = unwrapped(model)
    backbone = get_sparse_backbone(model)
    backbone.make_heads()
    run = run_loss if targets == GRADIENT else _run_backbone

    def watch(batches: Iterable, take: Callable[[], None]) -> None:
        for batch in batches:
            run(model, backbone, model.data_preprocessor(batch, training))
            take()
            on_batch()

    with _dense(model):
        model.training = targets == GRADIENT  # DINO and its like compute the loss only then
        with closing(ImportanceFitter(backbone)) as fitter:
            watch(batches, fitter.take)
        images = [stage.images for stage in fitter.stages]
        if not any(images):
            raise ValueError('nothing to fit the heads to: in no image were the targets finite '
                             'and different from token to token')
        for stage, channels in zip(backbone.stages, backbone.num_features):
            stage.importance.load_state_dict(ImportanceHead(channels).state_dict())
        fitter.fit()
        with ScoreSurvey(backbone, SCORES) as survey:
            watch(held_out, survey.take)
    backbone.lacking.discard(LEARNED)
    figures = {(row.stage, row.score): row.gain if targets == GRADIENT else row.update
               for row in survey.rows()}
    return [StageFit(number, *(figures[stage, score] for score in SCORES))
            for stage, number in enumerate(images)]


def fit_checkpoint(cfg: Config, checkpoint: str, out: Path, num_images: int = 200,
                   targets: Optional[str] = None, device: str = 'cpu', seed: int = 0,
                   overwrite: bool = False, say: Callable[[str], None] = print,
                   on_batch: Callable[[int, int], None] = lambda done, total: None
                   ) -> CheckpointFit:
    """Writes a checkpoint that holds what another does, and the heads of the learned score.

    Args:
        cfg: Of the whole model, with a sparse backbone; its train_dataloader gives the images, in
            batches of its size. See :func:`~sparsevit_mm.config.swap.ensure_sparse` for others.
        checkpoint: File of the whole model, dense or adapted. Heads that it holds are replaced.
        out: The file to write; whole or not at all.
        num_images: Images to take, every fifth of them to judge the fit on; all if there are no
            more.
        targets: See :func:`fit_importance`. None: 'gradient' where the loss can be computed, else
            'update'. Without data for training, 'update' takes the images of val.
        device: Name of a torch device.
        seed: Of the choice of images, and of what is random in pipeline and loss: also the
            process's from then on.
        overwrite: Whether `out` may be there already, the checkpoint itself included.
        say: Gets what the user should know.
        on_batch: Gets the number of batches done, and that of all.

    Raises:
        FileExistsError: `out` is there.
        FileNotFoundError, ValueError: No images, number below 1, no such device; checkpoint or
            data that are not there or do not fit; as fit_importance.
    """
    if num_images < 1:
        raise ValueError(f'{num_images} images: at least one is needed')
    if targets not in (None, *TARGETS):
        raise ValueError(f'targets {targets!r} are none of {", ".join(TARGETS)}')
    if out.is_dir():
        raise ValueError(f'{out} is a folder')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} is there already: --overwrite, or another --out')
    content = read_checkpoint(checkpoint)
    prepare(cfg, device)
    split = _choose_split(cfg, targets, say)
    model, _ = load_model(cfg, checkpoint, device)
    backbone = get_sparse_backbone(model)
    _tell(backbone, say)
    images = Images(cfg, split, num_images, seed)
    if len(images.chosen) < num_images:
        say(f'{split} holds {len(images.chosen)} images, fewer than {num_images}: all are taken')

    def fit(targets: str) -> CheckpointFit:
        fitted, held_out = images.parts()
        done, total = 0, len(fitted) + len(held_out)

        def step() -> None:
            nonlocal done
            done += 1
            on_batch(done, total)

        set_random_seed(seed)
        stages = fit_importance(model, fitted, targets, held_out, split == 'train', step)
        return CheckpointFit(stages, targets, split, len(fitted.indices), len(held_out.indices))

    try:
        result = fit(targets or (GRADIENT if split == 'train' else UPDATE))
    except NoLoss as error:
        if targets is not None:
            raise
        say(f'{error}: fitting to the updates alone')
        result = fit(UPDATE)
    _write(content, model, out)
    return result


def _choose_split(cfg: Config, targets: Optional[str], say: Callable[[str], None]) -> str:
    """'train', or 'val' where its data are missing and no loss is needed."""
    try:
        check_data(cfg, 'train')
        split = 'train'
    except (ValueError, FileNotFoundError) as error:
        if targets == GRADIENT or not cfg.get('val_dataloader'):
            raise
        check_data(cfg, 'val')
        say(f'{error}: fitting to the updates alone, on images of val')
        split = 'val'
    if split == 'train' and targets != UPDATE:
        check_labels(cfg, 'train')
    return split


def _tell(backbone: nn.Module, say: Callable[[str], None]) -> None:
    if LEARNED not in backbone.lacking:
        say('the checkpoint holds heads already: they are fitted anew')
    adapted = backbone.adapted_to.name
    if adapted not in (None, 'learned'):
        say(f'the checkpoint was adapted under importance={adapted!r}: test it under both')


@contextmanager
def _dense(model: BaseModel) -> Iterator[None]:
    """The model dense and in eval mode, its weights without gradients; as it was after it."""
    backbone = get_sparse_backbone(model)
    modes = [(module, module.training) for module in model.modules()]
    params = [(param, param.requires_grad) for param in model.parameters()]
    own = {name: getattr(backbone, name) for name in ('sparsity', 'selection', 'execution')}
    try:
        model.eval().requires_grad_(False)
        backbone.sparsity, backbone.selection = None, Selection()
        if backbone.execution != 'eager':
            backbone.execution = 'eager'
        yield
    finally:
        for module, training in modes:
            module.training = training
        for param, requires_grad in params:
            param.requires_grad_(requires_grad)
        for name, value in own.items():
            if getattr(backbone, name) != value:
                setattr(backbone, name, value)


def run_loss(model: BaseModel, backbone: nn.Module, data) -> None:
    """One pass forward to the loss and back. Raises NoLoss."""
    with torch.enable_grad():
        try:
            loss, _ = model.parse_losses(run_forward(model, data, 'loss'))
        except _NO_LOSS as error:
            raise NoLoss(f'the loss of {type(model).__name__} can not be computed '
                         f'({type(error).__name__}: {error})') from error
        if not loss.requires_grad:
            raise NoLoss(f'the loss of {type(model).__name__} does not depend on its backbone')
        loss.backward()


class _Enough(Exception):
    """Ends a forward pass."""


def _run_backbone(model: BaseModel, backbone: nn.Module, data) -> None:
    """The model's forward as far as its backbone, which so learns what is padding."""

    def stop(*_) -> None:
        raise _Enough

    handle = backbone.register_forward_hook(stop)
    try:
        with torch.no_grad():
            run_forward(model, data, 'tensor')
    except _Enough:
        pass
    finally:
        handle.remove()


def _write(checkpoint: Dict, model: BaseModel, out: Path) -> None:
    """Adds the model's heads to the content of a checkpoint, and writes it."""
    state = checkpoint.get('state_dict', checkpoint)
    backbone = get_sparse_backbone(model)
    name = next(name for name, module in model.named_modules() if module is backbone)
    wrapped = 'module.' if all(key.startswith('module.') for key in state) else ''
    for i, stage in enumerate(backbone.stages):
        weight = stage.importance.weight.detach().float().cpu().clone()
        state[f'{wrapped}{name}.stages.{i}.importance.weight'] = weight
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        torch.save(checkpoint, partial)

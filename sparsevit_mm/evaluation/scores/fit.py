"""Fitting of the importance heads of the learned score to a trained model, dense or adapted.

The heads are written to a copy of the checkpoint. They are fitted in closed form from one pass over
some images, without training.
"""
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
# Errors that models raise if the data lack annotations or the loss cannot run outside of training
_NO_LOSS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, TypeError)


class NoLoss(ValueError):
    """Raised when a model's loss cannot be computed or does not depend on the backbone."""


class StageFit(NamedTuple):
    """Quality of the fitted head of a stage.

    Attributes:
        images: Number of images that it was fitted to; each camera view counts as one. If 0, no
            image was usable and the head ranks like 'variation'.
        learned, variation, magnitude: Rank correlation of each score with the targets over the
            windows of an image, averaged over the held-out images; None if undefined for all of
            them. See :class:`~sparsevit_mm.evaluation.scores.survey.StageRow`.
    """
    images: int
    learned: Optional[float]
    variation: Optional[float]
    magnitude: Optional[float]


SCORES = StageFit._fields[1:]


class CheckpointFit(NamedTuple):
    """Result of :func:`fit_checkpoint`.

    Attributes:
        stages: Fit of each stage.
        targets: 'gradient' or 'update'.
        split: Data split of the images: 'train' or 'val'.
        fitted, held_out: Number of images used for fitting and for evaluating the fit.
    """
    stages: List[StageFit]
    targets: str
    split: str
    fitted: int
    held_out: int


def fit_importance(model: nn.Module, batches: Iterable, targets: str = GRADIENT,
                   held_out: Iterable = (), training: bool = True,
                   on_batch: Callable[[], None] = lambda: None) -> List[StageFit]:
    """Fit the heads of the learned score in a model's sparse backbone, in closed form, with
    :class:`~sparsevit_mm.models.selection.fit.ImportanceFitter`.

    The model runs dense in inference mode: dropout is off, and batch statistics and other weights
    do not change. Its sparsity, selection, execution and modes are restored afterwards. Frozen
    stages also get heads.

    Args:
        model: A detector or segmentor on its device, wrapped or not.
        batches: Batches from the data loader.
        targets: 'gradient' weights the update of a token by the gradient of the loss, with one
            backward pass per batch. 'update' uses the norm of the update and runs only the
            backbone.
        held_out: Batches on which the fit is evaluated.
        training: Whether the batches come from a training pipeline; passed to the data
            preprocessor.
        on_batch: Callback after each batch of `batches` and `held_out`.

    Returns:
        The fit of each stage.

    Raises:
        ValueError: If no image is usable for any stage because its targets are not finite or all
            equal, if the model does not have exactly one sparse backbone, or if `targets` is
            unknown.
        NoLoss: If the loss cannot be computed; only with 'gradient'.
    """
    if targets not in TARGETS:
        raise ValueError(f'targets {targets!r} must be one of {", ".join(TARGETS)}')
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
        model.training = targets == GRADIENT  # DINO and others compute losses only in train mode
        with closing(ImportanceFitter(backbone)) as fitter:
            watch(batches, fitter.take)
        images = [stage.images for stage in fitter.stages]
        if not any(images):
            raise ValueError('nothing to fit the heads to: in every image the targets are not '
                             'finite or are equal for all tokens')
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
    """Write a copy of a checkpoint with fitted heads of the learned score.

    Args:
        cfg: Config of the whole model. Its backbone must be sparse; see
            :func:`~sparsevit_mm.config.swap.ensure_sparse` for dense ones. Images come from its
            train_dataloader, in batches of that size.
        checkpoint: Checkpoint file of the whole model, dense or adapted. Existing heads are
            replaced.
        out: Path of the checkpoint to write. The write is atomic.
        num_images: Number of images to use; all if there are fewer. Every fifth image is held out
            to evaluate the fit.
        targets: See :func:`fit_importance`. Defaults to 'gradient' if the loss can be computed,
            else 'update'. If there are no training data, 'update' uses the val images.
        device: Name of a torch device.
        seed: Seed of the choice of images. Also the process's global seed from then on, for
            randomness in the pipeline and the loss.
        overwrite: Whether `out` may exist. It may then also be the checkpoint itself.
        say: Callback that receives messages for the user.
        on_batch: Callback that receives the number of finished batches and the total.

    Raises:
        FileExistsError: If `out` exists and `overwrite` is off.
        FileNotFoundError: If the checkpoint or the data do not exist.
        ValueError: If an argument is invalid, the device is not available, the checkpoint or the
            data do not fit the config, or :func:`fit_importance` fails.
    """
    if num_images < 1:
        raise ValueError(f'{num_images} images: at least one is needed')
    if targets not in (None, *TARGETS):
        raise ValueError(f'targets {targets!r} must be one of {", ".join(TARGETS)}')
    if out.is_dir():
        raise ValueError(f'{out} is a folder')
    if out.exists() and not overwrite:
        raise FileExistsError(f'{out} already exists: use --overwrite or another --out')
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
    """Return 'train', or 'val' if the training data are missing and no loss is required."""
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
    """Run the model dense, in eval mode and without gradients of its weights within the context."""
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
    """Compute the loss and its gradients.

    Raises:
        NoLoss: If the loss cannot be computed or does not depend on the backbone.
    """
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
    """Raised to stop a forward pass after the backbone."""


def _run_backbone(model: BaseModel, backbone: nn.Module, data) -> None:
    """Run the model's forward up to the end of its backbone. Calling the backbone through the model
    tells it which parts of the images are padding."""

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
    """Add the model's heads to the content of a checkpoint and write it."""
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

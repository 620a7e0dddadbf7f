"""What a checkpoint holds of a sparse training, and whether another training may go on with it."""
from typing import Dict, List

from mmengine.dist import get_world_size
from torch import Tensor

from ..weights.masking import Masking, Masks, unpack


def to_save(masks: Masking, start: Dict[str, Tensor], settings: Dict, rounds: int,
            random: List[Dict]) -> Dict:
    """
    Args:
        masks: As they are now.
        start: The first ones, as bits.
        settings: Of the hook.
        rounds: Intervals that have passed.
        random: States of the random generators, by rank.
    """
    return dict(settings=settings, world_size=get_world_size(), rounds=rounds, random=random,
                masks=masks.packed(), start=start,
                shapes={name: list(mask.shape) for name, mask in masks.masks.items()})


def check_resumable(record: Dict, expected: Masks, settings: Dict) -> None:
    """
    Args:
        record: Of the checkpoint; empty if it has none.
        expected: Masks of the layers that this training masks.
        settings: Of this training.

    Raises:
        ValueError: There is none, or it is of other settings, of another number of ranks or of
            other layers.
    """
    if not record:
        raise ValueError('the checkpoint to be resumed holds no masks: it is of no sparse '
                         'training; to begin one from its weights, load it without resume')
    if record['world_size'] != get_world_size():
        raise ValueError(f'the sparse training to be resumed ran on {record["world_size"]} ranks, '
                         f'this one runs on {get_world_size()}')
    held = record['settings']
    differences = [f'{key}={held.get(key)!r} there, {value!r} here'
                   for key, value in settings.items() if held.get(key) != value]
    if differences:
        raise ValueError('the sparse training to be resumed was begun with other settings: '
                         + '; '.join(differences))
    shapes = {name: list(mask.shape) for name, mask in expected.items()}
    problems = [f'{name} of shape {shape} has none' for name, shape in shapes.items()
                if name not in record['shapes']]
    problems += [f'no layer to mask is {name} of shape {shape}'
                 for name, shape in record['shapes'].items() if name not in shapes]
    problems += [f'{name} is of shape {record["shapes"][name]} there, {shape} here'
                 for name, shape in shapes.items() if record['shapes'].get(name, shape) != shape]
    if problems:
        raise ValueError('the masks of the checkpoint to be resumed do not fit the model: '
                         + '; '.join(problems))


def load_masks(record: Dict, expected: Masks, settings: Dict) -> Masks:
    """The masks of a checkpoint for the layers that have one of their name and shape.

    Raises:
        ValueError: They keep N of M weights, and these settings another share, or the reverse; or
            one has too few or too many bits.
    """
    if not record:
        return {}
    there, here = record['settings'].get('pattern'), settings.get('pattern')
    if there != here:
        raise ValueError(f'the masks of the checkpoint are of pattern {there}, and those of this '
                         f'training of pattern {here}')
    found = {}
    for name, mask in expected.items():
        if record['shapes'].get(name) == list(mask.shape):
            bits = record['masks'][name]
            if bits.numel() != -(-mask.numel() // 8):
                raise ValueError(f'{name}: the mask of the checkpoint has {bits.numel()} bytes, '
                                 f'{-(-mask.numel() // 8)} are those of {mask.numel()} weights')
            found[name] = unpack(bits, mask.shape)
    return found

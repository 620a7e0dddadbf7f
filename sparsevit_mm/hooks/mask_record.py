"""Save masks of a sparse training in checkpoints, and check and load them."""
from typing import Dict, List

from mmengine.dist import get_world_size
from torch import Tensor

from ..weights.masking import Masking, Masks, unpack


def to_save(masks: Masking, start: Dict[str, Tensor], settings: Dict, rounds: int,
            random: List[Dict]) -> Dict:
    """Return the record of a sparse training for a checkpoint.

    Args:
        masks: Current masks.
        start: Initial masks, packed into bits.
        settings: Settings of the hook.
        rounds: Number of update intervals that have passed.
        random: States of the random generators, by rank.
    """
    return dict(settings=settings, world_size=get_world_size(), rounds=rounds, random=random,
                masks=masks.packed(), start=start,
                shapes={name: list(mask.shape) for name, mask in masks.masks.items()})


def check_resumable(record: Dict, expected: Masks, settings: Dict) -> None:
    """Check that a training can resume from a record.

    Args:
        record: Record of the checkpoint; empty if it has none.
        expected: Masks of this training by name.
        settings: Settings of this training.

    Raises:
        ValueError: If there is no record, or it has other settings, another number of ranks, or
            masks of other names or shapes.
    """
    if not record:
        raise ValueError('the checkpoint to resume holds no masks, so it is not from a sparse '
                         'training; to start one from its weights, load it without resume')
    if record['world_size'] != get_world_size():
        raise ValueError(f'the sparse training to resume ran on {record["world_size"]} ranks, '
                         f'this one runs on {get_world_size()}')
    held = record['settings']
    differences = [f'{key}={held.get(key)!r} there, {value!r} here'
                   for key, value in settings.items() if held.get(key) != value]
    if differences:
        raise ValueError('the sparse training to resume has other settings: '
                         + '; '.join(differences))
    shapes = {name: list(mask.shape) for name, mask in expected.items()}
    problems = [f'{name} of shape {shape} has none' for name, shape in shapes.items()
                if name not in record['shapes']]
    problems += [f'no layer to mask is {name} of shape {shape}'
                 for name, shape in record['shapes'].items() if name not in shapes]
    problems += [f'{name} is of shape {record["shapes"][name]} there, {shape} here'
                 for name, shape in shapes.items() if record['shapes'].get(name, shape) != shape]
    if problems:
        raise ValueError('the masks of the checkpoint to resume do not fit the model: '
                         + '; '.join(problems))


def load_masks(record: Dict, expected: Masks, settings: Dict) -> Masks:
    """Return the masks of a record whose names and shapes match the expected masks.

    Raises:
        ValueError: If the N:M patterns of record and settings differ, or a mask has the wrong
            number of bytes.
    """
    if not record:
        return {}
    there, here = record['settings'].get('pattern'), settings.get('pattern')
    if there != here:
        raise ValueError(f'the masks of the checkpoint have pattern {there}, but those of this '
                         f'training have pattern {here}')
    found = {}
    for name, mask in expected.items():
        if record['shapes'].get(name) == list(mask.shape):
            bits = record['masks'][name]
            if bits.numel() != -(-mask.numel() // 8):
                raise ValueError(f'{name}: the mask of the checkpoint has {bits.numel()} bytes '
                                 f'instead of {-(-mask.numel() // 8)} for {mask.numel()} entries')
            found[name] = unpack(bits, mask.shape)
    return found

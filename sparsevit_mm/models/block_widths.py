"""Per-block numbers of heads and FFN neurons that override those of the stage."""
from typing import List, Optional, Sequence

Widths = Optional[Sequence[Optional[int]]]


def block_widths(given: Widths, defaults: Sequence[int], name: str,
                 at_most_default: bool = False) -> List[int]:
    """Return one number for each block.

    Args:
        given: One entry per block of the backbone, None for the default of that block; None
            for all defaults.
        defaults: Default of each block.
        name: Name of the argument, for error messages.
        at_most_default: Whether the default of a block is its upper limit.

    Raises:
        ValueError: If the number of entries is wrong, or an entry is not an integer of at least
            1 or exceeds its upper limit. The message names the block.
    """
    defaults = [int(default) for default in defaults]
    if given is None:
        return defaults
    if isinstance(given, (int, str)) or len(given) != len(defaults):
        raise ValueError(f'{name} {given} does not have one entry for each of the '
                         f'{len(defaults)} blocks')
    widths = [default if width is None else width for width, default in zip(given, defaults)]
    for block, (width, default) in enumerate(zip(widths, defaults)):
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f'{name} of block {block} is {width!r}, not an integer of at '
                             f'least 1')
        if at_most_default and width > default:
            raise ValueError(f'{name} of block {block} is {width}, more than its default {default}')
    return widths


def uniform(widths: Sequence[int]):
    """Return the number that all blocks share, or the list if they differ."""
    return widths[0] if len(set(widths)) == 1 else list(widths)

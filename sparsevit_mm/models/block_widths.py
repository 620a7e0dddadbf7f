"""How many heads and FFN neurons each block has, where they are not those of its stage."""
from typing import List, Optional, Sequence

Widths = Optional[Sequence[Optional[int]]]


def block_widths(given: Widths, defaults: Sequence[int], name: str,
                 at_most_default: bool = False) -> List[int]:
    """One number for each block.

    Args:
        given: One entry per block of the backbone, None for the default; None for all defaults.
        defaults: Of each block.
        name: Of the argument, for messages.
        at_most_default: Whether a block may have no more than its default.

    Raises:
        ValueError: Another number of entries, or one that is no whole number of at least 1, or is
            above its default where that is the most; names the block.
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
            raise ValueError(f'{name} of block {block} is {width!r}, not a whole number of at '
                             f'least 1')
        if at_most_default and width > default:
            raise ValueError(f'{name} of block {block} is {width}, more than its {default}')
    return widths


def uniform(widths: Sequence[int]):
    """The number that all blocks share, else the list of them."""
    return widths[0] if len(set(widths)) == 1 else list(widths)

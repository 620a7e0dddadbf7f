"""The pages of the documentation, and the commands in them."""
import re
from typing import List, NamedTuple

from helpers import ROOT

PAGES = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md',
         *sorted(str(path.relative_to(ROOT)) for pattern in ('docs/*.md', 'configs/*/README.md')
                 for path in ROOT.glob(pattern))]
# Figures of earlier versions: their commands are those of the time.
HISTORY = ['docs/history.md', 'docs/history_selection.md']
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NO_LANGUAGE = re.compile(r'^```', re.MULTILINE)
COMMAND = re.compile(r'(?<![\w/])(tools|benchmarks|demo)/(\w+)\.(py|sh)\b([^`|;&]*)')


class Block(NamedTuple):
    language: str
    text: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def blocks_of(page: str) -> List[Block]:
    return [Block(*found) for found in BLOCK.findall(text_of(page))]


def shell_blocks(page: str) -> List[str]:
    return [block.text for block in blocks_of(page) if block.language == 'bash']


def prose_of(page: str) -> str:
    return BLOCK.sub('', text_of(page))


def inline_code(page: str) -> List[str]:
    """What stands between backticks in the prose, on one line or several."""
    return [' '.join(code.split()) for code in re.findall(r'`([^`]+)`', prose_of(page))]


def commands_of(page: str) -> List[str]:
    """Command lines of the shell blocks, continued lines joined, and those within the prose."""
    lines = '\n'.join(shell_blocks(page)).replace('\\\n', ' ').splitlines()
    lines = [re.sub(r'(^|\s)#.*', '', line) for line in lines]
    return [line for line in (*lines, *inline_code(page)) if COMMAND.search(line)]

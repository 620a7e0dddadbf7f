"""Links and figures exist, and no page names an option, a path or an argument that is not there."""
import argparse
import ast
import importlib
import inspect
import re
import runpy
import sys
from unittest import mock

import pytest
from helpers import ROOT
from mmengine.registry import HOOKS, MODELS, VISBACKENDS
from pages import (COMMAND, HISTORY, PAGES, blocks_of, commands_of, inline_code, prose_of,
                   shell_blocks, text_of)

import sparsevit_mm.visualization  # noqa: F401, registers its hook

DOCS = [page for page in PAGES if page.startswith('docs/')]
TODAY = [page for page in PAGES if page not in (*HISTORY, 'CHANGELOG.md')]
FOLDERS = 'tools', 'configs', 'demo', 'docs', 'tests', 'benchmarks', 'sparsevit_mm', 'requirements'
LINK = re.compile(r'\]\(([^)\s]+)\)')


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def anchors(page: str):
    return {slug(re.sub(r'[`*]', '', heading)) for heading in
            re.findall(r'^#+ (.*)$', prose_of(page), re.MULTILINE)}


@pytest.mark.parametrize('page', PAGES)
def test_links_and_figures_exist(page):
    for target in LINK.findall(prose_of(page)):
        if '://' in target:
            continue
        name, _, anchor = target.partition('#')
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f'{page} links to {target}'
        if anchor:
            linked = str(path.resolve().relative_to(ROOT.resolve()))
            assert anchor in anchors(linked), f'{page} links to {target}'


def test_every_figure_is_shown():
    shown = {name.rsplit('/', 1)[-1] for page in PAGES for name in LINK.findall(text_of(page))}
    assert {path.name for path in (ROOT / 'docs').iterdir() if path.suffix != '.md'} <= shown


def test_the_table_of_contents_names_every_page():
    links = LINK.findall(text_of('docs/README.md'))
    linked = {f'docs/{target.partition("#")[0]}' for target in links}
    assert set(DOCS) - {'docs/README.md'} <= linked


@pytest.mark.parametrize('page', ['README.md', *DOCS])
def test_pages_are_short(page):
    limit = 60 if page == 'docs/verification.md' else 200
    assert len(text_of(page).splitlines()) <= limit


@pytest.mark.parametrize('page', PAGES)
def test_commands_stand_in_blocks_that_name_their_language(page):
    assert {block.language for block in blocks_of(page)} <= {'bash', 'python', 'bibtex'}
    loose = re.findall(r'^ {4,}\$? ?(?:python|bash|make|pip|mim) .*', prose_of(page), re.MULTILINE)
    assert not loose


class _Parser(Exception):
    pass


def parser_of(path) -> argparse.ArgumentParser:
    """The parser that a script builds."""

    def stop(self, *_, **__):
        raise _Parser(self)

    with mock.patch.object(argparse.ArgumentParser, 'parse_args', stop), \
            mock.patch.object(sys, 'path', [str(path.parent), *sys.path]):
        with pytest.raises(_Parser) as stopped:
            runpy.run_path(str(path), run_name='__main__')
    return stopped.value.args[0]


@pytest.fixture(scope='module')
def options():
    """Options of a script, by its path; a shell script passes on those of its Python twin."""
    known = {}

    def find(folder: str, name: str):
        twin = {'dist_train': 'train', 'dist_test': 'test', 'dist_search': 'search_sparsity'}
        path = ROOT / folder / f'{twin.get(name, name)}.py'
        if path not in known:
            known[path] = set(parser_of(path)._option_string_actions)
        return known[path]

    return find


@pytest.mark.parametrize('page', TODAY)
def test_options_of_commands_exist(page, options):
    for command in commands_of(page):
        for folder, name, kind, rest in COMMAND.findall(command):
            assert (ROOT / folder / f'{name}.{kind}').is_file(), f'{page}: {command}'
            given = re.findall(r'(?<![\w-])--?[a-z][\w-]*', rest)
            if given:
                missing = set(given) - options(folder, name)
                assert not missing, f'{page}: {folder}/{name}.{kind} takes no {missing}'


@pytest.mark.parametrize('page', TODAY)
def test_options_named_in_the_prose_exist(page, options):
    """Of a tool, or of a script that the page runs."""
    every = set().union(*(options('tools', path.stem) for path in (ROOT / 'tools').glob('*.py')
                          if path.stem != 'arguments'))
    for command in commands_of(page):
        every = every.union(*(options(folder, name) for folder, name, kind, _
                              in COMMAND.findall(command) if kind == 'py'))
    named = {found for code in inline_code(page) for found in re.findall(r'^--[a-z][\w-]*', code)}
    assert named <= every, f'{page}: {named - every}'


@pytest.mark.parametrize('page', TODAY)
def test_paths_named_exist(page):
    places = [*inline_code(page), *commands_of(page)]
    named = {found.rstrip('/.') for text in places for found in re.findall(
        rf'(?<![\w/.-])(?:{"|".join(FOLDERS)})/[\w./-]*(?![\w{{*])', text)}
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, f'{page} names {missing}'


@pytest.mark.parametrize('page', TODAY)
def test_make_targets_exist(page):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    places = [*inline_code(page), *'\n'.join(shell_blocks(page)).splitlines()]
    named = {found for text in places for found in re.findall(r'^make ([\w-]+)', text)}
    assert named <= targets


def test_pages_named_in_the_code_exist():
    named = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob('*.py'):
            for page in re.findall(r'\bdocs/\w+\.md', path.read_text(encoding='utf-8')):
                named.setdefault(page, path)
    assert named and not [f'{page} in {path}' for page, path in named.items()
                          if not (ROOT / page).is_file()]


PYTHON = [pytest.param(block.text, id=f'{page}-{i}') for page in TODAY
          for i, block in enumerate(blocks_of(page)) if block.language == 'python']


@pytest.mark.parametrize('source', PYTHON)
def test_python_blocks_name_what_exists(source):
    """They parse, what they import is there, and so are classes and arguments of config dicts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            kind = ast.literal_eval(given.pop('type')) if 'type' in given else None
            if kind is not None:
                found = [registry.get(kind) for registry in (HOOKS, MODELS, VISBACKENDS)]
                cls, = filter(None, found)
                inspect.signature(cls).bind_partial(**given)

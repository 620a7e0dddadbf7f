"""What the package imports, and which part of it may import which."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsevit_mm

PACKAGE = Path(sparsevit_mm.__file__).parent
TOOLKITS = {'mmdet', 'mmseg', 'mmdet3d', 'mmpretrain'}
LEAVES = {'bevdet', 'classification'}  # which configs import that need their toolkit

# Each line may import from the lines above it only; what is not named stands on top of all.
LAYERS = [{'version', 'sparsity', 'widths', 'files', 'compat'}, {'operating_point'},
          {'models'}, {'weights'}, {'cost'}, {'budget'}, {'hooks', 'config'},
          {'evaluation'}, {'search'}, {'visualization', 'deploy'}, {'report'}, {'cli'}]
MODEL_LAYERS = [{'tracing', 'checkpoints', 'block_widths', 'grids', 'narrow', 'unit_order'},
                {'windows', 'chunks'}, {'selection', 'execution'}, {'interface'},
                {'swin', 'vit', 'knobs', 'precision'}, {'bevdet', 'classification'}]

WITHOUT_TOOLKITS = '''
import sys

class Missing:
    names = {'mmdet', 'mmseg', 'mmdet3d', 'mmpretrain', 'torchvision', 'optuna',
             'matplotlib', 'mmcv._ext'}  # not rich: mmengine needs it

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ImportError(f'{name} is not installed')

for name in ('mmdet', 'mmseg', 'mmdet3d', 'mmpretrain'):
    assert name not in sys.modules
sys.meta_path.insert(0, Missing())
try:
    import mmdet
except ImportError:
    pass
else:
    raise AssertionError('the block does not hold')

import sparsevit_mm
import torch
from mmengine.registry import HOOKS, MODELS

model = MODELS.build(dict(
    type='SparseSwinTransformer', embed_dims=8, num_heads=(1, 2, 4, 8), sparsity=.5))
assert [f.shape[1] for f in model(torch.zeros(1, 3, 40, 40))] == [8, 16, 32, 64]
HOOKS.build(dict(type='SparsityAdaptationHook'))
sparsevit_mm.get_sparse_backbone(model)
front = sparsevit_mm.Front([sparsevit_mm.budget.FrontPoint(model.sparsity, 2., .3)], 'mAP', {})
assert sparsevit_mm.set_latency_budget(model, 2, front) == model.sparsity
import sparsevit_mm.cost.latency
import sparsevit_mm.cost.macs
print('works')
'''


def test_the_package_works_with_mmengine_and_the_python_part_of_mmcv_alone():
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', WITHOUT_TOOLKITS],
                          capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ['works'], done.stderr


def nodes_run_on_import(tree):
    """Every node of a module but those within functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from nodes_run_on_import(node)


def imports_of(path, nodes=nodes_run_on_import):
    """Absolute dotted names that a file of the package imports, names imported from them too."""
    package = ('sparsevit_mm', ) + path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in nodes(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) + 1 - node.level] if node.level else ()
            base = '.'.join([*start, *filter(None, [node.module])])
            found |= {base} | {f'{base}.{alias.name}' for alias in node.names}
    return found


def files(*parts):
    return sorted(PACKAGE.joinpath(*parts).rglob('*.py'))


def layer(name, layers):
    return next((i for i, names in enumerate(layers) if name in names), len(layers))


def breaches(paths, prefix, layers):
    """(file, import) wherever a file imports from its own layer, but for its own part, or from
    one above."""
    depth = prefix.count('.') + 1
    for path in paths:
        own = path.relative_to(PACKAGE).with_suffix('').parts[depth - 1]
        for name in imports_of(path):
            parts = name.split('.')
            if name.startswith(prefix + '.') and parts[depth] != own:
                if layer(parts[depth], layers) >= layer(own, layers):
                    yield str(path.relative_to(PACKAGE)), name


def test_lower_layers_import_no_higher_one():
    assert len(files()) > 100
    assert list(breaches(files(), 'sparsevit_mm', LAYERS)) == []
    rooms = [path for path in files('models') if path != PACKAGE / 'models' / '__init__.py']
    assert list(breaches(rooms, 'sparsevit_mm.models', MODEL_LAYERS)) == []


def test_the_check_of_layers_sees_a_breach():
    upside_down = list(breaches(files('models'), 'sparsevit_mm', LAYERS[::-1]))
    assert ('models/swin/stage.py', 'sparsevit_mm.sparsity') in upside_down


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def circle(graph):
    """Some modules that import each other, in order; None if there are none."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return path[path.index(module):]
        if module in done:
            return None
        path.append(module)
        found = next(filter(None, map(visit, sorted(graph[module]))), None)
        path.pop()
        done.add(module)
        return found
    return next(filter(None, map(visit, sorted(graph))), None)


def test_no_modules_import_each_other():
    """Imports within functions count; a package that gathers its own modules does not."""
    modules = {module_name(path): path for path in files()}
    graph = {name: {other for other in imports_of(path, ast.walk) if other in modules
                    and not name.startswith(f'{other}.') and other != name}
             for name, path in modules.items()}
    assert circle(graph) is None


def test_the_check_of_circles_sees_one():
    assert circle({'a': {'b'}, 'b': {'c'}, 'c': {'b'}}) == ['b', 'c']
    assert circle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()}) is None


def test_rooms_are_small():
    for folder in {path.parent for path in files()}:
        assert len(list(folder.glob('*.py'))) <= 16, folder  # 15 and __init__
    loose = [path.stem for path in PACKAGE.glob('*.py')]
    assert len(set(loose) - {'__init__', 'version'}) <= 7, loose


@pytest.mark.parametrize('part', [
    'sparsity.py', 'budget', 'compat.py', 'models', 'weights', 'hooks', 'cost',
    'config', 'evaluation', 'search', 'report', 'visualization', 'deploy', 'cli.py'])
def test_no_toolkit_is_imported_even_within_a_function(part):
    path = PACKAGE / part
    for file in [path] if path.is_file() else files(part):
        if LEAVES & {*file.parts}:
            continue
        roots = {name.split('.')[0] for name in imports_of(file, ast.walk)}
        assert not roots & TOOLKITS, file


def test_sparsity_knows_no_torch():
    roots = {name.split('.')[0] for name in imports_of(PACKAGE / 'sparsity.py', ast.walk)}
    assert roots == {'ast', 'math', 'dataclasses', 'numbers', 'typing', 'numpy'}

"""What the package imports, and which part of it may import which."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sparsevit_mm

PACKAGE = Path(sparsevit_mm.__file__).parent
TOOLKITS = {'mmdet', 'mmseg', 'mmdet3d'}

# Each line may import from the lines above it only; what is not named stands on top of all.
LAYERS = [{'version', 'sparsity', 'checkpoints', 'config', 'datasets', 'files'},
          {'models', 'child', 'data', 'front', 'loading'},
          {'hooks', 'cost', 'arguments', 'labels'}, {'search', 'swap'}, {'visualization'}]
MODEL_LAYERS = [{'tracing'},
                {'windows', 'attention', 'pretrained', 'chunks', 'rows', 'adapted_to'},
                {'importance', 'layout', 'patches'}, {'importance_head', 'token_worth', 'bypass'},
                {'selection', 'kernels', 'execution', 'importance_fit'}, {'stage', 'metadata'},
                {'sparse_swin'}]

WITHOUT_TOOLKITS = '''
import sys

class Missing:
    names = {'mmdet', 'mmseg', 'mmdet3d', 'torchvision', 'optuna', 'matplotlib',
             'mmcv._ext'}  # not rich: mmengine needs it

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            raise ImportError(f'{name} is not installed')

for name in ('mmdet', 'mmseg', 'mmdet3d'):
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
front = sparsevit_mm.Front([sparsevit_mm.front.FrontPoint(model.sparsity, 2., .3)], 'mAP', {})
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
    paths = [p for p in files() if p.parent != PACKAGE or layer(p.stem, LAYERS) < len(LAYERS)]
    assert len(paths) > 20
    assert list(breaches(paths, 'sparsevit_mm', LAYERS)) == []


def test_windows_selection_and_attention_know_no_backbone():
    paths = [p for p in (PACKAGE / 'models').glob('*.py') if p.stem != '__init__']
    assert list(breaches(paths, 'sparsevit_mm.models', MODEL_LAYERS)) == []


def test_the_check_of_layers_sees_a_breach():
    upside_down = list(breaches(files('models'), 'sparsevit_mm', LAYERS[::-1]))
    assert ('models/stage.py', 'sparsevit_mm.sparsity') in upside_down
    upside_down = list(breaches(files('models'), 'sparsevit_mm.models', MODEL_LAYERS[::-1]))
    assert ('models/stage.py', 'sparsevit_mm.models.windows') in upside_down


@pytest.mark.parametrize('part', [
    'sparsity.py', 'checkpoints.py', 'child.py', 'data.py', 'front.py', 'labels.py',
    'arguments.py', 'swap.py', 'models', 'hooks', 'cost', 'search', 'visualization'])
def test_no_toolkit_is_imported_even_within_a_function(part):
    path = PACKAGE / part
    for file in [path] if path.is_file() else files(part):
        if 'bevdet' in file.parts:  # the leaf that only nuScenes configs import
            continue
        roots = {name.split('.')[0] for name in imports_of(file, ast.walk)}
        assert not roots & TOOLKITS, file


def test_sparsity_knows_no_torch():
    roots = {name.split('.')[0] for name in imports_of(PACKAGE / 'sparsity.py', ast.walk)}
    assert roots == {'ast', 'math', 'dataclasses', 'numbers', 'typing', 'numpy'}

"""Installs sparsevit_mm; as mm plugins do, its configs and tools go along in sparsevit_mm/.mim."""
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = next(line.split("'")[1]
               for line in (HERE / 'sparsevit_mm' / 'version.py').read_text().splitlines()
               if line.startswith('__version__'))


def add_mim_files() -> None:
    """Puts what `mim` looks for into the package: links in a checkout, copies in a wheel."""
    target = HERE / 'sparsevit_mm' / '.mim'
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    editable = {'develop', 'editable_wheel'} & set(sys.argv)
    for name in ('configs', 'tools', 'model-index.yml'):
        source = HERE / name
        if editable:
            (target / name).symlink_to(Path('..', '..', name))
        elif source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, target / name)


if {'sdist', 'bdist_wheel', 'develop', 'editable_wheel'} & set(sys.argv):
    add_mim_files()

SEARCH = ['optuna>=5,<6', 'rich', 'matplotlib', 'jinja2', 'pycocotools', 'scipy', 'scikit-learn']
EXPORT = ['onnx', 'onnxruntime', 'onnxscript']
setup(
    name='sparsevit_mm',
    version=VERSION,
    description='SparseViT, Evo-ViT and SViTE for OpenMMLab: vision transformers that skip '
                'windows, tokens or weights, searched under a latency limit',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['sparsevit_mm', 'sparsevit_mm.*']),
    package_data={'sparsevit_mm': ['.mim/*', '.mim/**/*', 'report/report.html']},
    python_requires='>=3.8',
    # torch and mmcv come in builds that must fit each other and the GPU: they are the user's.
    install_requires=['mmengine>=0.8', 'numpy'],
    extras_require={
        'det': ['mmdet>=3.3,<3.4'],
        'seg': ['mmsegmentation>=1.2,<1.3', 'ftfy', 'regex'],
        'det3d': ['mmdet3d>=1.4,<1.5'],
        # Beside what it declares; PyPI's modelindex is empty, model-index holds the module.
        'cls': ['mmpretrain>=1.2,<1.3', 'torchvision', 'model-index'],
        'search': SEARCH,
        'export': EXPORT,
        'dev': [*SEARCH, *EXPORT, 'pytest', 'pytest-xdist', 'hypothesis', 'ruff', 'tensorboard',
                'psutil',
                'psycopg2-binary'],
    },
)

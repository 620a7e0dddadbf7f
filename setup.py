from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(line.split("'")[1]
               for line in (HERE / 'sparsevit_mm' / 'version.py').read_text().splitlines()
               if line.startswith('__version__'))

setup(
    name='sparsevit_mm',
    version=VERSION,
    description='SparseViT for OpenMMLab: Swin backbones that skip the windows that do not matter',
    license='Apache-2.0',
    packages=find_packages(include=['sparsevit_mm', 'sparsevit_mm.*']),
    python_requires='>=3.8',
)

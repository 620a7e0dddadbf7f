"""--help answers before anything heavy is imported, and its choices are the package's."""
import subprocess
import sys

import arguments
import pytest
from helpers import ROOT

from sparsevit_mm.cost.latency import DTYPES, OF
from sparsevit_mm.evaluation import unit_order
from sparsevit_mm.evaluation.scores import compare, fit
from sparsevit_mm.models.execution import EXECUTIONS
from sparsevit_mm.models.selection.ranking import SCOPES
from sparsevit_mm.search import request
from sparsevit_mm.search.propose.sampler import SAMPLERS

TOOLS = sorted(path for folder in ('tools', 'demo') for path in (ROOT / folder).glob('*.py')
               if '__main__' in path.read_text())
HELP = """
import runpy, sys
sys.argv[1:] = ['--help']
sys.path.insert(0, {folder!r})
try:
    runpy.run_path({path!r}, run_name='__main__')
finally:
    print(sorted({{'torch', 'mmengine', 'sparsevit_mm'}} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_help_imports_nothing_heavy(tool):
    code = HELP.format(folder=str(tool.parent), path=str(tool))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'usage:' in done.stdout
    assert done.stderr == '[]\n'


def test_choices_are_those_of_the_package():
    assert arguments.DTYPES == tuple(DTYPES) and arguments.EXECUTIONS == tuple(EXECUTIONS)
    assert arguments.LATENCY_OF == OF
    assert arguments.SCOPES == tuple(SCOPES) and arguments.SAMPLERS == tuple(SAMPLERS)
    assert arguments.POINTS == tuple(request.POINTS) and arguments.TARGETS == tuple(fit.TARGETS)
    assert arguments.IMPORTANCES == unit_order.IMPORTANCES
    assert (arguments.SAMPLES, arguments.SPARSITIES) == (compare.SAMPLES, compare.SPARSITIES)

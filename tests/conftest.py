"""What all tests share: fixed seeds, narrow models with weights that leave no layer idle."""
import gc
import sys
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from mmengine.config import config
from mmengine.config import utils as config_utils
from mmengine.runner import loops

from sparsevit_mm import SparseSwinTransformer

# As the interpreter does for a script.
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ('tools', 'demo')]
settings.register_profile(
    'laws',
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck))
settings.load_profile('laws')
torch.set_num_threads(1)

NARROW = dict(
    embed_dims=16,
    depths=(2, 2),
    num_heads=(2, 4),
    window_size=4,
    patch_size=4,
    strides=(4, 2),
    out_indices=(0, 1),
    drop_path_rate=0.)
MEAN_STD = dict(mean=[120., 115., 105.], std=[58., 57., 57.])
PIPELINE_START = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(72, 56))]


@pytest.fixture(scope='session', autouse=True)
def _no_overhead():
    """Skips what takes longer than a tiny model: mmengine formats each config with YAPF several
    times per Runner, reads all metafiles of a toolkit for each `mmdet::` base, and sleeps for two
    seconds before each new pass over the training data."""
    no_sleep = SimpleNamespace(sleep=lambda seconds: None)
    with mock.patch.object(config, 'FormatCode', lambda text, **_: (text, False)), \
            mock.patch.object(config_utils, 'load', lru_cache(config_utils.load)), \
            mock.patch.object(loops, 'time', no_sleep):
        yield


@pytest.fixture(scope='module', autouse=True)
def _short_collections():
    """Exempts objects of imported modules from garbage collection, which mmengine runs for each
    data set."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeds():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope='session')
def narrow():
    """Arguments of a two-stage Swin, for ours and for the toolkits'; keywords override."""
    return lambda **changes: deepcopy(dict(NARROW, **changes))


@pytest.fixture(scope='session')
def randomise():
    """Fills a module with random weights: biases, bias tables and norms too, which a fresh model
    holds at 0 or 1, where a mistake would not show."""

    @torch.no_grad()
    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        for name, param in module.named_parameters():
            noise = torch.randn(param.shape, generator=generator, dtype=torch.float32)
            if param.dim() > 1 and 'table' not in name:
                noise *= param[0].numel()**-0.5
            elif 'norm' in name and name.endswith('weight'):
                noise = 1 + 0.3 * noise
            else:
                noise *= 0.5
            param.copy_(noise)
        return module

    return fill


@pytest.fixture(scope='session')
def make_swin(narrow, randomise):
    """A narrow SparseSwinTransformer in eval mode; equal seeds give equal weights."""

    def make(seed=0, **changes):
        return randomise(SparseSwinTransformer(**narrow(**changes)), seed).eval()

    return make


@pytest.fixture(scope='session')
def tiny_detector(narrow):
    """The mm config of a RetinaNet with a narrow sparse backbone, as a dict."""
    return dict(
        default_scope='mmdet',
        model=dict(
            type='RetinaNet',
            data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=8, **MEAN_STD),
            backbone=dict(type='SparseSwinTransformer', **narrow()),
            neck=dict(type='FPN', in_channels=[16, 32], out_channels=16, num_outs=2),
            bbox_head=dict(
                type='RetinaHead',
                num_classes=3,
                in_channels=16,
                feat_channels=16,
                stacked_convs=1,
                anchor_generator=dict(
                    type='AnchorGenerator', scales=[4], ratios=[1.], strides=[4, 8])),
            train_cfg=dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.4, min_pos_iou=0.),
                sampler=dict(type='PseudoSampler'),
                allowed_border=-1,
                pos_weight=-1),
            test_cfg=dict(
                nms_pre=100, score_thr=0., nms=dict(type='nms', iou_threshold=.9),
                max_per_img=30)),
        visualizer=dict(type='DetLocalVisualizer'),
        test_dataloader=dict(
            dataset=dict(
                type='CocoDataset',
                pipeline=PIPELINE_START + [dict(type='PackDetInputs')])))


@pytest.fixture(scope='session')
def tiny_segmentor(narrow):
    """The mm config of an FCN with a narrow sparse backbone, as a dict."""
    return dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', **MEAN_STD),
            backbone=dict(type='SparseSwinTransformer', **narrow()),
            decode_head=dict(
                type='FCNHead',
                in_channels=32,
                in_index=1,
                channels=8,
                num_convs=1,
                num_classes=19,
                norm_cfg=dict(type='BN')),
            train_cfg=dict(),
            test_cfg=dict(mode='whole')),
        test_pipeline=PIPELINE_START + [dict(type='PackSegInputs')])

"""Test-time augmentation: what mmengine's loader accepts, ours accepts."""
from helpers import refused
from mmengine.registry import DATASETS, init_default_scope
from trained import metrics_of

from sparsevit_mm.config.reading import load_config
from sparsevit_mm.config.tta import use_tta

TTA = '''
_base_ = ['{config}']
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(128, 64), keep_ratio=True)],
        [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0., 1.)],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
'''


def test_a_segmentor_is_tested_under_tta(tiny_seg, tmp_path):
    (tmp_path / 'tta.py').write_text(TTA.format(config=tiny_seg.config))
    plain = metrics_of(tmp_path / 'tta.py', tiny_seg.checkpoint)
    flipped = metrics_of(tmp_path / 'tta.py', tiny_seg.checkpoint, '--tta')
    assert set(plain) == set(flipped) and plain != flipped


def test_a_config_that_holds_the_tta_model_itself_is_tested(tiny_seg, tmp_path):
    (tmp_path / 'tta.py').write_text(TTA.format(config=tiny_seg.config) + '''
model = dict(_delete_=True, type='SegTTAModel', module={{_base_.model}})
test_dataloader = dict(dataset=dict(pipeline=tta_pipeline))
''')
    assert metrics_of(tmp_path / 'tta.py', tiny_seg.checkpoint, '--sparsity', .5)


def test_a_detector_flips_by_default(tiny):
    cfg = load_config(str(tiny.config))
    assert 'merges boxes' in refused('test', tiny.config, tiny.checkpoint, '--tta')
    cfg.model.roi_head.mask_head = None
    use_tta(cfg)
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module.type == 'MaskRCNN'
    init_default_scope('mmdet')
    packed = DATASETS.build(cfg.test_dataloader.dataset)[0]
    assert [sample.flip for sample in packed['data_samples']] == [True, False]


def test_a_config_without_tta_is_told(tiny_seg):
    assert 'the config has no tta_pipeline' in refused(
        'test', tiny_seg.config, tiny_seg.checkpoint, '--tta')


def test_a_checkpoint_that_does_not_fit_is_still_refused_under_tta(tiny, tiny_seg, tmp_path):
    (tmp_path / 'tta.py').write_text(TTA.format(config=tiny_seg.config))
    assert 'does not fit' in refused('test', tmp_path / 'tta.py', tiny.checkpoint, '--tta')

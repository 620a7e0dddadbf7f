"""Necks and encoder of BEVDet: sizes, and what they are made of."""
import pytest
import torch
from torch.nn import functional as F

from sparsevit_mm.models.bevdet.bev_resnet import BEVResNet
from sparsevit_mm.models.bevdet.necks import FPN_LSS


@pytest.mark.parametrize('fine, coarse', [((16, 44), (8, 22)), ((14, 39), (7, 20)),
                                          ((12, 33), (6, 17))])
def test_the_neck_gives_the_size_of_the_finer_level(fine, coarse):
    neck = FPN_LSS(12, 7).eval()
    assert neck([torch.randn(2, 4, *fine), torch.randn(2, 8, *coarse)]).shape == (2, 7, *fine)


def test_the_neck_enlarges_the_coarser_level_with_aligned_corners():
    neck, seen = FPN_LSS(3, 7).eval(), []
    neck.conv.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    fine, coarse = torch.randn(1, 1, 4, 6), torch.randn(1, 2, 2, 3)
    neck([fine, coarse])
    enlarged = F.interpolate(coarse, scale_factor=2, mode='bilinear', align_corners=True)
    torch.testing.assert_close(seen[0], torch.cat([fine, enlarged], 1))
    assert torch.equal(seen[0][..., -1, -1][:, 1:], coarse[..., -1, -1])


def test_bev_encoder_and_neck_give_the_size_of_the_map():
    maps = BEVResNet().eval()(torch.randn(1, 64, 32, 32))
    assert [m.shape[1:] for m in maps] == [(128, 16, 16), (256, 8, 8), (512, 4, 4)]
    neck = FPN_LSS(128 + 512, 256, levels=(0, 2), upsample=2).eval()
    assert neck(maps).shape == (1, 256, 32, 32)

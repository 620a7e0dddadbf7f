# The dense segmentor of `make demo-vit`: the heads of `make demo-seg` on a narrow plain ViT, whose
# feature maps all have stride 8.
_base_ = ['./upernet_swin-narrow_mini_cityscapes.py']

embed_dims = 64
model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        img_size=(128, 256),
        patch_size=8,
        embed_dims=embed_dims,
        num_layers=9,
        num_heads=4,
        out_indices=(2, 4, 6, 8),
        final_norm=True,
        norm_cfg=dict(type='LN', eps=1e-6)),
    decode_head=dict(in_channels=[embed_dims] * 4),
    auxiliary_head=dict(in_channels=embed_dims))

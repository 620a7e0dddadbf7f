# The dense model at 224x616: a baseline that reduces the resolution instead.
_base_ = ['./bevdet_sparsevit_nuscenes_dense.py']

image_size = (224, 616)
train_pipeline, test_pipeline = (
    [dict(step, size=image_size) if step['type'] == 'ImageAugmentation' else step
     for step in pipeline] for pipeline in (_base_.train_pipeline, _base_.test_pipeline))
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Adaptation at 288x792 from the dense model at 256x704: sparsity pays for the higher resolution.
_base_ = ['./bevdet_sparsevit_nuscenes.py']

image_size = (288, 792)
train_pipeline, test_pipeline = (
    [dict(step, size=image_size) if step['type'] == 'ImageAugmentation' else step
     for step in pipeline] for pipeline in (_base_.train_pipeline, _base_.test_pipeline))
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

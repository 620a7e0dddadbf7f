# Settings shared by the Evo-ViT classifiers. Leaf configs assign these hooks: tokens are selected
# in each layer until epoch 200 of 300 and in each stage afterwards, as published.
custom_imports = dict(
    imports=['sparsevit_mm', 'sparsevit_mm.models.classification'], allow_failed_imports=False)
evolution_hooks = [dict(type='TokenEvolutionHook')]

# What the classifiers of Evo-ViT share. Leaf configs set these hooks: patches are chosen in each
# layer until epoch 200 of 300, and in each stage after it, as published.
custom_imports = dict(
    imports=['sparsevit_mm', 'sparsevit_mm.models.classification'], allow_failed_imports=False)
evolution_hooks = [dict(type='TokenEvolutionHook')]

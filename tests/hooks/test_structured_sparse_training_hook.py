import re

import pytest
import torch
from mmengine.hooks import Hook
from sparse_toy import ADAMW, EMA, OPTIMIZERS, equal, masked_hook
from unit_toy import BACKBONES, HOOK, SWIN, VIT, check_laws, config, train

from sparsevit_mm import StructuredSparseTrainingHook
from sparsevit_mm.compat import is_hooked
from sparsevit_mm.config.building import build_runner
from sparsevit_mm.weights import drop_and_grow_units, drop_fraction

ALL_OPTIMIZERS = dict(OPTIMIZERS, coupled=dict(optimizer=dict(type='Adam', lr=.01,
                                                              weight_decay=.05)))


def log_of(runner, key):
    return runner.message_hub.get_scalar(f'train/{key}').data[0].tolist()


@pytest.mark.parametrize('optimizer', ALL_OPTIMIZERS)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_what_does_not_exist_is_out_after_every_step_and_counts_stay(tmp_path, optimizer, backbone):
    runner, steps = train(tmp_path, optim_wrapper=ALL_OPTIMIZERS[optimizer],
                          backbone=BACKBONES[backbone], custom_hooks=[EMA, HOOK])
    check_laws(runner, steps)
    counts = {name: (int(mask.sum()), len(mask)) for name, mask in steps[0]['masks'].items()}
    assert counts == (
        {f'backbone.layers.{i}.{kind}': count for i in range(2)
         for kind, count in (('heads', (2, 4)), ('neurons', (19, 32)))} if backbone == 'vit' else
        {f'backbone.stages.{i}.blocks.{j}.{kind}': count for i in range(2) for j in range(2)
         for kind, count in (('heads', (1, 2) if i == 0 else (2, 4)),
                             ('neurons', (9, 16) if i == 0 else (19, 32)))})


@pytest.mark.parametrize('backbone', BACKBONES)
def test_heads_and_neurons_change_and_what_comes_trains(tmp_path, backbone):
    """In the released code no neuron ever does."""
    runner, steps = train(tmp_path, backbone=BACKBONES[backbone], hook=dict(interval=3))
    groups = masked_hook(runner).groups
    for kind in ('heads', 'neurons'):
        came = 0
        for name, group in groups.items():
            if group.kind != kind:
                continue
            first, second = steps[1]['masks'][name], steps[2]['masks'][name]
            came += int((second & ~first).sum())
            columns = (second & ~first).repeat_interleave(group.layer.in_features // len(first))
            weights = [steps[i]['weights'][group.output.name][:, columns] for i in (2, 3)]
            assert not weights[0].any() and (weights[1].numel() == 0 or weights[1].all())
            index = group.inputs[0].index(second & ~first)
            inputs = [steps[i]['weights'][group.inputs[0].name][index] for i in (0, 2, 3, 4)]
            assert torch.equal(inputs[0], inputs[1])
            # With output weights of zero, weight decay alone moves inputs at first.
            assert not index.numel() or not torch.equal(inputs[2], inputs[3])
        assert came
    assert sum(log_of(runner, 'units_moved')) > 0


def test_an_update_is_the_rule_with_the_gradients_of_its_step(tmp_path):
    """Importance and gradients of their own making, from hooks on the layers."""
    class Keep(Hook):
        priority = 'VERY_LOW'  # its step is the outermost

        def before_train(self, runner):
            self.outputs, self.scores, self.after = {}, [], []
            hook = masked_hook(runner)
            for name, group in hook.groups.items():
                if group.kind == 'heads':
                    group.layer.register_full_backward_hook(self.backward(name, group.number))
                    group.layer.register_forward_hook(self.forward(name))
            inner = runner.optim_wrapper.step

            def step(**kwargs):
                grown = {}
                for name, group in hook.groups.items():
                    gradient = group.output.parameter.grad
                    grown[name] = gradient.abs().sum(0).reshape(group.number, -1).sum(1)
                    assert (grown[name] > 0).all()  # those that do not exist, too
                self.scores.append((dict(self.outputs), grown))
                inner(**kwargs)
            runner.optim_wrapper.step = step

        def forward(self, name):
            return lambda layer, args, out: self.outputs.update({name: args[0].detach()})

        def backward(self, name, number):
            def keep(layer, grad_input, grad_output):
                product = self.outputs[name] * grad_input[0]
                product = product.unflatten(-1, (number, -1)).sum((1, 3)).abs().mean(0)
                self.outputs[name] = product
            return keep

    keep = Keep()
    runner, steps = train(tmp_path, keep)
    for at in (1, 3, 5):
        for name, group in masked_hook(runner).groups.items():
            before, after = steps[at - 1]['masks'][name], steps[at]['masks'][name]
            importance, growth = keep.scores[at]
            if group.kind == 'heads':
                expected = drop_and_grow_units(importance[name], growth[name], before,
                                               drop_fraction(at + 1, 10))
                assert torch.equal(after, expected)
            assert torch.equal(after & ~before, after & ~before & ~(before & ~after))
            grown, stays_out = after & ~before, ~after & ~before
            if grown.any() and stays_out.any():
                assert growth[name][grown].min() >= growth[name][stays_out].max()


@pytest.mark.parametrize('backbone', BACKBONES)
def test_checkpointed_activations_make_no_difference(tmp_path, backbone):
    plain, recomputed = (train(tmp_path / str(with_cp), backbone=dict(
        BACKBONES[backbone], with_cp=with_cp, drop_rate=0., drop_path_rate=0.))
        for with_cp in (False, True))
    assert equal(plain[1][-1]['masks'], recomputed[1][-1]['masks'])
    check_laws(*recomputed)


def test_two_batches_accumulated_weigh_heads_as_one_of_both(tmp_path, monkeypatch):
    seen = []

    def spy(importance, growth, mask, fraction):
        seen.append(importance.clone())
        return drop_and_grow_units(importance, growth, mask, fraction)
    monkeypatch.setattr('sparsevit_mm.weights.unit_masking.drop_and_grow_units', spy)
    still = dict(VIT, drop_rate=0.)
    for i, (size, counts) in enumerate(((4, 1), (2, 2))):
        made = config(tmp_path / str(i), backbone=still, hook=dict(interval=counts), optim_wrapper=(
            dict(ADAMW, accumulative_counts=counts)), train_cfg=dict(
                by_epoch=False, max_iters=2 * counts, val_interval=9))
        made.train_dataloader.update(batch_size=size, sampler=dict(
            type='InfiniteSampler', shuffle=False))
        torch.manual_seed(0)
        runner = build_runner(made)
        torch.manual_seed(0)
        runner.train()
    first, second = seen[:4], seen[4:8]
    for one, other in zip(first, second):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_layers_have_no_hooks_between_updates(tmp_path):
    class Look(Hook):

        def __init__(self):
            self.hooked = []

        def before_val(self, runner):
            self.hooked.append(is_hooked(runner.model.backbone.layers))

    look = Look()
    runner, _ = train(tmp_path, look)
    assert look.hooked and not any(look.hooked)
    assert not is_hooked(runner.model.backbone.layers)
    assert 'step' not in vars(runner.optim_wrapper)


def test_what_is_logged(tmp_path):
    runner, steps = train(tmp_path)
    assert log_of(runner, 'heads') == [.5] * 4
    assert log_of(runner, 'neurons') == [19 / 32] * 4
    moved = [sum(int((after['masks'][name] & ~before['masks'][name]).sum())
                 for name in after['masks']) for before, after in zip(steps, steps[1:])]
    assert log_of(runner, 'units_moved') == [0] + [count for count in moved if count]
    assert 0 < log_of(runner, 'mask_new')[-1] < 1


def test_blocks_that_patterns_name_in_a_model_without_a_sparse_backbone(tmp_path):
    runner, steps = train(tmp_path, backbone=dict(type='PlainBlocks'),
                          hook=dict(blocks=r'backbone\.blocks\.\d'))
    assert list(steps[0]['masks']) == [f'backbone.blocks.{i}.{kind}' for i in range(2)
                                       for kind in ('heads', 'neurons')]
    check_laws(runner, steps)
    assert not equal(steps[0]['masks'], steps[-1]['masks'])


def test_a_part_of_the_blocks_and_frozen_ones(tmp_path, capfd):
    runner, steps = train(tmp_path / 'part', hook=dict(blocks=['backbone.layers.1']))
    assert list(steps[0]['masks']) == ['backbone.layers.1.heads', 'backbone.layers.1.neurons']
    check_laws(runner, steps)
    runner, steps = train(tmp_path / 'frozen', backbone=dict(SWIN, frozen_stages=1),
                          log_level='INFO')
    assert all('stages.1' in name for name in steps[0]['masks'])
    assert 'stay as they are: backbone.stages.0.blocks.0.heads' in ''.join(capfd.readouterr())


def test_dense_parts_never_move(tmp_path):
    runner, steps = train(tmp_path, hook=dict(head_density=1, interval=1))
    assert all(mask.all() for name, mask in steps[-1]['masks'].items() if 'heads' in name)
    assert any(not torch.equal(steps[0]['masks'][name], mask)
               for name, mask in steps[-1]['masks'].items() if 'neurons' in name)


def test_an_update_whose_importance_is_not_finite_is_left_out_with_a_warning(tmp_path, capfd):
    _, steps = train(tmp_path, model=dict(nan_at=4))
    assert not equal(steps[0]['masks'], steps[1]['masks'])
    assert equal(steps[1]['masks'], steps[-1]['masks'])
    assert re.search(r'iteration 4: masks stay as they are, since importance, gradients or weights '
                     r'of \d groups of heads or neurons are not finite, backbone.layers.0.heads '
                     r'first', ''.join(capfd.readouterr()))


def test_importance_that_is_not_finite_while_gradients_are_loses_nothing(tmp_path, capfd,
                                                                         monkeypatch):
    monkeypatch.setattr('sparsevit_mm.hooks.head_watch.head_importance',
                        lambda outputs, gradients: torch.full((4, ), float('nan')))
    runner, steps = train(tmp_path)
    assert equal(steps[0]['masks'], steps[-1]['masks'])
    check_laws(runner, steps)
    assert ''.join(capfd.readouterr()).count('masks stay as they are') == 3


@pytest.mark.parametrize('arguments, message', [
    (dict(head_density=0), 'head_density is 0: '),
    (dict(neuron_density=1.2), 'neuron_density is 1.2'),
    (dict(neuron_density=float('nan')), 'neuron_density is nan'),
    (dict(interval=0), 'interval is 0'), (dict(end=2), 'end is 2'),
    (dict(drop_fraction=2.), 'drop_fraction falls from 2.0'),
    (dict(blocks='(a'), r"blocks: '\(a' .* regular expression")])
def test_unusable_arguments_are_refused_when_the_hook_is_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        StructuredSparseTrainingHook(**{**dict(head_density=.5, neuron_density=.5, interval=2),
                                        **arguments})


LEVIT = dict(type='EvoLeViT', arch=dict(embed_dims=(16, 32), num_heads=(1, 2), depths=(1, 1),
                                        key_dims=16), img_size=64)


@pytest.mark.parametrize('changes, message', [
    (dict(backbone=dict(type='PlainBlocks')),
     'UnitToy holds 0 sparse backbones, .*backbone: PlainBlocks.* `blocks`'),
    (dict(hook=dict(blocks='layers')), "'layers' .* no module of UnitToy"),
    (dict(hook=dict(blocks='head')), r'head \(Linear\) holds 0 attentions'),
    (dict(hook=dict(blocks='backbone.layers')), r'layers \(ModuleList\) holds 2 attentions'),
    (dict(hook=dict(blocks=r'backbone.layers.\d.ffn')), r'ffn \(FFN\) holds 0 attentions'),
    (dict(backbone=dict(VIT, num_fcs=3)), 'FFN with 3 layers'),
    (dict(hook=dict(interval=8)), 'interval is 8: no update would take place'),
    (dict(backbone=dict(VIT, frozen_exclude=['nothing'])), 'all 4 groups .* are frozen'),
    (dict(custom_hooks=[HOOK, dict(type='SparseTrainingHook', density=.5, interval=2)]),
     'SparseTrainingHook in one training')])
def test_what_does_not_fit_is_refused_before_the_first_iteration(tmp_path, changes, message):
    runner = build_runner(config(tmp_path, **changes))
    started = []
    runner.model.register_forward_pre_hook(lambda *_: started.append(1))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert not started


def test_backbones_without_heads_to_take_out_and_attention_of_torch_are_refused():
    from mmengine.registry import MODELS

    from sparsevit_mm.weights import unit_groups
    with pytest.raises(ValueError, match='EvoLeViT has no blocks whose heads and neurons can be'):
        unit_groups(MODELS.build(LEVIT))
    block = torch.nn.TransformerEncoderLayer(8, 2)
    block.fc1, block.fc2 = block.linear1, block.linear2
    with pytest.raises(ValueError, match='0.self_attn: torch.s MultiheadAttention does not call'):
        unit_groups(torch.nn.Sequential(block), '0')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='AmpOptimWrapper needs a GPU')
def test_automatic_mixed_precision(tmp_path):
    runner, steps = train(tmp_path, optim_wrapper=dict(ADAMW, type='AmpOptimWrapper'))
    check_laws(runner, steps)
    assert not equal(steps[0]['masks'], steps[-1]['masks'])

"""Figures of the masks that sparse training left."""
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import refused, run_tool

sys.path.append(str(Path(__file__).parents[1] / 'hooks'))
import sparse_toy  # noqa: E402
import unit_toy  # noqa: E402

from sparsevit_mm.visualization.masks import (UNITS, WEIGHTS, find_log, read_history,  # noqa: E402
                                              read_masks, shares)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    runner, _ = sparse_toy.train(folder)
    return folder / 'iter_10.pth', sparse_toy.masked_hook(runner).masks


@pytest.fixture(scope='module')
def units(tmp_path_factory):
    folder = tmp_path_factory.mktemp('units')
    runner, _ = unit_toy.train(folder)
    return folder / 'iter_10.pth', sparse_toy.masked_hook(runner).masks


@pytest.mark.parametrize('fixture, kind', [('weights', WEIGHTS), ('units', UNITS)])
def test_masks_and_their_history_are_those_of_the_training(fixture, kind, request):
    checkpoint, trained = request.getfixturevalue(fixture)
    masks = read_masks(str(checkpoint))
    assert masks.kind == kind and list(masks.now) == list(trained.masks)
    assert all(torch.equal(masks.now[name], mask) for name, mask in trained.masks.items())
    new = sum(shares(masks.now[name], masks.start[name])[1] * mask.numel()
              for name, mask in trained.masks.items())
    exist = sum(int(mask.sum()) for mask in trained.masks.values())
    history = read_history(find_log(checkpoint), kind)
    assert history.new[-1] == pytest.approx(new / exist, abs=1e-4) and new > 0
    assert history.iters == sorted(history.iters) and max(history.moved) > 0


@pytest.mark.parametrize('fixture', ['weights', 'units'])
def test_a_figure_is_drawn(fixture, request, tmp_path):
    checkpoint, _ = request.getfixturevalue(fixture)
    done = run_tool('visualize_masks', checkpoint, '-o', tmp_path / 'masks.png')
    assert done.code == 0, done.error
    assert 'of them new since the start; moves from' in done.output
    assert (tmp_path / 'masks.png').read_bytes().startswith(b'\x89PNG')


def test_what_is_no_sparse_training_is_named(weights, units, tmp_path):
    plain = tmp_path / 'plain.pth'
    torch.save(dict(state_dict={}), plain)
    assert f'{plain} holds no masks' in refused('visualize_masks', plain)
    other = tmp_path / 'scalars.json'
    other.write_text(json.dumps(dict(loss=1., iter=1)) + '\n')
    assert 'logs no weights_moved' in refused('visualize_masks', weights[0], '--log', other)
    assert 'none.json' in refused('visualize_masks', units[0], '--log', tmp_path / 'none.json')

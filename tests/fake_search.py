"""A work directory as a search leaves it, without a model: all figures in closed form."""
import json
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
from helpers import drawn
from optuna.trial import TrialState, create_trial

from sparsevit_mm.search.candidates import (DUPLICATE, EVALUATED, FAILED, OUTSIDE, SCREENED,
                                            Candidate)
from sparsevit_mm.search.limits import Limits
from sparsevit_mm.search.propose.sampler import search_space, to_params
from sparsevit_mm.search.record import SCHEMA, StudyRecord, attributes
from sparsevit_mm.search.store.storage import open_storage
from sparsevit_mm.search.summary import WINNER, Finalist, Reference
from sparsevit_mm.sparsity import SparsityConfig, SparsitySpace

SPACE = SparsitySpace((2, 2, 6, 2))
METRIC = 'coco/bbox_mAP'
DENSE = SparsityConfig(0, SPACE.depths)
WORKERS = 'left-4711-0a1b2c', 'right-815-3d4e5f'
START = datetime(2024, 5, 4, 12)


def metric_of(config: SparsityConfig) -> float:
    """Stage 0 matters most, then stage 2; stage 1 not at all."""
    return .4 - sum(weight * np.mean([max(0, r - .1)**2 for r in stage])
                    for weight, stage in zip((.45, 0, .2, .05), config.ratios))


def latency_of(config: SparsityConfig) -> float:
    """Milliseconds; 34 for dense."""
    return 6 + sum(ms * (1 - np.mean(stage)) for ms, stage in zip((7, 6, 12, 3), config.ratios))


class FakeSearch:
    """Makes candidates and puts them into a study.

    Args:
        folder: The work directory.
        storage: URL; a journal in the folder unless told.
        study: Its name.
        pareto: Two objectives.
        evaluated: So many candidates with a metric.
        first_look, resampled, references, finals: What the search had.
        metric: Key of the objective.
    """

    def __init__(self, folder: Path, storage=None, study='sparsevit', pareto=False, evaluated=60,
                 first_look=True, resampled=True, references=True, finals=True, metric=METRIC):
        self.rng, self.metric = np.random.default_rng(0), metric
        self.first_look, self.resampled, self.pareto = first_look, resampled, pareto
        # What is hard about the images of a resample is so for every candidate.
        self.shift = self.rng.normal(0, .012, 100)
        self.limits = Limits() if pareto else Limits(max_latency=.75, min_latency=.5, of_dense=True)
        storage = storage or f'journal:{folder}/search.journal'
        self.study = optuna.create_study(
            storage=open_storage(storage), study_name=study,
            directions=['maximize', 'minimize'] if pareto else ['maximize'])
        self.study.set_user_attr('schema', SCHEMA)
        self.study.set_user_attr('reach', [34., 11.6])
        self.study.set_user_attr('identity', dict(
            checkpoint='0123456789abcdef', depths=SPACE.depths, choices=SPACE.choices,
            metric=metric, num_samples=200, first_look=50 if first_look else None, seed=3,
            **{'evaluated in': 'fp32',
               'latency setting': 'batch 1 of 800x1333, fp32, A processor of some kind at 2.5 GHz, '
                                  '2 threads, eager, torch 2.13.0'}, **self.limits.identity()))
        self.dense = self.judge(-1, DENSE)
        self.study.set_user_attr('dense', self.dense.to_json())
        self.search(evaluated)
        if finals:
            self.finals()
        if references:
            self.references()
        (folder / 'search.json').write_text(json.dumps(dict(
            storage=storage, study=study, config=f'{folder}/no_config.py',
            checkpoint=f'{folder}/no_checkpoint.pth', winners=dict(winner='winner.py'),
            table=None)))

    def judge(self, trial: int, config: SparsityConfig) -> Candidate:
        noise = self.rng.normal(0, .002)
        latency = latency_of(config) * (1 + self.rng.normal(0, .008)) if trial >= 0 else 34.
        metric = round(metric_of(config) + noise, 3)
        candidate = Candidate(trial, config, EVALUATED, macs=round(8.9e10 * latency / 34),
                              latency=latency, metric=metric, seconds=61 + 3 * latency,
                              metrics={self.metric: metric, 'coco/bbox_mAP_50': metric + .2})
        if self.first_look:
            candidate.first_look = metric + self.rng.normal(0, .015)
        if self.resampled:
            own = self.rng.normal(0, .005, len(self.shift))
            candidate.resampled = drawn(self.shift + own, metric).to_json()
        return candidate

    def search(self, evaluated: int) -> None:
        limits, count, self.candidates = self.limits.resolve(34.), 0, []
        states = {EVALUATED: TrialState.COMPLETE, FAILED: TrialState.FAIL}
        ends = dict.fromkeys(WORKERS, START)
        while count < evaluated:
            number = len(self.candidates)
            c = self.judge(number, SPACE.sample(self.rng))
            worker = WORKERS[self.rng.integers(2)]
            if not limits.admit(c.latency):
                c.state, c.seconds = OUTSIDE, 2.
            elif number % 17 == 16:
                c.state, c.seconds = (DUPLICATE, FAILED)[number % 2], 0.
            elif self.first_look and c.first_look < .33:
                c.state, c.seconds = SCREENED, 20.
            else:
                count += 1
            if c.state != EVALUATED:
                c.metric = c.metrics = c.resampled = None
            values = dict(values=[c.metric] + [c.latency] * self.pareto)
            trial = create_trial(
                state=states.get(c.state, TrialState.PRUNED), params=to_params(SPACE, c.config),
                distributions=search_space(SPACE),
                user_attrs=attributes(c, worker),
                **values if c.state == EVALUATED else {})
            trial.datetime_start = ends[worker]
            ends[worker] += timedelta(seconds=c.seconds)
            trial.datetime_complete = ends[worker]
            self.study.add_trial(trial)
            self.candidates.append(c)

    def finals(self) -> None:
        ranked = sorted((c for c in self.candidates if c.state == EVALUATED),
                        key=lambda c: -c.metric)
        again = {c.trial: dict(ratio=c.latency * (1 + self.rng.normal(.003, .006)) / 34,
                               full=dict(metrics={self.metric: round(c.metric - .006, 3)},
                                         resampled=c.resampled)) for c in ranked[:4]}
        chosen = [Finalist(c, 0., name='' if i else WINNER) for i, c in enumerate(ranked[:3])]
        if self.pareto:
            points = [.9 * 34, .8 * 34, .6 * 34]
            best = [next(c for c in ranked if c.latency < .99 * point) for point in points]
            again = {c.trial: dict(ratio=c.latency * 1.002 / 34) for c in best}
            chosen = [Finalist(c, 0., point=p, name=f'{p:.1f}ms') for c, p in zip(best, points)]
        self.study.set_user_attr('judged again', again)
        if not self.pareto:
            self.study.set_user_attr('dense full', dict(
                metrics={self.metric: round(self.dense.metric - .004, 3)},
                resampled=self.dense.resampled))
        StudyRecord(self.study).keep_finalists('the end', chosen)

    def references(self) -> None:
        points = [Reference('uniform', f'{r:g}', *self.figures(r)) for r in (.2, .4, .6, .8)]
        for stage in range(4):
            for r in (.4, .8):
                config = [r * (i == stage) for i in range(4)]
                points.append(Reference('stage', f'stage {stage} at {r:g}', *self.figures(config),
                                        stage, r))
        points += [Reference('resolution', '704x1184', 27.1, .374),
                   Reference('resolution', '608x1024', 20.3, .341)]
        self.study.set_user_attr('references', {r.name: asdict(r) for r in points})

    def figures(self, sparsity):
        candidate = self.judge(0, SparsityConfig(sparsity, SPACE.depths))
        return candidate.latency, candidate.metric

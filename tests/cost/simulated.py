"""A machine on which latency is known: what tables of latency are tested with."""
from itertools import count

from helpers import backbone

from sparsevit_mm.cost import runs
from sparsevit_mm.cost.latency import LatencyMeter, LatencySetting
from sparsevit_mm.cost.table import LatencyTable
from sparsevit_mm.sparsity import SparsitySpace, kept_windows

SHAPE = (40, 48)  # 10 x 12 and 5 x 6 windows of 2 x 2 tokens
SETTING = LatencySetting(SHAPE, num_threads=1)
TOTALS = [120, 30]
MODEL = dict(depths=(2, 4))
SPACE = SparsitySpace((2, 4))


def additive(config):
    """Milliseconds: dense 400; in stage 1 nothing is gained between 20 and 25 windows."""
    latency = 400.
    for s, ratios in enumerate(config.ratios):
        kept = [kept_windows(TOTALS[s], r) if r else TOTALS[s] for r in ratios]
        latency += [3., 7.][s] * (min(kept) < TOTALS[s])
        for k in kept:
            if s == 0:
                latency -= 100 * (1 - k / 120)
            else:
                latency -= 1.2 * (30 - max(k, 25) + max(20 - k, 0))
    return latency


class Machine:
    """Replaces forward passes: run number n at t seconds takes ``slowness(n, t)`` times what
    ``latency`` says."""
    model = backbone(**MODEL)

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def __call__(self, slowness=lambda n, t: 1., budget=60., latency=additive, **arguments):
        now, number = [0.], count()

        def run(meter, config):
            time = latency(config) * slowness(next(number), now[0])
            now[0] += time / 1e3
            return time

        self.monkeypatch.setattr(LatencyMeter, '_run', run)
        self.monkeypatch.setattr(runs, 'clock', lambda: now[0])
        return LatencyTable.measure(self.model, SETTING, budget, **arguments)

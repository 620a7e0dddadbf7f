"""A clock for tests."""


class Time:
    """A monotonic clock that tests set; sleeping takes no time but on it."""

    def __init__(self, now=0.):
        self.now = now

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

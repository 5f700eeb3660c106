"""A reporter that keeps what it is given."""

from featx.reporting import Reporter


class Recorder(Reporter):
    """Keep phases, counts and lines; call a function at each step, if there is one."""

    def __init__(self, at_each_step=None):
        self.phases, self.counts, self.lines = [], [], []
        self._at_each_step = at_each_step

    def begin(self, phase):
        self.phases.append(phase)

    def advance(self, done, total):
        self.counts.append((done, total))
        if self._at_each_step is not None:
            self._at_each_step(done, total)

    def say(self, line):
        self.lines.append(line)

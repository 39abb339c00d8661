"""What a sweep says while it runs, read from the run directories: it works with every launcher."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fglight.runs.folder import FAILURE, State, failure, modified, read_result, state
from fglight.sweeps.jobs import Job
from fglight.text import measured


class Progress:
    """Prints a line for every run that ends.

    Args:
        pending: the directories of the runs to be done.
        finished: how many runs of the sweep were finished before.

    Attributes:
        errors: of the runs that failed.
    """

    def __init__(self, pending: Mapping[Job, Path], finished: int) -> None:
        self.pending = dict(pending)
        self.done = finished
        self.errors: dict[Job, str] = {}
        self.total = finished + len(pending)
        self._ended_here = 0
        self._start = time.monotonic()
        self._old_failures = {job: modified(folder / FAILURE) for job, folder in pending.items()}

    def look(self) -> None:
        """Print a line for every run that ended since the last look."""
        for job, folder in list(self.pending.items()):
            result = read_result(folder)
            if result is not None:
                self.done += 1
                metric = result["metric"]
                self._say(job, f"{measured(metric, result[f'test_{metric}'])} in {duration(result['time_s'])}")
            elif modified(folder / FAILURE) != self._old_failures[job]:
                self.errors[job] = failure(folder)
                self._say(job, f"failed: {first_line(self.errors[job])}")

    @contextmanager
    def watching(self, seconds: float = 1.0) -> Iterator[None]:
        """Look again and again while runs go on in other processes."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(seconds):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.look()

    def _say(self, job: Job, what: str) -> None:
        del self.pending[job]
        self._ended_here += 1
        running = sum(state(folder) is State.RUNNING for folder in self.pending.values())
        waiting = len(self.pending) - running
        left = (time.monotonic() - self._start) / self._ended_here * len(self.pending)
        failed = f", {len(self.errors)} failed" if self.errors else ""
        time_left = f", about {duration(left)} to go" if self.pending else ""
        counts = f"{self.done} of {self.total} done{failed}, {running} running, {waiting} left{time_left}"
        print(f"[{counts}] {job.name} seed {job.seed}: {what}", flush=True)


def first_line(text: str) -> str:
    """The first line of an error."""
    return next(iter(text.strip().splitlines()), "no error was recorded")


def duration(seconds: float) -> str:
    """A time in words: ``8 s``, ``5 min``, ``3 h 20 min``, ``2 d 4 h``, ``3.2 years``, ``5,400 years``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    if days < 365:
        return f"{days} d {hours} h"
    years = days / 365.25
    return f"{years:.1f} years" if years < 10 else f"{years:,.0f} years"

"""Lines that tell how far a run of a comparison is."""

from __future__ import annotations

import time

# no line sooner than this after the last one, in seconds, so that short runs print one line each
_EVERY = 5.0


class ProgressLines:
    """
    Print a line for each tenth of a training, with its speed and the time that is left.

    :param name: The name of the run
    :param timesteps: The environment steps at the beginning, more than 0 for a run that resumes
    :param total: The environment steps at the end
    """

    def __init__(self, name: str, timesteps: int, total: int) -> None:
        self._name, self._first, self._total = name, timesteps, total
        self._tenth = self._tenth_at(timesteps)
        self._started = self._shown = time.monotonic()
        if timesteps < total:
            print(f"{name}: {'resumes' if timesteps else 'starts'} at step {timesteps:,} of {total:,}", flush=True)

    def show(self, timesteps: int) -> None:
        """
        Print a line if a tenth is complete.

        :param timesteps: The environment steps so far
        """
        now = time.monotonic()
        if self._tenth_at(timesteps) == self._tenth or now - self._shown < _EVERY:
            return
        self._tenth, self._shown = self._tenth_at(timesteps), now
        speed = (timesteps - self._first) / (now - self._started)
        left = max(self._total - timesteps, 0) / speed
        print(
            f"{self._name}: {timesteps / self._total:.0%} of {self._total:,} steps, {speed:,.0f} steps per second, "
            f"about {_duration(left)} left",
            flush=True,
        )

    def _tenth_at(self, timesteps: int) -> int:
        return 10 * timesteps // self._total


def _duration(seconds: float) -> str:
    """Round up to seconds, minutes or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"

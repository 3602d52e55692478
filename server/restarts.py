"""How often, and after which pause, a process that died is started again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from anharm.server.processes import ManagedProcess


@dataclass
class RestartPolicy:
    """A process may die some times in a while; pauses grow with every death.

    Attributes
    ----------
    limit : int
        Restarts within `period`.
    period : float
        s; a death longer ago is forgotten.
    first_pause : float
        s; doubled with every death that is not forgotten.
    """

    limit: int = 3
    period: float = 600.0
    first_pause: float = 0.5
    _deaths: list[float] = field(default_factory=list)

    def pause_after_death(self, now: float) -> float | None:
        """Count a death and return the seconds until the restart; None if it was the last.

        Parameters
        ----------
        now : float
            s, of a clock that only runs forward.
        """
        self._deaths = [time for time in self._deaths if now - time < self.period]
        self._deaths.append(now)
        if len(self._deaths) > self.limit:
            return None
        return float(self.first_pause * 2 ** (len(self._deaths) - 1))

    @property
    def deaths(self) -> int:
        """Deaths that are not forgotten."""
        return len(self._deaths)


class Restarts:
    """Starts processes again that have died, each by a policy of its own.

    Parameters
    ----------
    tell : callable
        Called with a sentence for the user at each restart.
    limits : mapping, optional
        Restarts that are allowed, where not three, by the beginning of a process's name.
    """

    def __init__(
        self, tell: Callable[[str], None], limits: Mapping[str, int] | None = None
    ) -> None:
        self._tell = tell
        self._limits = dict(limits or {})
        self._policies: dict[str, RestartPolicy] = {}
        self._due: dict[str, float] = {}
        self._given_up: set[str] = set()

    def revive(
        self, child: ManagedProcess, start: Callable[[], ManagedProcess]
    ) -> ManagedProcess | None:
        """Take care of a process that has ended; call it again until it runs.

        Returns
        -------
        ManagedProcess or None
            The same while its pause lasts, then a new one; None if it died too often.
        """
        name, now = child.name, time.monotonic()
        if name in self._given_up:
            return None
        if name not in self._due:
            policy = self._policies.setdefault(name, RestartPolicy(self._limit_of(name)))
            pause = policy.pause_after_death(now)
            if pause is None:
                self._given_up.add(name)
                return None
            self._tell(
                f"{name} {child.how_it_ended}; it is started again in {pause:g} s (restart "
                f"{policy.deaths} of {policy.limit} within {policy.period / 60:.0f} minutes)"
            )
            self._due[name] = now + pause
        if now < self._due[name]:
            return child
        del self._due[name]
        return start()

    def is_given_up(self, child: ManagedProcess) -> bool:
        """Whether a process died too often."""
        return child.name in self._given_up

    def _limit_of(self, name: str) -> int:
        limits = [limit for start, limit in self._limits.items() if name.startswith(start)]
        return limits[0] if limits else RestartPolicy.limit

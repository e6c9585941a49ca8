"""When a training looks at itself: the steps after which it is evaluated."""

from __future__ import annotations

EVALUATIONS = 10  # in all, where the configuration does not say
APART = 5  # steps at least from one of those to the next: a short training is not spent on looking


class Looks:
    """Every so many steps; by default ten times in all, as the budget is spent, but not after every step of a few."""

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._last = (0, 0.0)  # step and spent budget at the last look

    def due(self, step: int, spent: float) -> bool:
        """Whether to look after this step; at the end always."""
        if spent < 1 and not self._reached(step, spent):
            return False
        self._last = step, spent
        return True

    def state_dict(self) -> dict[str, float]:
        """The last look."""
        step, spent = self._last
        return {"step": step, "spent": spent}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from `state_dict`."""
        self._last = int(state["step"]), state["spent"]

    def _reached(self, step: int, spent: float) -> bool:
        if self._every is not None:
            return step % self._every == 0
        before, share = self._last
        return step - before >= APART and int(spent * EVALUATIONS) > int(share * EVALUATIONS)

"""Which runs have cost their workers, and when to give one up."""

from windtunnel.tunnel.fleet.tasks import Task

# Workers that a run may cost in one place. A machine that is lost is no fault of a run, and a run
# that gets from checkpoint to checkpoint may lose many.
_MOST = 3


class Losses:
    """Of workers, by the task that they had."""

    def __init__(self) -> None:
        self._noted = set[Task]()
        self._at: dict[Task, tuple[int, int]] = {}  # the last checkpoint, and losses since

    def note(self, task: Task) -> None:
        """It was among the tasks of a worker that was lost."""
        self._noted.add(task)

    def has(self, task: Task) -> bool:
        """Whether it was among the tasks of a worker that was lost."""
        return task in self._noted

    def count(self, task: Task, reason: str) -> str | None:
        """The worker that had this task alone was lost. Why to give the task up, if it is time."""
        reached, times = self._at.get(task, (task.saved, 0))
        times = times + 1 if reached == task.saved else 1
        self._at[task] = task.saved, times
        if times < _MOST:
            return None
        return (
            f"{times} workers were lost with it at {task.saved} tokens, the last time: {reason} "
            "(is there enough memory?)"
        )

"""The workers: an existing cluster, or one started on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import ray

from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import AiovecError

_T = TypeVar("_T")

# The size in bytes of the shared memory for workers started here. Results are small, and rows never
# pass through it. It has room for the hashes of 32 million new ids; if there are more ids, Ray
# writes hashes to disk.
_OBJECT_STORE = 256 * 2**20
# Seconds between checks of the tasks; a cancelled call ends at the next check.
_LOOK = 0.5
# Retries of a task whose worker or machine dies. A task that raises an error is not retried: the
# load fails, and the user repeats the command.
_RETRIES = 3


class Cluster:
    """The connection to the workers. Every method blocks."""

    def __init__(self, address: str | None) -> None:
        self._started = not ray.is_initialized()
        if self._started:
            # Linux kills the processes that Ray starts as soon as the thread that started them
            # ends. The thread of this pool lives until ``close``.
            self._pool = ThreadPoolExecutor(1, "aiovec-ray")
            options: dict[str, Any] = {"address": address}
            if address is None:
                options = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
            options |= {"log_to_driver": False, "logging_level": "error"}
            try:
                self._pool.submit(ray.init, **options).result()
            except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
                where = "on this machine" if address is None else f"at {address}"
                raise AiovecError(f"no Ray cluster can be used {where}: {exc}") from exc

    @property
    def workers(self) -> int:
        """The number of processor cores in the cluster; each task uses one core."""
        return max(1, int(ray.cluster_resources().get("CPU", os.cpu_count() or 1)))

    def close(self) -> None:
        if self._started:
            ray.shutdown()
            self._pool.shutdown()


async def each(
    work: Callable[..., _T], calls: Sequence[tuple[Any, ...]], done: Callable[[_T], None]
) -> list[_T]:
    """Run the calls on the workers, and return the results. An error cancels the remaining calls.

    ``done`` is called with each result as it arrives.
    """
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
    refs = await in_thread(lambda: [task.remote(*arguments) for arguments in calls])
    results: dict[Any, _T] = {}
    waiting = list(refs)
    try:
        while waiting:
            ready, waiting = await in_thread(_wait, waiting)
            for ref in ready:
                results[ref] = await in_thread(_result, ref)
                done(results[ref])
    finally:
        if waiting:
            await to_its_end(in_thread(_cancel, waiting))
    return [results[ref] for ref in refs]


def shared(value: object) -> Any:
    """Return a reference to an argument of many calls, so that the argument is sent only once."""
    return ray.put(value)


def _wait(refs: list[Any]) -> tuple[list[Any], list[Any]]:
    ready, waiting = ray.wait(refs, timeout=_LOOK)
    return ready, waiting


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as exc:
        cause = getattr(exc, "cause", exc)  # the error that the worker raised
        if isinstance(cause, Exception) and not isinstance(cause, ray.exceptions.RayError):
            raise cause from exc
        raise AiovecError(f"a worker of Ray could not run a task: {cause}") from exc


def _cancel(refs: list[Any]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for ref in refs:
        ray.cancel(ref, force=True)
    ray.wait(refs, num_returns=len(refs), timeout=30)

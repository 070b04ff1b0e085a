"""Who evaluates the points: this process, processes of this machine, or a Dask cluster.

A runner takes numbered tasks and yields numbered outcomes in the order in which they are finished;
the sweep puts them in the order of the points. A worker that dies loses the batch it was at, which
is done again. Closing the generator ends the work. Excluded: what is evaluated (`points`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from pkgutil import resolve_name
from typing import Any

from penstock import __version__
from penstock.errors import ToolError
from penstock.sweep.points import Outcome, Task, evaluate

__all__ = ["Runner", "on_cluster", "on_processes", "serially"]

Numbered = tuple[int, Task]
Done = tuple[int, Outcome]
Runner = Callable[[Sequence[Numbered]], Generator[Done, None, None]]

BATCH = 8
"""Points handed out together at most, so that cheap points are not all message."""

RETRIES = 3
"""Times in a row that workers may die without finishing anything (on Dask, with one batch)."""


def serially(tasks: Sequence[Numbered]) -> Generator[Done, None, None]:
    """Evaluate one point after the other in this process."""
    for number, task in tasks:
        yield number, evaluate(task)


def on_processes(jobs: int) -> Runner:
    """Return the runner that uses so many processes of this machine (spawned, not forked).

    A script that uses it needs the usual ``if __name__ == "__main__":``.
    """

    def run(tasks: Sequence[Numbered]) -> Generator[Done, None, None]:
        left = dict(enumerate(_batches(tasks, jobs)))
        losses = 0
        while left:
            before = len(left)
            try:
                with closing(_on_pool(dict(left), min(jobs, before))) as finished:
                    for number, done in finished:
                        del left[number]
                        yield from done
            except BrokenProcessPool:
                losses = losses + 1 if len(left) == before else 0
                if losses > RETRIES:
                    raise _lost(f"{losses} times in a row") from None

    return run


def _on_pool(
    left: dict[int, list[Numbered]], jobs: int
) -> Generator[tuple[int, list[Done]], None, None]:
    context = get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_with_parent)
    numbers: dict[Future[list[Done]], int] = {}
    try:
        with _interrupts_held():
            numbers |= {pool.submit(_evaluate_all, batch): n for n, batch in left.items()}
        for future in as_completed(numbers):
            yield numbers.pop(future), future.result()
    finally:
        workers = list((pool._processes or {}).values())  # terminate_workers() from 3.14 on
        pool.shutdown(wait=not numbers, cancel_futures=True)
        if numbers:
            for worker in workers:
                worker.terminate()


def _leave_with_parent() -> None:
    """End this worker when the process that started it is killed; it would wait for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for as long as processes start, which inherit that and so never get it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_cluster(address: str) -> Runner:
    """Return the runner that uses the Dask cluster with its scheduler at an address.

    Raises:
        ToolError: dask[distributed] is not installed.
    """
    try:
        from dask.distributed import Client
    except ImportError:
        raise ToolError(
            "a cluster needs dask[distributed], which is not installed",
            fix="pip install 'penstock[cluster]'",
        ) from None

    def run(tasks: Sequence[Numbered]) -> Generator[Done, None, None]:
        try:
            client = Client(address, timeout="20s", set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ToolError(
                f"no Dask scheduler answers at {address}: {reason}",
                fix="start one with 'dask scheduler', or correct --cluster tcp://host:port",
            ) from None
        with client:
            _check_cluster(client)
            yield from _on_client(client, _batches(tasks, sum(client.nthreads().values())))

    return run


def _check_cluster(client: Any) -> None:
    """Ask scheduler and workers for their penstock: without it they would fail one by one."""
    try:
        client.wait_for_workers(1, timeout=60)
    except TimeoutError:
        raise ToolError(
            "the cluster has no workers", fix="start some with 'dask worker tcp://host:port'"
        ) from None
    name = "penstock:__version__"
    found = client.run(resolve_name, name, on_error="return")
    try:
        found["the scheduler"] = client.run_on_scheduler(resolve_name, name)
    except ImportError as error:
        found["the scheduler"] = error
    for place, version in found.items():
        if version != __version__:
            raise ToolError(
                f"{place} of the cluster answers '{version}', not penstock {__version__}",
                fix="install the same penstock and dask on the scheduler and on every worker",
            )


def _on_client(client: Any, batches: list[list[Numbered]]) -> Generator[Done, None, None]:
    from dask.distributed import KilledWorker
    from dask.distributed import as_completed as as_finished

    futures = client.map(_evaluate_all, batches, pure=False, retries=RETRIES)
    try:
        for future in as_finished(futures, loop=client.loop):
            done = future.result()
            future.release()  # so that it is not computed again when its worker dies
            yield from done
    except KilledWorker as error:
        raise _lost(str(error).splitlines()[0]) from None
    finally:
        client.cancel([each for each in futures if not each.done()])


def _evaluate_all(batch: list[Numbered]) -> list[Done]:
    return [(number, evaluate(task)) for number, task in batch]


def _batches(tasks: Sequence[Numbered], workers: int) -> list[list[Numbered]]:
    size = max(1, min(BATCH, len(tasks) // (64 * workers)))
    return [list(tasks[start : start + size]) for start in range(0, len(tasks), size)]


def _lost(how: str) -> ToolError:
    return ToolError(
        f"workers die at the same points: {how}",
        fix="look at their memory; what is finished is in the journal, for --resume",
    )

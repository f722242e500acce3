"""A lock in the order of asking."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from m2cache_rs.runtime.line import Line

from tests.places import Places


def until(holds: Callable[[], bool]) -> None:
    """Waits for it; a minute is for ever."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_turns_are_had_in_the_order_of_asking() -> None:
    line, had = Line(), list[int]()
    places = Places(line)

    def ask(who: int) -> None:
        with line.turn():
            had.append(who)

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(6)]
    with line.turn():
        for count, thread in enumerate(threads):
            thread.start()
            until(lambda count=count: len(places.taken) == count + 2)  # type: ignore[misc]
    with line.turn():  # at once, and yet behind all that wait
        assert had == list(range(6))
    for thread in threads:
        thread.join()


def test_who_has_it_may_ask_again() -> None:
    line, had = Line(), list[str]()

    def ask() -> None:
        with line.turn():
            had.append("other")

    other = threading.Thread(target=ask)
    with line.turn():
        with line.turn(), line.turn():
            other.start()
        had.append("first")
    other.join()
    assert had == ["first", "other"]


def test_errors_give_it_back() -> None:
    line = Line()
    with pytest.raises(RuntimeError, match="in here"), line.turn():
        raise RuntimeError("in here")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_had, line).result(60)


def _had(line: Line) -> None:
    with line.turn():
        pass


def test_who_is_interrupted_in_line_lets_nobody_into_another_s_turn() -> None:
    """Ctrl-C to the main thread while it waits, with another behind it."""
    line, inside, had = Line(), threading.Event(), list[str]()
    places, leave = Places(line), threading.Event()

    def hold() -> None:
        with line.turn():
            inside.set()
            leave.wait(60)
            had.append("holder")

    def behind() -> None:
        until(lambda: len(places.taken) == 2)
        asking.start()
        until(lambda: len(places.taken) == 3)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def ask() -> None:
        with line.turn():
            had.append("behind")

    holder, asking = threading.Thread(target=hold), threading.Thread(target=ask)
    helper = threading.Thread(target=behind)
    with ExitStack() as ending:
        for thread in (holder, helper):
            thread.start()
            ending.callback(thread.join)
        ending.callback(leave.set)
        inside.wait(60)
        with pytest.raises(KeyboardInterrupt), line.turn():
            had.append("main")
        assert had == []
    asking.join()
    assert had == ["holder", "behind"]
    with line.turn():
        had.append("after")

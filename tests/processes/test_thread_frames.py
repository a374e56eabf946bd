"""The frames of other native threads are read without garbage collections, which could crash Python 3.11."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FrameType

import pytest
from gevent.monkey import get_original

from intralb_gevent.process.threadframes import ThreadFrames

start_thread = get_original("_thread", "start_new_thread")
new_lock = get_original("_thread", "allocate_lock")
LEVELS = 500


@pytest.fixture
def deep_thread() -> Iterator[int]:
    """The id of a native thread that waits inside `LEVELS` calls."""
    inside, leave = new_lock(), new_lock()
    inside.acquire()
    leave.acquire()

    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
        else:
            inside.release()
            leave.acquire()

    thread = start_thread(descend, (LEVELS,))
    inside.acquire()
    yield thread
    leave.release()


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """A list to which the collector adds an entry for each collection; each allocation may start one."""
    seen: list[str] = []

    def note(phase: str, _: object) -> None:
        seen.append(phase)

    earlier = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1)
    yield seen
    gc.set_threshold(*earlier)
    gc.callbacks.remove(note)


def outwards(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_no_collection_starts_while_frames_are_read(deep_thread, collections) -> None:
    with ThreadFrames() as frames:
        del collections[:]
        names = outwards(frames[deep_thread])
        seen = list(collections)
    assert names.count("descend") == LEVELS + 1
    assert seen == []


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_on_afterwards_if_it_was_on_before(collects) -> None:
    if not collects:
        gc.disable()
    try:
        with ThreadFrames():
            assert not gc.isenabled()
        assert gc.isenabled() is collects
    finally:
        gc.enable()

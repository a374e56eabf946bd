"""Adds up the parts of all processes of a site for the command `top`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..priority import PRIORITIES

__all__ = ["whole"]

_STALE_SECONDS: Final = 10.0
"""A part that is older than the frame by more than this is from an earlier viewer, and is ignored."""

_HIGHEST: Final = frozenset({"oldest", "expected_wait", "clients", "timeout"})
"""Values of a lane for which the site has the highest value of its processes; for other numbers, it has the sum."""


def whole(frame: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the frame of a process with the values of all processes; `parts` are those of the other processes."""
    every = [frame, *(part for part in parts if frame["time"] - part["time"] <= _STALE_SECONDS)]
    requests = [request for part in every for request in part["running"]]
    return {
        **frame,
        "processes": len(every),
        "row": [sum(values) for values in zip(*(part["row"] for part in every), strict=True)],
        "lanes": _lanes(lane for part in every for lane in part["lanes"]),
        "running": sorted(requests, key=lambda request: -request["age"]),
        "loop": {"busy": max(part["loop"]["busy"] for part in every)},
    }


def _lanes(lanes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add up the lanes that have the same name."""
    found: dict[str, dict[str, Any]] = {}
    for lane in lanes:
        name = lane["name"]
        found[name] = _added(found[name], lane) if name in found else dict(lane)
    return list(found.values())


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    added = {name: _together(name, one[name], value) for name, value in other.items() if name in one}
    overloaded = {name for name in (one["overloaded"], other["overloaded"]) if name in PRIORITIES}
    return {**one, **added, "overloaded": min(overloaded, key=PRIORITIES.__getitem__, default="")}


def _together(name: str, one: Any, other: Any) -> Any:
    if isinstance(one, (bool, str)):
        return one
    return max(one, other) if name in _HIGHEST else one + other

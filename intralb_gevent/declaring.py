"""How a setting is declared: one line in a class body holds its group, default, kind and help.

Decides what a declaration is and how the declared fields of an object are checked. It must not know any setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from .kinds import Kind

__all__ = ["Declaration", "check_fields", "declarations_in", "option"]


@dataclass(frozen=True)
class Declaration:
    """One setting as declared: its group, name, default, kind and help."""

    group: str
    name: str
    default: Any
    """`dataclasses.MISSING` where the setting must be given."""
    kind: Kind
    help: str

    def check(self, value: Any) -> Any:
        """Return the value to keep, or raise OptionError; a default of None allows None."""
        if value is None and self.default is None:
            return None
        return self.kind.check(self.name, value)


def option(group: str, default: Any, kind: Kind, help: str) -> Any:
    """Declare a field of a dataclass as a setting; a help may end in " Default: " and words for the default."""
    return field(default=default, metadata={"group": group, "kind": kind, "help": help})


def declarations_in(declaring: type) -> tuple[Declaration, ...]:
    """Return every setting that a class declares, in the order of declaration; fields of a subclass's own are none."""
    return tuple(
        Declaration(f.metadata["group"], f.name, f.default, f.metadata["kind"], f.metadata["help"])
        for f in fields(declaring)
        if "kind" in f.metadata
    )


def check_fields(instance: object) -> None:
    """Check every declared field of a frozen dataclass, and keep what its kind makes of it."""
    for declaration in declarations_in(type(instance)):
        object.__setattr__(instance, declaration.name, declaration.check(getattr(instance, declaration.name)))

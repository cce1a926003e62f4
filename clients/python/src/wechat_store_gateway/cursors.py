"""Stores for the progress of a watch: its cursor, and the events that the caller has handled."""

from __future__ import annotations

import os
from typing import Protocol

# Checkpoints grow the file of a silent watch, so that many of them are written anew as one line.
MOST_CHECKPOINTS = 1000


class CursorStore(Protocol):
    """The progress of one watch. Use your own database if you have one: store the id beside your data."""

    def load(self) -> str:
        """Returns the newest stored cursor. Empty if there is none."""

    def contains(self, event_id: str) -> bool:
        """Returns true if this event was stored."""

    def save(self, cursor: str, event_id: str = "") -> None:
        """Stores a cursor and the event that was handled. An empty text leaves the stored one as it is."""


class MemoryCursorStore:
    """Progress that ends with the process."""

    def __init__(self) -> None:
        self.cursor, self.events = "", set[str]()

    def load(self) -> str:
        return self.cursor

    def contains(self, event_id: str) -> bool:
        return event_id in self.events

    def save(self, cursor: str, event_id: str = "") -> None:
        self.cursor = cursor or self.cursor
        if event_id:
            self.events.add(event_id)


class FileCursorStore:
    """Progress in a file. Only one process may use a file at a time.

    Each line has a cursor, a tab, and an event id. Either can be empty. The packages in other languages use the
    same form. A line is on the disk before `save` returns. A line without its end was not, and is ignored.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.memory = MemoryCursorStore()
        self.checkpoints = 0
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        if os.path.exists(self.path):
            with open(self.path, encoding="ascii") as file:
                lines = file.read().split("\n")[:-1]
            for line in lines:
                cursor, _, event_id = line.partition("\t")
                self.memory.save(cursor, event_id)
        self.rewrite()

    def load(self) -> str:
        return self.memory.load()

    def contains(self, event_id: str) -> bool:
        return self.memory.contains(event_id)

    def save(self, cursor: str, event_id: str = "") -> None:
        self.memory.save(cursor, event_id)
        self.checkpoints += 0 if event_id else 1
        if self.checkpoints > MOST_CHECKPOINTS:
            self.rewrite()
            return
        self.file.write(f"{cursor}\t{event_id}\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def rewrite(self) -> None:
        """Writes a new file and renames it over the old one, so that a crash leaves either of them whole."""
        if self.checkpoints:
            self.file.close()
        self.checkpoints = 0
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.writelines(f"\t{event_id}\n" for event_id in sorted(self.memory.events))
            file.write(f"{self.memory.cursor}\t\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.file = open(self.path, "a", encoding="ascii")

"""What a record belongs to: settings, data, and the version of the code that made it."""

from .key import TOLERANCE, changes, close

__all__ = ["TOLERANCE", "changes", "close"]

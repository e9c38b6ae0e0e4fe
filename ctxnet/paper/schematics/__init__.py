"""Drawings of chapters 1 to 3: what networks and blocks look like, with the numbers of the real modules."""

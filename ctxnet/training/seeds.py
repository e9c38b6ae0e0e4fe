"""Seeds of a run: one number for everything, or numbers of their own for weights, random positions and data."""

import re
from dataclasses import dataclass

_LABEL = re.compile(r"(\d+)(?:-init(\d+))?(?:-draw(\d+))?(?:-data(\d+))?")


@dataclass(frozen=True)
class Seeds:
    """What one run is drawn from.

    Attributes:
        seed: names the run, and stands for each of the others where they are not given.
        init: of the initial weights.
        draw: of random positions (permutations and offsets).
        data: of order and augmentation.
    """

    seed: int
    init: int
    draw: int
    data: int

    @property
    def label(self):
        """``7``, or ``"7-init3-draw4"`` where some differ from the first: what a list of seeds says."""
        parts = [f"-{kind}{value}" for kind, value in self._apart().items()]
        return f"{self.seed}{''.join(parts)}" if parts else self.seed

    def stated(self):
        """For a record: ``seed``, and ``init_seed``, ``draw_seed`` and ``data_seed`` where they differ from it."""
        return {"seed": self.seed, **{f"{kind}_seed": value for kind, value in self._apart().items()}}

    def _apart(self):
        every = {"init": self.init, "draw": self.draw, "data": self.data}
        return {kind: value for kind, value in every.items() if value != self.seed}


def parse_seeds(value):
    """:class:`Seeds` from a number or a label such as ``"7-init3-draw4-data5"``, whose parts may be left out.

    Raises:
        ValueError: for anything else, and for a label that has a shorter form, so that no run has two names.
    """
    if isinstance(value, Seeds):
        return value
    match = None if isinstance(value, bool) else _LABEL.fullmatch(str(value))
    if match is None:
        raise ValueError(f"seed {value!r} is neither a whole number from 0 nor like '7-init3-draw4-data5'")
    seed, *others = (None if part is None else int(part) for part in match.groups())
    seeds = Seeds(seed, *(seed if part is None else part for part in others))
    if str(seeds.label) != str(value):
        raise ValueError(f"seed {value!r} is the same run as {seeds.label!r}; write that")
    if max(seeds.seed, seeds.init, seeds.draw, seeds.data) >= 2**63:
        raise ValueError(f"seed {value!r} is out of range; largest valid value: {2**63 - 1}")
    return seeds


def distinct(labels, where):
    """The labels as :class:`Seeds`; ``ValueError`` with ``where`` if two of them name one run."""
    seeds = [parse_seeds(label) for label in labels]
    for number, one in enumerate(seeds):
        if one in seeds[:number]:
            raise ValueError(f"{where}: seed {one.label!r} is there twice; a run counts once")
    return seeds

"""What lies between two nodes: one direction of a cable, with its delays, its losses, and whether it is cut."""

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Profile:
    """How far apart the nodes of a world are. Each link draws its own distance; shares are in basis points."""

    distance_us: tuple[int, int] = (200, 40_000)
    jitter_bp: int = 3_000
    """Of the distance: a message takes up to so much longer."""
    late_bp: int = 100
    """So many messages are held up on the way."""
    late_us: int = 150_000
    """By up to so long."""

    def delay_us_max(self) -> int:
        """The longest that a message is under way where no fault is at work."""
        return self.distance_us[1] * (10_000 + self.jitter_bp) // 10_000 + self.late_us


class Link:
    """One direction between two nodes. Faults write to its fields and take back what they wrote."""

    __slots__ = ("cuts", "distance_us", "duplicate_bp", "extra_us", "late_bp", "late_us", "loss_bp", "rng", "spread_us")

    def __init__(self, rng: Random, profile: Profile) -> None:
        self.rng = rng
        self.distance_us = rng.randint(*profile.distance_us)
        self.spread_us = self.distance_us * profile.jitter_bp // 10_000
        self.late_bp, self.late_us = profile.late_bp, profile.late_us
        self.cuts = 0
        """How many faults have cut it."""
        self.extra_us = 0
        """Delay that faults add to everything."""
        self.loss_bp = 0
        """Of messages that are not on a reliable stream."""
        self.duplicate_bp = 0

    def delay_us(self) -> int:
        """How long the next message is under way."""
        chance = self.rng.random()
        delay_us = self.distance_us + self.extra_us + int(self.spread_us * chance)
        # The same draw decides both: who is late is also slow, and the figure is no less random for it.
        if self.late_bp and chance * 10_000 < self.late_bp:
            delay_us += int(self.late_us * self.rng.random())
        return delay_us

    def loses(self) -> bool:
        """Whether the next message that may be lost is."""
        return self.loss_bp > 0 and self.rng.random() * 10_000 < self.loss_bp

    def repeats(self) -> bool:
        """Whether the next message that may come twice does."""
        return self.duplicate_bp > 0 and self.rng.random() * 10_000 < self.duplicate_bp

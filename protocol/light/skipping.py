"""How a reader that was away for long comes to the present: by the hand-overs of few epochs instead of all.

It asks for the hand-over of the latest epoch first. Where too few members of the committee that it knows have signed
that one, it asks for one half as far, and so on down to the next; what leads on makes the next step twice as long.
"""

from protocol.light.headers import HeaderTrust

SKIP_FROM = 8
"""Fewer epochs are followed one by one: a page of them costs little more."""
QUESTIONS_MAX = 96
"""After so many the rest is followed one by one."""
TRIED_MIN = 32
"""The same after so many, if one by one it had come as far: too few members stay from epoch to epoch."""


class Skipper:
    """The way to one epoch's hand-over. Spec: [TRUST-SKIP.1]"""

    def __init__(self, trust: HeaderTrust, target: int) -> None:
        self._trust = trust
        self._target = target
        """The epoch whose hand-over is wanted."""
        self._began = trust.wanted
        self._stride = max(target - trust.wanted, 0)
        self._questions = 0

    def next(self) -> int | None:
        """The epoch whose hand-over to ask for; None when the last one is there, or cannot be reached like this."""
        known = self._trust.epoch
        if self._questions >= QUESTIONS_MAX or self._stride < 0 or self._in_vain():
            return None
        if self._trust.wanted != known:
            return self._trust.wanted  # it names the members that the trust point does not
        return min(known + self._stride, self._target) if known <= self._target else None

    def _in_vain(self) -> bool:
        return self._questions >= TRIED_MIN and self._trust.epoch - self._began < self._questions

    def told(self, *, led_on: bool) -> None:
        """What was asked for has come, or the other end has it not, or too few have signed it."""
        self._questions += 1
        if led_on:
            self._stride = max(2 * self._stride, 1)
        else:
            self._stride = self._stride // 2 if self._stride else -1

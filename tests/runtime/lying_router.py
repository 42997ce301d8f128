"""A router that can lie to its clients: ``python -m tests.runtime.lying_router run …``, in the place of ``p2pnode``.

A file in the node's folder says how (``tell``), read anew for each thing it says to a client, so that a test chooses.
Its links to miners and oracles are honest: it knows the truth, and says something else.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from p2pnode.cli import entry
from protocol.core.codec import Message
from protocol.core.machine import Close, Send, SendAll
from protocol.core.signing import keccak, typed_digest
from protocol.light.serving import LightServer
from protocol.messages.committee import Certified
from protocol.messages.greeting import RouterHello
from protocol.messages.handover import HandOver, HandOvers
from protocol.messages.receipts import LightRefused
from protocol.messages.results import CommittedNews, LedgerNews, ObservedNews, OutcomeNews, SettledNews
from protocol.messages.sessions import SessionReady
from protocol.messages.tasks import EndReason, EndRecord, FrameMessage, SegmentStart
from protocol.roles.router.machine import RouterMachine

LIE = "lie"
"""In the node's folder: how it lies now."""
ABOUT_RESULTS = (CommittedNews, ObservedNews, OutcomeNews, SettledNews)
NOT_FINAL = LightRefused("not_final", "nothing is known of it yet")


def tell(folder: Path, lie: str) -> None:
    """Have the router of a folder lie from now on; empty: not any more."""
    half = folder / f"{LIE}.half"
    half.write_text(lie, encoding="utf-8")
    half.replace(folder / LIE)


class Lies:
    """What one router says to clients in place of what it would say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stale: Certified | None = None
        """The first header that it knew, which it shows for ever."""
        self._cut: set[tuple[bytes, int]] = set()
        """Orders of which it says no more."""
        self._prompt = 0
        """Tokens of the last order's prompt."""
        self._ways: dict[str, Callable[[RouterMachine, Message], Sequence[Message]]] = {
            "text": self._text,
            "token": self._token,
            "own-frames": self._own_frames,
            "miner": self._miner,
            "lease": self._lease,
            "cut": self._cut_off,
            "end": self._end,
            "level": self._level,
            "omit": self._omit,
            "stale": self._shows_stale,
            "hand-over": self._hand_over,
            "headless": self._headless,
        }

    @property
    def lie(self) -> str:
        """How it lies now."""
        path = self._folder / LIE
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def to_client(self, machine: RouterMachine, effects: list[object]) -> list[object]:
        """What leaves the router's machine."""
        way, said = self._ways.get(self.lie), list[object]()
        for effect in effects:
            if isinstance(effect, Send) and effect.channel in machine._clients.channels:
                self._note(effect.message)
                told = [effect.message] if way is None else way(machine, effect.message)
                said += [Send(effect.channel, message, key=effect.key) for message in told]
            elif isinstance(effect, SendAll) and isinstance(effect.message, LedgerNews) and way is not None:
                continue
            else:
                said.append(effect)
        return said

    def on_light(self, effects: list[object]) -> list[object]:
        """What it answers on ``light``."""
        return [one for effect in effects for one in self._on_light(effect, self.lie)]

    def _on_light(self, effect: object, lie: str) -> list[object]:
        if isinstance(effect, Close):
            return [effect]
        if not isinstance(effect, Send) or int(effect.channel) < 0:
            return [effect]
        message: Message = effect.message
        if lie in ("omit", "cut", "headless") and isinstance(message, OutcomeNews | SettledNews):
            message = NOT_FINAL
        if lie == "headless" and isinstance(message, Certified):
            message = NOT_FINAL
        if lie == "level" and isinstance(message, OutcomeNews | SettledNews):
            message = forged_outcome(message)
        if lie == "stale" and isinstance(message, Certified) and self._stale is not None:
            message = self._stale
        if lie == "header" and isinstance(message, Certified):
            message = forged_header(message)
        return [Send(effect.channel, message, report=effect.report)]

    def _note(self, message: Message) -> None:
        if isinstance(message, RouterHello) and self._stale is None:
            self._stale = message.certified

    # The ways

    @staticmethod
    def _text(_machine: RouterMachine, message: Message) -> list[Message]:
        """Other text for the same tokens."""
        if isinstance(message, FrameMessage) and message.first_index + len(message.texts) > 1:
            return [replace(message, texts=(*message.texts[:-1], message.texts[-1] + b"!"))]
        return [message]

    @staticmethod
    def _token(_machine: RouterMachine, message: Message) -> list[Message]:
        """Another token."""
        if isinstance(message, FrameMessage) and message.first_index + len(message.ids) > 1:
            return [replace(message, ids=(*message.ids[:-1], message.ids[-1] ^ 1))]
        return [message]

    @staticmethod
    def _own_frames(machine: RouterMachine, message: Message) -> list[Message]:
        """Frames that it signs itself in the miner's place."""
        if isinstance(message, FrameMessage):
            return [replace(message, signature=sign(machine, keccak(message.signature)))]
        return [message]

    @staticmethod
    def _miner(machine: RouterMachine, message: Message) -> list[Message]:
        """Another miner than the one that has the lease."""
        if isinstance(message, SegmentStart):
            return [SegmentStart(replace(message.head, miner=bytes(machine._settings.node)))]
        return [message]

    @staticmethod
    def _lease(machine: RouterMachine, message: Message) -> list[Message]:
        """An assignment to itself, whatever the bids say; its signature is right."""
        if isinstance(message, SessionReady):
            assignment = replace(message.assignment, miners=(bytes(machine._settings.node),))
            signature = sign(machine, typed_digest(machine._domain, assignment))
            return [replace(message, assignment=assignment, signature=signature)]
        return [message]

    def _cut_off(self, _machine: RouterMachine, message: Message) -> list[Message]:
        """Nothing more after the first frame of an answer, and no word of what became of it."""
        if isinstance(message, FrameMessage):
            place = (message.session, message.task)
            over = place in self._cut or message.end is not None
            self._cut.add(place)
            return [] if over else [message]
        return [] if isinstance(message, ABOUT_RESULTS) else [message]

    def _end(self, _machine: RouterMachine, message: Message) -> list[Message]:
        """An answer that ends with its first frame, for a reason of the router's own."""
        if isinstance(message, SegmentStart):
            self._prompt = message.head.prompt_token_count
        if isinstance(message, FrameMessage):
            count = message.first_index + len(message.ids)
            return [replace(message, end=EndRecord(EndReason.LENGTH, self._prompt, count, 0))]
        return [message]

    @staticmethod
    def _level(_machine: RouterMachine, message: Message) -> list[Message]:
        """An outcome that nobody finalized."""
        if isinstance(message, OutcomeNews | SettledNews):
            return [forged_outcome(message)]
        return [] if isinstance(message, ABOUT_RESULTS) else [message]

    @staticmethod
    def _omit(_machine: RouterMachine, message: Message) -> list[Message]:
        """No word of what became of an answer."""
        return [] if isinstance(message, ABOUT_RESULTS) else [message]

    def _shows_stale(self, _machine: RouterMachine, message: Message) -> list[Message]:
        """The first header that it ever knew."""
        return [replace(message, certified=self._stale)] if isinstance(message, RouterHello) else [message]

    @staticmethod
    def _headless(_machine: RouterMachine, message: Message) -> list[Message]:
        """No header, and no news, as if there were no committee."""
        if isinstance(message, RouterHello):
            return [replace(message, certified=None)]
        return [] if isinstance(message, ABOUT_RESULTS) else [message]

    @staticmethod
    def _hand_over(machine: RouterMachine, message: Message) -> list[Message]:
        """A committee of its own making."""
        if isinstance(message, HandOvers) and message.hand_overs:
            return [replace(message, hand_overs=tuple(forged(machine, each) for each in message.hand_overs))]
        return [message]


def forged(machine: RouterMachine, hand_over: HandOver) -> HandOver:
    """It hands over to four nodes of the router's choice."""
    own = bytes(machine._settings.node)
    return replace(hand_over, members=tuple(sorted(keccak(own + bytes([n]))[:20] for n in range(4))))


def forged_header(certified: Certified) -> Certified:
    """Signatures of one header under the next one."""
    assert certified.header is not None
    header = replace(certified.header, height=certified.header.height + 1)
    certificate = replace(certified.certificate, height=header.height)
    return Certified(certificate, header)


def forged_outcome(news: OutcomeNews | SettledNews) -> Message:
    """The same outcome, said to be final in a header that nobody signed."""
    return replace(news, certified=forged_header(news.certified))


def sign(machine: RouterMachine, digest: bytes) -> bytes:
    """The router signs anything."""
    return bytes(machine._rounds.sign(digest))  # type: ignore[arg-type]


def lie(lies: Lies) -> None:
    """From now on any router of this process may lie."""
    handle, answer = RouterMachine.handle, LightServer.handle

    def lying(self: RouterMachine, event: object, now_ms: int) -> list[object]:
        return lies.to_client(self, handle(self, event, now_ms))

    def answering(self: LightServer, event: object, now_ms: int) -> list[object]:
        return lies.on_light(answer(self, event, now_ms))

    RouterMachine.handle = lying  # type: ignore[method-assign]
    LightServer.handle = answering  # type: ignore[method-assign]


if __name__ == "__main__":
    lie(Lies(Path(os.environ["P2PNODE_NODE_STATE_DIR"])))
    sys.exit(entry.main())

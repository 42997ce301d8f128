"""Every error a rule can end in, with a stable code.

``LocalProtocolError`` means that we are wrong: it is a bug and ends the node. ``RemoteProtocolError`` means
that a peer is: the input is dropped and the peer loses standing. Verdicts that are part of a rule (accept,
ignore, reject) are values, not exceptions.
"""


class P2PNodeError(Exception):
    """The root. ``code`` is stable and meant for machines; the message is for people, and so is ``hint``: what
    to do next, where there is something to do."""

    code: str = "internal"
    hint: str | None = None

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint


class LocalProtocolError(P2PNodeError):
    """This node broke a rule itself."""

    code = "local/bug"


class RemoteProtocolError(P2PNodeError):
    """A peer broke a rule."""

    code = "remote/protocol"


class DecodeError(RemoteProtocolError):
    """Bytes that are no canonical message of a known kind."""

    code = "remote/decode"


class SignatureError(RemoteProtocolError):
    """A signature that is malformed, has a high s, or belongs to another key."""

    code = "remote/signature"


class TranscriptError(RemoteProtocolError):
    """A stream of frames that does not hold; ``link`` names the part of the proof that broke."""

    code = "remote/transcript"

    def __init__(self, link: str, message: str) -> None:
        super().__init__(f"{link}: {message}")
        self.link = link


class AuctionError(RemoteProtocolError):
    """A bid set or assignment that does not hold; ``link`` names the part of the proof that broke."""

    code = "remote/auction"

    def __init__(self, link: str, message: str) -> None:
        super().__init__(f"{link}: {message}")
        self.link = link


class EvidenceError(RemoteProtocolError):
    """Evidence that convicts nobody; ``link`` names what is missing: two statements of one ``place``, a ``conflict``
    between them, or the ``signature`` of one key on both."""

    code = "remote/evidence"

    def __init__(self, link: str, message: str) -> None:
        super().__init__(f"{link}: {message}")
        self.link = link


class ParameterError(P2PNodeError):
    """A parameter or genesis value outside its bounds."""

    code = "config/parameter"

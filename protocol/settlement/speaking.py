"""Which of its words on the chain a member has yet to say: each new one, and those that it can bear out for others."""

from protocol.core.codec import pack
from protocol.core.ids import NodeId
from protocol.core.signing import keccak
from protocol.ledger.chain import ChainState
from protocol.messages.chain import ChainWord


class Speaker:
    """What has been said on the present position of the ledger. Spec: [CHAIN-SAY.1]"""

    def __init__(self, me: NodeId, again_ms: int) -> None:
        self._me = me
        self._again_ms = again_ms
        self._position = (0, 0)
        self._said: dict[bytes, int] = {}
        """When, by the hash of the word."""

    def forget(self) -> None:
        """This node is no member any more."""
        self._said.clear()

    def due(self, chain: ChainState, words: tuple[ChainWord, ...], now_ms: int) -> list[ChainWord]:
        """Words to say now; they count as said from now on.

        Args:
            words: All that are true here, the one that leads furthest at the end.
        """
        position = (chain.events, chain.number)
        if position != self._position:
            self._position = position
            self._said.clear()
        mine = chain.words_of(self._me)
        found = []
        for place, word in enumerate(words):
            name = keccak(pack(word))
            wanted = place == len(words) - 1 or any(True for _ in chain.sayers(name))
            if not wanted or name in mine or self._said.get(name, now_ms - self._again_ms) > now_ms - self._again_ms:
                continue
            self._said[name] = now_ms
            found.append(word)
        return found

"""Noise records in bulk: what one read of the socket brings is decrypted at once, what waits is written at once.

After the handshake libp2p reads each record as two bytes and then the rest, through four layers, and formats a log
line at each; the records themselves are the same here.
"""

from libp2p.abc import ISecureConn
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession

_LENGTH_BYTES = 2
_PLAIN_BYTES_MAX = 65_535 - 16


class Records:
    """The encrypted byte stream of a connection whose handshake is done."""

    def __init__(self, session: ISecureConn) -> None:
        assert isinstance(session, SecureSession) and isinstance(session.conn, NoiseTransportReadWriter)
        raw = session.conn.read_writer.read_write_closer
        assert isinstance(raw, RawConnection)
        self._noise = session.conn.noise_state
        self._wire = raw.stream
        self._head = session._drain(None)  # what the negotiation read too much of
        self._encrypted = bytearray()

    async def read(self) -> bytes:
        """All that has arrived, decrypted. Raises ConnectionClosedError, and InvalidTag for a forged record."""
        if self._head:
            head, self._head = self._head, b""
            return head
        while True:
            plain = self._decrypt()
            if plain:
                return plain
            self._encrypted += await self._wire.read(None)

    def _decrypt(self) -> bytes:
        pieces: list[bytes] = []
        at = 0
        while len(self._encrypted) - at >= _LENGTH_BYTES:
            size = int.from_bytes(self._encrypted[at : at + _LENGTH_BYTES], "big")
            end = at + _LENGTH_BYTES + size
            if end > len(self._encrypted):
                break
            pieces.append(self._noise.decrypt(bytes(self._encrypted[at + _LENGTH_BYTES : end])))
            at = end
        del self._encrypted[:at]
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    async def write(self, plain: bytes) -> None:
        """Encrypt and write all of it. Must not be cancelled unless the connection ends with it."""
        pieces: list[bytes] = []
        for at in range(0, len(plain), _PLAIN_BYTES_MAX):
            record = self._noise.encrypt(plain[at : at + _PLAIN_BYTES_MAX])
            pieces.append(len(record).to_bytes(_LENGTH_BYTES, "big"))
            pieces.append(record)
        await self._wire.write(b"".join(pieces))

"""The embedded chain as a process of its own: JSON-RPC over HTTP on the loopback, a block at a fixed beat.

It says ``listening HOST:PORT`` when it can be asked, and ends when its standard input does, so that it never outlives
who started it.
"""

import argparse
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from chain.embedded import EmbeddedChain
from chain.embedded_rpc import EmbeddedRpc

REQUEST_BYTES_MAX = 4 << 20
IDLE_S = 120.0
LOOPBACK = "127.0.0.1"


class _Handler(BaseHTTPRequestHandler):
    """POST is a request; nothing else is."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    rpc: ClassVar[EmbeddedRpc]

    def do_POST(self) -> None:
        """Answer one request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > REQUEST_BYTES_MAX:
            self.send_error(413)
            return
        answer = self.rpc.answer(self.rfile.read(int(length)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class EmbeddedServer:
    """Serves a chain from threads of this process until it is closed."""

    def __init__(self, rpc: EmbeddedRpc, port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"rpc": rpc})
        self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """How it is asked."""
        return f"http://{LOOPBACK}:{self.port}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def main() -> int:
    """Run until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m chain.embedded_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chain-id", type=int, required=True)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--block-ms", type=int, default=1_000)
    parser.add_argument("--fund", required=True, help="an address that has coin from the start")
    args = parser.parse_args()
    chain = EmbeddedChain(args.chain_id, {bytes.fromhex(args.fund.removeprefix("0x")): 10**30}, args.file)
    rpc = EmbeddedRpc(chain)
    server = EmbeddedServer(rpc, args.port)
    sys.stdout.write(f"listening {LOOPBACK}:{server.port}\n")
    sys.stdout.flush()
    ended = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        while not ended.wait(args.block_ms / 1_000):
            with rpc.lock:
                chain.mine()
    except KeyboardInterrupt:
        pass  # Ctrl-C reaches a whole terminal; the chain is kept all the same
    server.close()
    with rpc.lock:
        chain.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

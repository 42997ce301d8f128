# mypy: ignore-errors
"""Ray Serve as a router: a streaming relay to an engine. Run by the interpreter Ray is installed for: FILE ENGINE PORT.

What Ray's guide makes of it: one deployment, a FastAPI ingress, ``StreamingResponse`` over an aiohttp session that is
kept, every piece passed on as it comes. Runs until standard input ends. No types are checked here: neither Ray nor
FastAPI is where the bench is.
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
import ray
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve

ENGINE, PORT = sys.argv[1], int(sys.argv[2])
ONGOING_REQUESTS_MAX = 256

app = FastAPI()


@serve.deployment(max_ongoing_requests=ONGOING_REQUESTS_MAX, ray_actor_options={"num_cpus": 1})
@serve.ingress(app)
class Relay:
    """One replica."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._session: aiohttp.ClientSession | None = None

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> StreamingResponse:
        """Pass a request on, and its answer back."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        session, body = self._session, await request.body()

        async def pieces() -> AsyncIterator[bytes]:
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{self._engine}/v1/chat/completions", data=body, headers=headers) as answer:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), media_type="text/event-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[3])
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Relay.bind(ENGINE))
    sys.stdin.read()

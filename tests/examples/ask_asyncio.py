"""Several questions at once, on asyncio: one session each, and one of them cancelled as soon as it has said enough.

python tests/examples/ask_asyncio.py ROUTER_ADDRESS
"""

import asyncio
import sys

from p2pnode.asyncio_client import AsyncioClient, RequestFailed, connect

QUESTIONS = ("Where does a bear live?", "Where does a frog live?")
STORY = "Tell me a story about a rabbit."


async def whole(net: AsyncioClient, question: str) -> str:
    """The whole answer."""
    async with net.session() as session, session.ask(question, max_tokens=32) as answer:
        return await answer.read()


async def first_sentence(net: AsyncioClient, question: str) -> str:
    """The answer to its first full stop; leaving the block cancels the rest, down to the miner."""
    async with net.session() as session, session.ask(question, max_tokens=200) as answer:
        async for text in answer:
            if "." in text:
                break
        return answer.text.partition(".")[0] + "."


async def ask(router: str) -> None:
    """Ask them all, and then for what nobody has."""
    async with connect(router) as net:
        answers = await asyncio.gather(*(whole(net, question) for question in QUESTIONS), first_sentence(net, STORY))
        for question, answer in zip((*QUESTIONS, STORY), answers, strict=True):
            print(f"{question} {answer}")
        try:
            async with net.session("a-model-nobody-has"):
                pass
        except RequestFailed as error:
            print(f"{error.code}: {error}")


if __name__ == "__main__":
    asyncio.run(ask(sys.argv[1]))

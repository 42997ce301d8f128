"""The client on asyncio is the one on trio: it offers the same, in the same words."""

import asyncio
import inspect

import pytest
import trio

from p2pnode import asyncio_client, client
from p2pnode.answer import Answer
from p2pnode.asyncio_client import AsyncioAnswer, AsyncioClient, AsyncioSession
from p2pnode.client import LightClient
from p2pnode.session import Session
from p2pnode.trio_thread import open_trio_thread
from protocol.roles.client import Item

AWAITED = {"record"}
"""What is there at once on trio, and comes from the other thread here."""
INTERNAL = {
    LightClient: {"deliver", "dispatch", "drop_handle", "greet", "new_handle", "stand", "watch", "shows_header"},
    Session: {"look", "settle"},
    Answer: {"rise", "settle"},
}
"""What the parts of the library have to do with each other."""
PAIRS = [(LightClient, AsyncioClient), (Session, AsyncioSession), (Answer, AsyncioAnswer)]


def public(kind: type) -> dict[str, object]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(("there", "here"), PAIRS)
def test_every_method_is_here_with_the_same_arguments(there: type, here: type) -> None:
    offered = {name: value for name, value in public(there).items() if name not in INTERNAL[there]}
    assert offered.keys() - public(here).keys() == set()
    for name, original in offered.items():
        mine = public(here)[name]
        assert isinstance(mine, property) == isinstance(original, property), name
        if callable(original) and callable(mine):
            assert str(inspect.signature(mine)) == str(inspect.signature(original)), name
            assert inspect.getdoc(mine), name
            if name not in AWAITED:
                assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(original), name


def test_every_attribute_of_an_answer_is_here() -> None:
    async def names() -> set[str]:
        async with open_trio_thread() as there:
            return set(dir(AsyncioAnswer(there, original, asyncio.Queue())))

    _, items = trio.open_memory_channel[Item](0)
    original = Answer(lambda: None, items)
    assert {name for name in dir(original) if not name.startswith("_")} - INTERNAL[Answer] <= asyncio.run(names())


def test_connect_takes_the_same_but_what_is_trios() -> None:
    there, here = inspect.signature(client.connect), inspect.signature(asyncio_client.connect)
    expected = [str(each) for name, each in there.parameters.items() if name != "transport"]
    assert [str(each) for each in here.parameters.values()] == expected


def test_trios_connect_names_this_one_to_a_program_on_asyncio() -> None:
    async def use() -> None:
        async with client.connect("/ip4/127.0.0.1/tcp/1"):
            pytest.fail("connected")

    with pytest.raises(RuntimeError, match=r"p2pnode\.asyncio_client"):
        asyncio.run(use())

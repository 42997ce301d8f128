"""Asks a router a question through the contract SessionInbox, and checks the answer: web3.py and nothing of p2pnode.

    python tests/runtime/plain_web3.py RPC_URL GENESIS SESSION_INBOX_JSON ROUTER PROMPT   (the key: $PRIVATE_KEY)

What is sealed, and how the root of a result is computed, is in protocol/SPEC.md: "Inbox" in section 11, transcripts in
section 6, result roots in section 9. The answer is the network's if the root that follows from it is the one that the
contract found: the event Proved names it.
"""

import hashlib
import json
import os
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from web3 import Web3

SAMPLING = [7_000, 64, 10_000, 0, 10_000, 0, 0, 64, 0, [], "", 0]
"""The network's defaults: temperature 0.7, the 64 likeliest tokens; any text, and no log probabilities."""

ORDER = (
    "TaskOrder(bytes32 session,uint32 task,uint64 home_epoch,bytes32 prompt,bytes32 sampling,bytes32 seed,"
    "uint32 max_tokens,uint64 cap_wei)"
)
HEAD = (
    "SegmentHead(bytes32 session,uint32 task,uint8 lane,bytes24 generation,address miner,bytes32 order,bytes32 prompt,"
    "address router,uint64 price_wei,bytes32 prompt_tokens,uint32 prompt_token_count,bytes32 model,bytes32 sampling,"
    "uint64 start_index,bytes32 previous_head)"
)
RESULT = "LaneResult(bytes32 order,bytes32 prompt,bytes32 model,bytes32 segments,bytes32 chain,uint64 count)"

_PAUSE = threading.Event()
"""Never set: what is waited on between two looks."""


def keccak(data: bytes) -> bytes:
    return bytes(Web3.keccak(data))


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


# EIP-712


def separator(network_id: bytes, chain_id: int) -> bytes:
    kind = keccak(b"EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)")
    return keccak(kind + keccak(b"p2pnode") + keccak(b"1") + chain_id.to_bytes(32, "big") + network_id)


def digest(domain: bytes, kind: str, fields: list[Any]) -> bytes:
    """EIP-712's digest of a struct; its fields' types stand in ``kind``."""
    types = [each.split(" ")[0] for each in kind[kind.index("(") + 1 : -1].split(",")]
    words = [_word(name, value) for name, value in zip(types, fields, strict=True)]
    return keccak(b"\x19\x01" + domain + keccak(keccak(kind.encode()) + b"".join(words)))


def _word(kind: str, value: Any) -> bytes:
    if kind == "address":
        return bytes(value).rjust(32, b"\0")
    return bytes(value).ljust(32, b"\0") if kind.startswith("bytes") else int(value).to_bytes(32, "big")


# What is asked


def prompt_of(text: str) -> list[Any]:
    """A prompt of one message, without tools, and a nonce that nobody guesses."""
    return [os.urandom(32), [["user", text, "", ""]], SAMPLING, ""]


# Seals


def _derived(secret: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"p2pnode/sealed/1").derive(secret)


def seal(public: bytes, plain: bytes, context: bytes) -> bytes:
    mine = X25519PrivateKey.generate()
    ephemeral = mine.public_key().public_bytes_raw()
    key = _derived(mine.exchange(X25519PublicKey.from_public_bytes(public)), ephemeral + public)
    return b"\x01" + ephemeral + AESGCM(key).encrypt(bytes(12), plain, context)


def unseal(private: X25519PrivateKey, sealed: bytes, context: bytes) -> bytes:
    ephemeral = sealed[1:33]
    mine = private.public_key().public_bytes_raw()
    key = _derived(private.exchange(X25519PublicKey.from_public_bytes(ephemeral)), ephemeral + mine)
    return AESGCM(key).decrypt(bytes(12), sealed[33:], context)


# The proof


def root_of(domain: bytes, prompt: bytes, sampling: bytes, reply: list[Any]) -> tuple[bytes, str]:
    """The result root that a reply leads to, and its text."""
    order, heads, ids, texts, end = reply
    assert (order[3], order[4]) == (prompt, sampling), "the order is of another question"
    ordered, ends = digest(domain, ORDER, order), [*(head[13] for head in heads[1:]), len(ids)]
    chain, segments = bytes(32), bytes(32)
    for head, last in zip(heads, ends, strict=True):
        assert head[5] == ordered, "a segment of another order"
        assert head[14] == chain, "a segment that names another chain before it"
        chain = digest(domain, HEAD, head)
        segments = keccak(segments + chain)
        for index in range(head[13], last):
            chain = sha256(b"\x01", chain, struct.pack(">QII", index + 1, ids[index], len(texts[index])), texts[index])
    chain = sha256(b"\x02", chain, struct.pack(">BIII", *end))
    result = [ordered, prompt, heads[-1][11], segments, chain, len(ids)]
    return digest(domain, RESULT, result), b"".join(texts).decode("utf-8", "replace")


# The chain


class Inbox:
    """The contract, and an account that asks."""

    def __init__(self, url: str, genesis: str, abi: Any, private_key: str) -> None:
        self.web3 = Web3(Web3.HTTPProvider(url))
        named = json.loads(genesis)
        network_id = hashlib.sha256(genesis.encode()).digest()
        self.domain = separator(network_id, self.web3.eth.chain_id)
        self.contract = self.web3.eth.contract(Web3.to_checksum_address(named["contracts"]["inbox"]), abi=abi)
        self.account = self.web3.eth.account.from_key(private_key)

    def ask(self, router: str, text: str, max_tokens: int, fee: int, within_s: int = 3_600) -> "Asked":
        """Send a question."""
        prompt = prompt_of(text)
        commitment = sha256(b"p2pnode/prompt/1", msgpack.packb(prompt))
        reply_key = X25519PrivateKey.generate()
        public = reply_key.public_key().public_bytes_raw()
        to, me = bytes.fromhex(router[2:]), bytes.fromhex(self.account.address[2:])
        context = b"p2pnode/question/1" + self.domain + to + me + public + commitment
        checksummed = Web3.to_checksum_address(router)
        service_key, _ = self.contract.functions.services(checksummed).call()
        sealed = seal(service_key, msgpack.packb([prompt, max_tokens]), context)
        deadline = int(time.time()) + within_s
        call = self.contract.functions.ask(checksummed, commitment, bytes(32), public, deadline, sealed)
        receipt = self._sent(call, fee)
        (event,) = self.contract.events.Asked().process_receipt(receipt)
        return Asked(self, event["args"]["number"], receipt["blockNumber"], commitment, reply_key)

    def _sent(self, call: Any, value: int) -> Any:
        nonce = self.web3.eth.get_transaction_count(self.account.address)
        fields = {"from": self.account.address, "value": value, "nonce": nonce}
        signed = self.account.sign_transaction(call.build_transaction(fields))
        sent = self.web3.eth.send_raw_transaction(signed.raw_transaction)
        receipt = self.web3.eth.wait_for_transaction_receipt(sent, timeout=120)
        assert receipt["status"] == 1, "the contract refused"
        return receipt


class Asked:
    """A question that stands on the chain."""

    def __init__(self, inbox: Inbox, number: int, block: int, prompt: bytes, reply_key: X25519PrivateKey) -> None:
        self.inbox = inbox
        self.number = number
        self._block = block
        self._prompt = prompt
        self._reply_key = reply_key

    def _event(self, name: str) -> Any:
        """The event of this question, if there is one in a final block."""
        final = self.inbox.web3.eth.get_block("finalized")["number"]
        if final < self._block:
            return None
        event = getattr(self.inbox.contract.events, name)()
        found = event.get_logs(from_block=self._block, to_block=final, argument_filters={"number": self.number})
        return found[0]["args"] if found else None

    def answer(self) -> tuple[bytes, str] | None:
        """The root that the answer leads to, and its text; None as long as there is none."""
        args = self._event("Answered")
        if args is None:
            return None
        public = self._reply_key.public_key().public_bytes_raw()
        context = b"p2pnode/answer/1" + self.inbox.domain + self.number.to_bytes(32, "big") + public
        reply = msgpack.unpackb(unseal(self._reply_key, args["sealed"], context))
        assert (reply[0][0], reply[0][1], 0) == (args["session"], args["task"], args["lane"]), "another lane's answer"
        sampling = sha256(b"p2pnode/sampling/1", msgpack.packb(SAMPLING))
        return root_of(self.inbox.domain, self._prompt, sampling, reply)

    def proved_root(self) -> bytes | None:
        """What the contract found in the network's results; None as long as nobody proved it."""
        args = self._event("Proved")
        return None if args is None else bytes(args["root"])


def main(url: str, genesis: str, artifact: str, router: str, prompt: str) -> None:
    """Ask, wait, check, and print."""
    abi = json.loads(Path(artifact).read_text(encoding="utf-8"))["abi"]
    inbox = Inbox(url, Path(genesis).read_text(encoding="utf-8"), abi, os.environ["PRIVATE_KEY"])
    _, fee = inbox.contract.functions.services(Web3.to_checksum_address(router)).call()
    asked = inbox.ask(router, prompt, 200, fee)
    print(f"question {asked.number} is asked")
    while (answer := asked.answer()) is None:
        _PAUSE.wait(1)
    print(answer[1])
    while (proved := asked.proved_root()) is None:
        _PAUSE.wait(1)
    assert proved == answer[0], "the router changed the answer"
    print("proved: the network's results hold this answer, to the last token")


if __name__ == "__main__":
    main(*sys.argv[1:6])

# pragma version 0.4.3
"""
@title Evidence
@license Apache-2.0
@notice Judges two signed statements that no correct node makes both, and has the registry slash who made them.
@dev The verdicts are those of `protocol/results/evidence.py`: both are held to `tests/vectors/evidence.json`. It does
     not matter which half comes first. Each function gives back the convicted node.
"""

import observations
import signing

initializes: signing


interface Registry:
    def slash(node: address, evidence: bytes32, reporter: address): nonpayable


struct Statement:
    kind: uint8
    epoch: uint64
    height: uint64
    header: bytes32


struct Batch:
    home_epoch: uint64
    oracle: address
    number: uint64
    previous: bytes32
    content: bytes32


struct Said:
    batch: Batch
    content: Bytes[observations.CONTENT_MAX]
    place: uint256


struct Lane:
    session: bytes32
    task: uint32
    lane: uint8


struct Commit:
    session: bytes32
    task: uint32
    lane: uint8
    generation: bytes24
    miner: address
    commitment: bytes32


struct Reveal:
    session: bytes32
    task: uint32
    lane: uint8
    generation: bytes24
    miner: address
    root: bytes32
    count: uint64
    salt: bytes32


struct SegmentHead:
    session: bytes32
    task: uint32
    lane: uint8
    generation: bytes24
    miner: address
    order: bytes32
    prompt: bytes32
    router: address
    price_wei: uint64
    prompt_tokens: bytes32
    prompt_token_count: uint32
    model: bytes32
    sampling: bytes32
    start_index: uint64
    previous_head: bytes32


struct Frame:
    segment: bytes32
    index: uint64
    chain: bytes32
    end: bool


struct Closing:
    given: bool
    chain: bytes32
    reason: uint8
    prompt_tokens: uint32
    completion_tokens: uint32
    cached_tokens: uint32


PROPOSAL: constant(uint8) = 1
VOTE: constant(uint8) = 2
NULLIFY: constant(uint8) = 3
FINALIZE: constant(uint8) = 4

PROPOSAL_TYPE: constant(bytes32) = keccak256("Proposal(uint64 epoch,uint64 height,bytes32 header)")
VOTE_TYPE: constant(bytes32) = keccak256("Vote(uint64 epoch,uint64 height,bytes32 header)")
NULLIFY_TYPE: constant(bytes32) = keccak256("Nullify(uint64 epoch,uint64 height)")
FINALIZE_TYPE: constant(bytes32) = keccak256("Finalize(uint64 epoch,uint64 height,bytes32 header)")
BATCH_TYPE: constant(bytes32) = keccak256(
    "Batch(uint64 home_epoch,address oracle,uint64 number,bytes32 previous,bytes32 content)"
)
COMMIT_TYPE: constant(bytes32) = keccak256(
    "Commit(bytes32 session,uint32 task,uint8 lane,bytes24 generation,address miner,bytes32 commitment)"
)
REVEAL_TYPE: constant(bytes32) = keccak256(
    "Reveal(bytes32 session,uint32 task,uint8 lane,bytes24 generation,address miner,bytes32 root,uint64 count,bytes32 salt)"
)
HEAD_TYPE: constant(bytes32) = keccak256(
    "SegmentHead(bytes32 session,uint32 task,uint8 lane,bytes24 generation,address miner,bytes32 order,bytes32 prompt,address router,uint64 price_wei,bytes32 prompt_tokens,uint32 prompt_token_count,bytes32 model,bytes32 sampling,uint64 start_index,bytes32 previous_head)"
)
FRAME_TYPE: constant(bytes32) = keccak256("Frame(bytes32 segment,uint64 index,bytes32 chain,bool end)")

COMMITMENT: constant(Bytes[20]) = b"p2pnode/commitment/1"
END_REASON_MAX: constant(uint8) = 2

REGISTRY: public(immutable(address))


@deploy
def __init__(network_id: bytes32, chain_id: uint256, registry: address):
    signing.__init__(network_id, chain_id)
    assert registry != empty(address), "registry"
    REGISTRY = registry


@external
def statements(
    first: Statement, second: Statement, signatures: bytes32[2][2], reporter: address
) -> address:
    """
    @notice Of one slot: two proposals, two votes or two finalizes of different headers; a nullify and a finalize.
    """
    assert first.epoch == second.epoch and first.height == second.height, "place"
    if first.kind == second.kind:
        assert first.header != second.header, "conflict"
    else:
        assert min(first.kind, second.kind) == NULLIFY and max(first.kind, second.kind) == FINALIZE, "conflict"
    return self._slash(self._statement(first), self._statement(second), empty(address), signatures, reporter)


@external
def batches(first: Batch, second: Batch, signatures: bytes32[2][2], reporter: address) -> address:
    """
    @notice Two batches of one oracle with one number of one home epoch.
    """
    assert first.home_epoch == second.home_epoch and first.number == second.number, "place"
    assert first.oracle == second.oracle, "place"
    one: bytes32 = self._batch(first)
    other: bytes32 = self._batch(second)
    assert one != other, "conflict"
    return self._slash(one, other, first.oracle, signatures, reporter)


@external
def values(lane: Lane, first: Said, second: Said, signatures: bytes32[2][2], reporter: address) -> address:
    """
    @notice Two values of one lane, in two batches of one oracle, or in one that is both.
    """
    assert first.batch.oracle == second.batch.oracle, "place"
    assert self._value(lane, first) != self._value(lane, second), "conflict"
    return self._slash(
        self._batch(first.batch), self._batch(second.batch), first.batch.oracle, signatures, reporter
    )


@external
def commits(first: Commit, second: Commit, signatures: bytes32[2][2], reporter: address) -> address:
    """
    @notice Two commits of one miner to one lane and generation.
    """
    assert first.session == second.session and first.task == second.task and first.lane == second.lane, "place"
    assert first.generation == second.generation and first.miner == second.miner, "place"
    one: bytes32 = self._commit(first)
    other: bytes32 = self._commit(second)
    assert one != other, "conflict"
    return self._slash(one, other, first.miner, signatures, reporter)


@external
def reveal(commit: Commit, reveal: Reveal, signatures: bytes32[2][2], reporter: address) -> address:
    """
    @notice A commit, and a reveal of the same miner, lane and generation that does not open it.
    """
    assert commit.session == reveal.session and commit.task == reveal.task, "place"
    assert commit.lane == reveal.lane and commit.generation == reveal.generation, "place"
    assert commit.miner == reveal.miner, "place"
    assert commit.commitment != self._opened(reveal), "conflict"
    second: bytes32 = signing._digest(keccak256(abi_encode(REVEAL_TYPE, reveal)))
    return self._slash(self._commit(commit), second, commit.miner, signatures, reporter)


@external
def frames(
    first: SegmentHead,
    first_frame: Frame,
    second: SegmentHead,
    second_frame: Frame,
    closing: Closing,
    signatures: bytes32[2][2],
    reporter: address,
) -> address:
    """
    @notice Two frames of one miner that end at the same token of one lane and generation: of two segments, or of one
        with two chains. An end frame and another contradict each other if the end closes another chain.
    @param closing What the chain of the end frame was made of, where the other is none; not given elsewhere.
    """
    assert first.session == second.session and first.task == second.task and first.lane == second.lane, "place"
    assert first.generation == second.generation and first.miner == second.miner, "place"
    assert first_frame.index == second_frame.index, "place"
    one: bytes32 = signing._digest(keccak256(abi_encode(HEAD_TYPE, first)))
    other: bytes32 = signing._digest(keccak256(abi_encode(HEAD_TYPE, second)))
    assert first_frame.segment == one and second_frame.segment == other, "place"
    if one != other:
        assert not closing.given, "conflict"
    elif first_frame.end == second_frame.end:
        assert not closing.given and first_frame.chain != second_frame.chain, "conflict"
    elif first_frame.end:
        self._check_end(first_frame, second_frame, closing)
    else:
        self._check_end(second_frame, first_frame, closing)
    return self._slash(self._frame(first_frame), self._frame(second_frame), first.miner, signatures, reporter)


# Inside


@internal
def _slash(
    first: bytes32, second: bytes32, named: address, signatures: bytes32[2][2], reporter: address
) -> address:
    """
    @notice Have the one signer of two digests slashed, under the name of the evidence: the same for either order.
    @param named In whose name they are; zero where they name nobody.
    """
    node: address = signing._recover(first, signatures[0])
    assert node == signing._recover(second, signatures[1]), "signature"
    assert named == empty(address) or named == node, "signature"
    low: bytes32 = first
    high: bytes32 = second
    if convert(first, uint256) > convert(second, uint256):
        low = second
        high = first
    name: bytes32 = keccak256(concat(convert(node, bytes20), low, high))
    extcall Registry(REGISTRY).slash(node, name, reporter)
    return node


@internal
@view
def _statement(statement: Statement) -> bytes32:
    if statement.kind == NULLIFY:
        assert statement.header == empty(bytes32), "place"
        return signing._digest(keccak256(abi_encode(NULLIFY_TYPE, statement.epoch, statement.height)))
    kind: bytes32 = PROPOSAL_TYPE
    if statement.kind == VOTE:
        kind = VOTE_TYPE
    elif statement.kind == FINALIZE:
        kind = FINALIZE_TYPE
    else:
        assert statement.kind == PROPOSAL, "kind"
    return signing._digest(keccak256(abi_encode(kind, statement.epoch, statement.height, statement.header)))


@internal
@view
def _batch(batch: Batch) -> bytes32:
    return signing._digest(keccak256(abi_encode(BATCH_TYPE, batch)))


@internal
@pure
def _value(lane: Lane, said: Said) -> bytes32:
    """
    @notice What a batch says of a lane at a place of its content, in one digest.
    @dev A batch that does not name its content counts as one whose signature does not hold.
    """
    assert keccak256(said.content) == said.batch.content and said.batch.number > 0, "signature"
    found: observations.Observation = observations._read(said.content, said.place)
    assert found.session == lane.session and found.task == convert(lane.task, uint256), "lane"
    assert found.lane == convert(lane.lane, uint256), "lane"
    return keccak256(abi_encode(found.verdict, found.root, found.count))


@internal
@view
def _commit(commit: Commit) -> bytes32:
    return signing._digest(keccak256(abi_encode(COMMIT_TYPE, commit)))


@internal
@view
def _opened(reveal: Reveal) -> bytes32:
    """
    @notice The commitment that a reveal opens.
    """
    return keccak256(
        concat(
            COMMITMENT,
            signing.SEPARATOR,
            reveal.session,
            convert(reveal.task, bytes4),
            convert(reveal.lane, bytes1),
            reveal.generation,
            convert(reveal.miner, bytes20),
            reveal.root,
            reveal.salt,
        )
    )


@internal
@view
def _frame(frame: Frame) -> bytes32:
    return signing._digest(keccak256(abi_encode(FRAME_TYPE, frame)))


@internal
@pure
def _check_end(end: Frame, frame: Frame, closing: Closing):
    """
    @notice Reverts unless an end frame is shown to close another chain than that of the frame before it.
    """
    assert closing.given and closing.reason <= END_REASON_MAX, "conflict"
    record: Bytes[46] = concat(
        x"02",
        closing.chain,
        convert(closing.reason, bytes1),
        convert(closing.prompt_tokens, bytes4),
        convert(closing.completion_tokens, bytes4),
        convert(closing.cached_tokens, bytes4),
    )
    assert sha256(record) == end.chain, "conflict"
    assert closing.chain != frame.chain, "conflict"

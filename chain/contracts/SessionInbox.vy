# pragma version 0.4.3
"""
@title SessionInbox
@license Apache-2.0
@notice Questions asked on chain: sealed to a router, answered sealed to the asker, paid for when the lane is proved.
@dev A question names the commitment of its prompt, and a proof shows an order of that prompt, so no lane of anybody
     else's earns its fee. Fees are in the chain's own coin, in its smallest parts. What is sealed is in events only.
"""

import headers
import signing
import trees

initializes: signing


interface Checkpoints:
    def usable(digest: bytes32) -> bool: view


event Served:
    router: indexed(address)
    key: bytes32
    fee_min: uint256


event Asked:
    number: indexed(uint256)
    asker: indexed(address)
    router: indexed(address)
    prompt: bytes32
    model: bytes32
    reply_key: bytes32
    deadline: uint256
    fee: uint256
    sealed: Bytes[SEALED_QUESTION_MAX]


event Answered:
    number: indexed(uint256)
    router: indexed(address)
    session: indexed(bytes32)
    task: uint32
    lane: uint8
    sealed: Bytes[SEALED_ANSWER_MAX]


event Proved:
    number: indexed(uint256)
    router: indexed(address)
    fee: uint256
    root: bytes32


event Reclaimed:
    number: indexed(uint256)
    asker: indexed(address)
    fee: uint256


flag State:
    ASKED
    ANSWERED
    PROVED
    RECLAIMED


struct Service:
    key: bytes32
    fee_min: uint256


struct Question:
    asker: address
    router: address
    state: State
    deadline: uint256
    fee: uint256
    prompt: bytes32
    model: bytes32
    session: bytes32
    task: uint32
    lane: uint8


struct TaskOrder:
    session: bytes32
    task: uint32
    home_epoch: uint64
    prompt: bytes32
    sampling: bytes32
    seed: bytes32
    max_tokens: uint32
    cap_wei: uint64


struct LaneResult:
    order: bytes32
    prompt: bytes32
    model: bytes32
    segments: bytes32
    chain: bytes32
    count: uint64


SEALED_QUESTION_MAX: constant(uint256) = 8192
SEALED_ANSWER_MAX: constant(uint256) = 16384
DEADLINE_MAX_S: constant(uint256) = 30 * 86400
VERDICT_OK: constant(uint8) = 1

ORDER_TYPE: constant(bytes32) = keccak256(
    "TaskOrder(bytes32 session,uint32 task,uint64 home_epoch,bytes32 prompt,bytes32 sampling,bytes32 seed,uint32 max_tokens,uint64 cap_wei)"
)
RESULT_TYPE: constant(bytes32) = keccak256(
    "LaneResult(bytes32 order,bytes32 prompt,bytes32 model,bytes32 segments,bytes32 chain,uint64 count)"
)

CHECKPOINTS: public(immutable(address))
PROVING_S: public(immutable(uint256))

services: public(HashMap[address, Service])
questions: public(HashMap[uint256, Question])
question_count: public(uint256)


@deploy
def __init__(network_id: bytes32, chain_id: uint256, checkpoints: address, proving_s: uint256):
    """
    @param proving_s For how long after its deadline an answered question can be proved: longer than it takes a lane
        to be decided, accepted, and usable.
    """
    signing.__init__(network_id, chain_id)
    assert checkpoints != empty(address), "checkpoints"
    assert proving_s > 0 and proving_s <= 2**32, "settings"
    CHECKPOINTS = checkpoints
    PROVING_S = proving_s


@external
def serve(key: bytes32, fee_min: uint256):
    """
    @notice A router says to which X25519 key questions are sealed, and what one costs at least.
    @dev Spec: [INBOX-ASK.2]
    @param key Zero: it takes no questions any more. What was asked stays asked.
    """
    self.services[msg.sender] = Service(key=key, fee_min=fee_min)
    log Served(router=msg.sender, key=key, fee_min=fee_min)


@external
@payable
def ask(
    router: address,
    prompt: bytes32,
    model: bytes32,
    reply_key: bytes32,
    deadline: uint256,
    sealed: Bytes[SEALED_QUESTION_MAX],
) -> uint256:
    """
    @notice Ask a router, and leave its fee.
    @dev Spec: [INBOX-ASK.1]
    @param prompt The prompt's commitment, as the order will name it. With a nonce of its own it tells nobody anything.
    @param model The digest of the model that is to answer; zero for any.
    @param reply_key The X25519 key that the answer is sealed to.
    @param deadline Until when it may be answered, in seconds of the epoch.
    @param sealed The prompt, or where it is found, for the router alone.
    @return The question's number, from 1.
    """
    service: Service = self.services[router]
    assert service.key != empty(bytes32), "no such router"
    assert msg.value >= service.fee_min, "fee"
    assert prompt != empty(bytes32), "prompt"
    assert reply_key != empty(bytes32), "reply key"
    assert len(sealed) > 0, "empty"
    assert deadline > block.timestamp and deadline <= block.timestamp + DEADLINE_MAX_S, "deadline"
    number: uint256 = self.question_count + 1
    self.question_count = number
    self.questions[number] = Question(
        asker=msg.sender,
        router=router,
        state=State.ASKED,
        deadline=deadline,
        fee=msg.value,
        prompt=prompt,
        model=model,
        session=empty(bytes32),
        task=0,
        lane=0,
    )
    log Asked(
        number=number,
        asker=msg.sender,
        router=router,
        prompt=prompt,
        model=model,
        reply_key=reply_key,
        deadline=deadline,
        fee=msg.value,
        sealed=sealed,
    )
    return number


@external
def answer(number: uint256, session: bytes32, task: uint32, lane: uint8, sealed: Bytes[SEALED_ANSWER_MAX]):
    """
    @notice The router's one answer, and which lane it is of.
    @dev Spec: [INBOX-ANSWER.1]
    """
    question: Question = self.questions[number]
    assert question.state == State.ASKED, "not open"
    assert msg.sender == question.router, "router"
    assert block.timestamp <= question.deadline, "late"
    assert len(sealed) > 0, "empty"
    self.questions[number].state = State.ANSWERED
    self.questions[number].session = session
    self.questions[number].task = task
    self.questions[number].lane = lane
    log Answered(number=number, router=msg.sender, session=session, task=task, lane=lane, sealed=sealed)


@external
@nonreentrant
def prove(
    number: uint256,
    header: headers.Header,
    outcome: trees.Outcome,
    proof: trees.ResultProof,
    order: TaskOrder,
    result: LaneResult,
):
    """
    @notice Show that a usable header's results hold the answer's lane, done as asked: the router is paid. By anybody.
    @dev Spec: [INBOX-PROVE.1]
    """
    question: Question = self.questions[number]
    assert question.state == State.ANSWERED, "not answered"
    self._check_lane(question, outcome, order, result)
    assert staticcall Checkpoints(CHECKPOINTS).usable(signing._digest(headers._hash(header))), "not usable"
    assert trees._results_hold(header.results_root, header.results_count, outcome, proof), "proof"
    self.questions[number].state = State.PROVED
    # The root is what the asker checks the text by that it was sent.
    log Proved(number=number, router=question.router, fee=question.fee, root=outcome.root)
    self._pay(question.router, question.fee)


@internal
@view
def _check_lane(
    question: Question, outcome: trees.Outcome, order: TaskOrder, result: LaneResult
):
    """
    @notice Reverts unless an outcome is that of the answer's lane, which did what the question asks.
    """
    assert outcome.verdict == VERDICT_OK, "verdict"
    assert outcome.session == question.session and outcome.task == question.task, "lane"
    assert outcome.lane == question.lane, "lane"
    assert order.session == question.session and order.task == question.task, "order"
    assert order.prompt == question.prompt, "prompt"
    assert result.order == signing._digest(keccak256(abi_encode(ORDER_TYPE, order))), "order"
    assert outcome.root == signing._digest(keccak256(abi_encode(RESULT_TYPE, result))), "result"
    assert question.model == empty(bytes32) or result.model == question.model, "model"


@external
@nonreentrant
def reclaim(number: uint256):
    """
    @notice Give a question's fee back to its asker, if nobody answered in time, or proved the answer in time.
    @dev Spec: [INBOX-RECLAIM.1]
    """
    question: Question = self.questions[number]
    until: uint256 = question.deadline
    if question.state == State.ANSWERED:
        until += PROVING_S
    else:
        assert question.state == State.ASKED, "not open"
    assert block.timestamp > until, "too soon"
    self.questions[number].state = State.RECLAIMED
    log Reclaimed(number=number, asker=question.asker, fee=question.fee)
    self._pay(question.asker, question.fee)


@internal
def _pay(to: address, fee: uint256):
    if fee > 0:
        assert raw_call(to, b"", value=fee, revert_on_failure=False), "payee"

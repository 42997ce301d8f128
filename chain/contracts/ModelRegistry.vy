# pragma version 0.4.3
"""
@title ModelRegistry
@license Apache-2.0
@notice The heads of the ledger's model logs, as usable headers prove them: a name's owner, its model, its aliases.
@dev The log itself is the data and stays in the ledger. A record is that of `protocol/ledger/names.py`: four words, and
     three for each alias.
"""

import headers
import signing
import trees

initializes: signing


interface Checkpoints:
    def usable(digest: bytes32) -> bool: view


event Proved:
    key: indexed(bytes32)
    owner: indexed(address)
    number: uint256
    head: bytes32
    model: bytes32
    name: String[NAME_MAX]


struct Head:
    owner: address
    number: uint256
    head: bytes32
    model: bytes32


struct Alias:
    number: uint256
    model: bytes32


NAMES: constant(uint256) = 3  # The section of the ledger that holds names.
NAME_MAX: constant(uint256) = 64
ALIASES_MAX: constant(uint256) = 8
RECORD_MAX: constant(uint256) = 32 * (4 + 3 * ALIASES_MAX)

CHECKPOINTS: public(immutable(address))

_heads: HashMap[bytes32, Head]
_aliases: HashMap[bytes32, HashMap[bytes32, Alias]]


@deploy
def __init__(network_id: bytes32, chain_id: uint256, checkpoints: address):
    signing.__init__(network_id, chain_id)
    assert checkpoints != empty(address), "checkpoints"
    CHECKPOINTS = checkpoints


@external
def prove(
    name: String[NAME_MAX],
    record: Bytes[RECORD_MAX],
    header: headers.Header,
    siblings: DynArray[bytes32, trees.SIBLINGS_MAX],
    sections: DynArray[bytes32, trees.SECTIONS_MAX],
):
    """
    @notice Take a name's record from a usable header's ledger. Anybody may bring it; a log only goes forward.
    @dev Spec: [MODELS-HEAD.1] [MODELS-HEAD.2]
    """
    assert staticcall Checkpoints(CHECKPOINTS).usable(signing._digest(headers._hash(header))), "not usable"
    key: bytes32 = keccak256(name)
    assert trees._ledger_holds(header.ledger_root, NAMES, key, keccak256(record), siblings, sections), "proof"
    assert len(record) >= 128 and (len(record) - 128) % 96 == 0, "record"
    owner: uint256 = extract32(record, 0, output_type=uint256)
    assert owner <= convert(max_value(uint160), uint256), "record"
    head: Head = Head(
        owner=convert(owner, address),
        number=extract32(record, 32, output_type=uint256),
        head=extract32(record, 64, output_type=bytes32),
        model=extract32(record, 96, output_type=bytes32),
    )
    assert head.number > self._heads[key].number, "old"
    self._heads[key] = head
    for place: uint256 in range((len(record) - 128) // 96, bound=ALIASES_MAX):
        at: uint256 = 128 + 96 * place
        called: bytes32 = extract32(record, at, output_type=bytes32)
        self._aliases[key][called] = Alias(
            number=extract32(record, at + 32, output_type=uint256),
            model=extract32(record, at + 64, output_type=bytes32),
        )
    log Proved(key=key, owner=head.owner, number=head.number, head=head.head, model=head.model, name=name)


@external
@view
def head(name: String[NAME_MAX]) -> Head:
    """
    @notice Owner, number and digest of the last entry that was proved, and its model; zeros where none was.
    """
    return self._heads[keccak256(name)]


@external
@view
def alias(name: String[NAME_MAX], alias: bytes32) -> Alias:
    """
    @notice The model that an alias of a name stands for, and the number of the entry that said so; zeros if none did.
    @param alias Its bytes, with zeros behind.
    """
    return self._aliases[keccak256(name)][alias]

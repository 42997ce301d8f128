"""Which token comes next: a pure function of logits, parameters, lane seed and position.

Sampling is by the Gumbel trick: every candidate's logit gets noise that depends on nothing but (lane seed,
position, token id), and the largest sum wins. Whoever takes a lane over continues it with the same noise; a lane
copied into another shows the wrong noise; and an auditor who knows the seed can say of every claimed token how far
it lies from what the noise would have chosen.

The exact arithmetic (vectors: ``tests/vectors/noise.json``):

1. ``lane_seed = sha256("p2pnode/lane-seed/1" || task_seed || u32(choice) || u32(lane))``
2. ``key = u64(sha256("p2pnode/position-key/1" || lane_seed || u64(position))[:8])``; integers are big-endian, and
   position is the token's index in the answer, from 0.
3. ``z = key + (token + 1) * 0x9E3779B97F4A7C15``, then splitmix64's finaliser, all modulo 2^64:
   ``z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9``, ``z = (z ^ z >> 27) * 0x94D049BB133111EB``, ``z = z ^ z >> 31``.
4. ``u = ((z >> 12) + 1/2) / 2^52``, which a double holds exactly, and ``noise = -log(-log(u))`` in doubles.
5. Logits, float32, take the penalties (computed in doubles, rounded to float32) of the last ``penalty_window``
   tokens. Where a schema is asked for, only tokens that its grammar permits count from here on. Then ``top_k`` keeps
   the k largest, lower ids first on ties; ``top_p`` and ``min_p`` look at the softmax of ``logit / temperature`` over
   those: ``top_p`` keeps a token if those before it sum to less than ``top_p``, ``min_p`` if it has at least
   ``min_p`` times the probability of the first.
6. The largest ``logit / temperature + noise`` wins, the lowest id on ties; at temperature 0 the largest logit.

Spec: [NOISE-KEY.1] [NOISE-MIX.1] [SAMPLE-ORDER.1] [SAMPLE-MASK.1]
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from protocol.core.errors import ParameterError
from protocol.messages.sampling import SamplingParams

TOP_K_MAX = 1_024
NO_TOKEN = -1
"""What is drawn where no token is permitted."""
FIRST_ASKED = 4
"""Times as many tokens as can be drawn are asked for first: of a text's letters nearly all are permitted."""
EDGE_BAND = 0.2
"""Logits. A token this close above the edge of the checker's candidate set does not compete: the miner, whose
logits differ a little, may have left it out. At 0.05 honest margins at the edge reached 2 logits on a model with a
large vocabulary, at 0.2 they stayed at 0.2, and the share of wrong tokens that show was the same."""
EDGE_SLACK = 0.5
"""Logits. A claimed token may lie this far below the edge of the checker's candidate set."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]
Permits = Callable[[TokenIds], NDArray[np.bool_]]
"""Of some token ids, ascending: which a schema's grammar permits as the next token."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row of logits is drawn under."""

    params: SamplingParams
    lane_seed: bytes
    position: int
    """The index in the answer of the token to draw, from 0."""
    recent: Sequence[int] | NDArray[np.int32] = ()
    """The tokens before it, prompt included; at least the last ``penalty_window`` where there are that many."""
    permits: Permits | None = None
    """None: every token."""


def lane_seed(task_seed: bytes, choice: int, lane: int) -> bytes:
    """The 32 bytes that fix a lane's noise. ``task_seed``: 32 bytes, chosen after the request by nobody who gains."""
    if len(task_seed) != 32:
        raise ParameterError(f"a task seed has 32 bytes, this one has {len(task_seed)}")
    return hashlib.sha256(
        b"p2pnode/lane-seed/1" + task_seed + choice.to_bytes(4, "big") + lane.to_bytes(4, "big")
    ).digest()


def position_key(lane_seed: bytes, position: int) -> int:
    """The 64-bit key of all noise at one position of an answer."""
    digest = hashlib.sha256(b"p2pnode/position-key/1" + lane_seed + position.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:8], "big")


def gumbel_noise(key: int, token_ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """The noise of some tokens under one key, or, with a column of keys, under one key per row."""
    return _noise(np.uint64(key), token_ids)


def _noise(keys: NDArray[np.uint64] | np.uint64, token_ids: NDArray[np.integer]) -> NDArray[np.float64]:
    z = token_ids.astype(np.uint64)
    z += np.uint64(1)
    z *= _GOLDEN
    z += keys
    z ^= z >> np.uint64(30)
    z *= _MIX_1
    z ^= z >> np.uint64(27)
    z *= _MIX_2
    z ^= z >> np.uint64(31)
    uniform = ((z >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(uniform))


def choose(logits: Logits, params: SamplingParams, lane_seed: bytes, position: int, recent: Sequence[int] = ()) -> int:
    """The token at ``position``. ``logits``: float32[vocab], left as they are."""
    return choose_many(logits[np.newaxis], [Draw(params, lane_seed, position, recent)])[0]


def choose_many(logits: Logits, draws: Sequence[Draw]) -> list[int]:
    """One token per row, ``NO_TOKEN`` where none is permitted. ``logits``: float32[rows, vocab], left as they are. A
    row's token does not depend on the other rows; together they cost far less than one by one."""
    logits = _permitted(_penalised(logits, draws), draws)
    open_rows = [draw.permits is None or logits[row].max() > -np.inf for row, draw in enumerate(draws)]
    greedy = [row for row, draw in enumerate(draws) if draw.params.temperature_bp == 0 and open_rows[row]]
    random = [row for row, draw in enumerate(draws) if draw.params.temperature_bp != 0 and open_rows[row]]
    chosen = [NO_TOKEN] * len(draws)
    if greedy:
        # argmax takes the first of equals, which is the lowest id.
        best = (logits if len(greedy) == len(draws) else logits[greedy]).argmax(axis=1)
        for row, token in zip(greedy, best.tolist(), strict=True):
            chosen[row] = token
    if random:
        drawn = _draw_random(logits if len(random) == len(draws) else logits[random], [draws[row] for row in random])
        for row, token in zip(random, drawn, strict=True):
            chosen[row] = token
    return chosen


def _draw_random(logits: Logits, draws: Sequence[Draw]) -> list[int]:
    ids, values = _candidates(logits, [draw.params for draw in draws])
    keys = np.array([position_key(draw.lane_seed, draw.position) for draw in draws], dtype=np.uint64)
    temperature = np.array([draw.params.temperature_bp / 10_000 for draw in draws])
    # What is no candidate has the value -inf; ids ascend in each row, so argmax breaks ties by the lowest id.
    score = values / temperature[:, np.newaxis] + _noise(keys[:, np.newaxis], ids)
    winners = score.argmax(axis=1)
    tokens: list[int] = ids[np.arange(len(draws)), winners].tolist()
    return tokens


def candidates(logits: Logits, params: SamplingParams, recent: Sequence[int] = ()) -> list[int]:
    """The ids, ascending, of all tokens that can be drawn from float32[vocab]."""
    rows = _penalised(logits[np.newaxis], [Draw(params, b"", 0, recent)])
    if params.temperature_bp == 0:
        return [int(rows[0].argmax())]
    ids, values = _candidates(rows, [params])
    kept: list[int] = ids[0][values[0] > -np.inf].tolist()
    return kept


def _penalised(logits: Logits, draws: Sequence[Draw]) -> Logits:
    """The same array where nothing is penalised, else a copy."""
    result = logits
    for row, draw in enumerate(draws):
        params = draw.params
        penalises = params.repetition_penalty_bp != 10_000 or params.presence_penalty_bp or params.frequency_penalty_bp
        if not penalises or not params.penalty_window or not len(draw.recent):
            continue
        if result is logits:
            result = logits.copy()
        seen, count = np.unique(np.asarray(draw.recent[-params.penalty_window :]), return_counts=True)
        value = result[row, seen].astype(np.float64)
        factor = params.repetition_penalty_bp / 10_000
        value = np.where(value > 0, value / factor, value * factor)
        value -= params.presence_penalty_bp / 10_000 + count * (params.frequency_penalty_bp / 10_000)
        result[row, seen] = value.astype(np.float32)
    return result


def _permitted(logits: Logits, draws: Sequence[Draw], claimed: int | None = None) -> Logits:
    """The same array where all tokens are permitted, else a copy in which a row's other tokens have the logit -inf.

    The likeliest are asked for first. Where as many of them are permitted as can be drawn, the rest are not looked at
    but left out, ``claimed`` excepted: so the result is the same for all that can be drawn, and most often cheap.

    Spec: [SAMPLE-MASK.1]
    """
    result = logits
    for row, draw in enumerate(draws):
        if draw.permits is None:
            continue
        if result is logits:
            result = logits.copy()
        values, params = logits[row], draw.params
        wanted = 1 if params.temperature_bp == 0 else min(params.top_k or TOP_K_MAX, len(values))
        asked = min(FIRST_ASKED * wanted, len(values))
        edge = np.partition(values, len(values) - asked)[len(values) - asked]
        likely = values >= edge
        if claimed is not None:
            likely[claimed] = True
        permitted = _ask(draw.permits, likely)
        if np.count_nonzero(permitted & (values >= edge)) < wanted:
            permitted |= _ask(draw.permits, ~likely)
        result[row, ~permitted] = -np.inf
    return result


def _ask(permits: Permits, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    ids = np.flatnonzero(which)
    answer = np.zeros(len(which), dtype=np.bool_)
    if len(ids):
        answer[ids] = permits(ids)
    return answer


def _candidates(logits: Logits, params: Sequence[SamplingParams]) -> tuple[TokenIds, NDArray[np.float64]]:
    """Ids (ascending) and logits of each row's candidates: [rows, width], anything else at -inf."""
    vocab = logits.shape[1]
    limits = np.array([min(p.top_k or TOP_K_MAX, vocab) for p in params])
    ids, values = _survivors(logits, int(limits.max()))
    if ids.shape[1] > limits.min():
        _keep_top_k(values, limits)
    if any(p.top_p_bp < 10_000 or p.min_p_bp > 0 for p in params):
        _keep_probable(values, params)
    return ids, values


def _survivors(logits: Logits, k: int) -> tuple[TokenIds, NDArray[np.float64]]:
    """A superset of each row's k largest, as [rows, width] with ids ascending and -inf for padding. Each row has one
    that is permitted."""
    rows, vocab = logits.shape
    if k >= vocab:
        return np.broadcast_to(np.arange(vocab), logits.shape), logits.astype(np.float64)
    # What is not permitted is no survivor, even where fewer than k are.
    flat = np.flatnonzero(logits >= np.maximum(_lower_bound(logits, k), np.finfo(np.float32).min))
    row_of = flat // vocab
    ids = flat - row_of * vocab
    per_row = np.bincount(row_of, minlength=rows)
    width = int(per_row.max())
    if int(per_row.min()) == width:
        return ids.reshape(rows, width), logits[row_of, ids].astype(np.float64).reshape(rows, width)
    column = np.arange(len(ids)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    padded_ids = np.zeros((rows, width), dtype=np.int64)
    padded_values = np.full((rows, width), -np.inf)
    padded_ids[row_of, column] = ids
    padded_values[row_of, column] = logits[row_of, ids]
    return padded_ids, padded_values


def _lower_bound(logits: Logits, k: int) -> Logits:
    """No more than each row's k-th largest logit, as a column: of a large vocabulary the k-th largest maximum of
    4 k to 8 k blocks, which is nearly as tight and needs no partition of the whole. Block b holds the ids b,
    b + blocks, b + 2 * blocks, …: so the maxima are taken along memory. A rest shorter than that is left out."""
    rows, vocab = logits.shape
    blocks = 1 << (4 * k - 1).bit_length()
    if vocab >= 2 * blocks:
        whole = vocab - vocab % blocks
        logits = logits[:, :whole].reshape(rows, whole // blocks, blocks).max(axis=1)
    edge = logits.shape[1] - k
    return np.partition(logits, edge, axis=1)[:, edge : edge + 1]


def _keep_top_k(values: NDArray[np.float64], limits: NDArray[np.int64]) -> None:
    """Set to -inf what is not among the first ``limits[row]`` by (value, largest first; column)."""
    ordered = np.sort(values, axis=1)
    limits = np.minimum(limits, values.shape[1])
    edge = np.take_along_axis(ordered, (values.shape[1] - limits)[:, np.newaxis], axis=1)
    above, level = values > edge, values == edge
    room = limits[:, np.newaxis] - above.sum(axis=1, keepdims=True)
    values[~(above | (level & (np.cumsum(level, axis=1) <= room)))] = -np.inf


def _keep_probable(values: NDArray[np.float64], params: Sequence[SamplingParams]) -> None:
    """Set to -inf what ``top_p`` or ``min_p`` leaves out of each row."""
    order = np.argsort(-values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    temperature = np.array([p.temperature_bp / 10_000 for p in params])[:, np.newaxis]
    top_p = np.array([p.top_p_bp / 10_000 for p in params])[:, np.newaxis]
    min_p = np.array([p.min_p_bp / 10_000 for p in params])[:, np.newaxis]
    weight = np.exp((ordered - ordered[:, :1]) / temperature)
    # A running sum, not numpy's pairwise one: its order, so its rounding, does not depend on the padding.
    running = np.cumsum(weight, axis=1)
    before = running - weight
    kept = (weight >= min_p) & ((before < top_p * running[:, -1:]) | (top_p >= 1.0))
    ordered[~kept] = -np.inf
    np.put_along_axis(values, order, ordered, axis=1)


def margin(logits: Logits, draw: Draw, token: int) -> float:
    """By how much, in logits, ``token`` misses being the one drawn from float32[vocab]: 0 where it is.

    Allows for a miner whose logits differ a little. Each token has a *shortfall*: the logits it would have to gain
    to enter the candidate set, negative inside. Only candidates that are inside by ``EDGE_BAND`` compete with the
    claimed token; its own shortfall counts as margin up to ``EDGE_SLACK``, and as ``inf`` beyond.

    Spec: [SCORE-MARGIN.1]
    """
    params = draw.params
    row = _permitted(_penalised(logits[np.newaxis], [draw]), [draw], claimed=token)
    claimed = float(row[0, token])
    if claimed == -np.inf:
        return float("inf")
    if params.temperature_bp == 0:
        return float(row[0].max()) - claimed
    unlimited = structs.replace(params, top_p_bp=10_000, min_p_bp=0)
    ids, values = (array[0] for array in _candidates(row, [unlimited]))
    kept = values > -np.inf
    ids, values = ids[kept], values[kept]
    # Where fewer are permitted than top-k would keep, it keeps nobody out.
    cut = len(ids) < row.shape[1] and len(ids) >= min(params.top_k or TOP_K_MAX, row.shape[1])
    edge = float(values.min()) if cut else -np.inf
    if token not in ids:
        ids, values = np.append(ids, token), np.append(values, claimed)
    shortfall = _shortfalls(values, edge, params)
    temperature = params.temperature_bp / 10_000
    worth = values + temperature * _noise(np.uint64(position_key(draw.lane_seed, draw.position)), ids)
    own = int(np.flatnonzero(ids == token)[0])
    if shortfall[own] > EDGE_SLACK:
        return float("inf")
    competes = shortfall <= -EDGE_BAND
    best = float(worth[competes].max()) if competes.any() else -np.inf
    outside = float(shortfall[own]) if not _is_drawable(values, own, edge, params) else 0.0
    return max(best - float(worth[own]), outside, 0.0)


def _is_drawable(values: NDArray[np.float64], own: int, edge: float, params: SamplingParams) -> bool:
    """Whether the token itself passes top_p and min_p among the top-k; by the sampler's own arithmetic."""
    if values[own] < edge:
        return False
    inside = np.where(values >= edge, values, -np.inf)[np.newaxis]
    _keep_probable(inside, [params])
    return bool(inside[0, own] > -np.inf)


def _shortfalls(values: NDArray[np.float64], edge: float, params: SamplingParams) -> NDArray[np.float64]:
    """How many logits each token would have to gain to enter the candidate set.

    For top_p: raising a token by d logits divides the odds of what lies before it by exp(d / temperature).
    """
    temperature = params.temperature_bp / 10_000
    gap = edge - values
    if params.min_p_bp > 0:
        gap = np.maximum(gap, values.max() + temperature * np.log(params.min_p_bp / 10_000) - values)
    if params.top_p_bp < 10_000:
        order = np.argsort(-values, kind="stable")
        weight = np.exp((values[order] - values[order[0]]) / temperature)
        running = np.cumsum(weight)
        share = np.minimum((running - weight) / running[-1], 1.0)
        target = params.top_p_bp / 10_000
        with np.errstate(divide="ignore"):
            odds = np.log(share) - np.log1p(-share) - (np.log(target) - np.log1p(-target))
        in_order = temperature * odds
        gap[order] = np.maximum(gap[order], in_order)
    return gap

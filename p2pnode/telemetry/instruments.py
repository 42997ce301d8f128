"""All that one process is watched with: a tap for each of its machines, and whoever takes the spans that come of it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from p2pnode.sections import TelemetrySection
from p2pnode.telemetry.client_work import ClientWork
from p2pnode.telemetry.log_record import fields
from p2pnode.telemetry.span import Attribute, Sink, Span
from p2pnode.telemetry.tap import Counts, Tap, Work
from p2pnode.telemetry.teller import Teller
from protocol.core.ids import NOBODY, NodeId
from protocol.core.machine import Machine
from protocol.core.signing import Domain

log = logging.getLogger("p2pnode.task")

LOGGED = frozenset(("http", "relay", "task"))
"""Spans that an operator reads of; the others only where everything is logged."""


class Driven(Protocol):
    """A driver, as far as it is counted."""

    @property
    def streams(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class Instruments:
    """See the module. ``prompts``: prompts and answers are logged, too."""

    def __init__(
        self,
        node: NodeId = NOBODY,
        domain: Domain | None = None,
        *,
        prompts: bool = False,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.node = node
        self.counts = Counts()
        self.drivers: dict[str, Driven] = {}
        """By role."""
        self.sinks: list[Sink] = [log_span]
        self.now_ns = now_ns
        self._domain = domain
        self._prompts = prompts

    def take(self, span: Span) -> None:
        """A span is over. What fails in here, whoever told of it does not notice."""
        for sink in self.sinks:
            try:
                sink(span)
            except Exception:
                self.counts.bug()

    def client(self, under: str = "") -> Tap:
        """For a client's machine. ``under``: the role of this process that its orders come from."""
        return self._tap("client", lambda teller: ClientWork(teller, under))

    def client_of(self, node: NodeId, under: str = "") -> Tap:
        """The same where the node id is not known before the client's key is."""
        self.node = node
        return self.client(under)

    def of(self, machine: Machine) -> Tap:
        """For a machine of a node."""
        role = role_of(machine)
        match role:
            case "router":
                from p2pnode.telemetry.router_work import RouterWork

                domain = self._domain
                assert domain is not None, "only a light client knows its network later than itself"
                return self._tap(role, lambda teller: RouterWork(teller, domain))
            case "miner":
                from p2pnode.telemetry.miner_work import MinerWork

                return self._tap(role, MinerWork)
            case "oracle":
                from p2pnode.telemetry.oracle_work import OracleWork

                return self._tap(role, OracleWork)
        return Tap(role, self.counts)

    def drives(self, machine: Machine, driver: Driven) -> None:
        """What runs a machine, by which its streams are counted."""
        self.drivers[role_of(machine)] = driver

    def _tap(self, role: str, make: Callable[[Teller], Work]) -> Tap:
        works = [make(Teller(role, self.node, self.now_ns, self.take))]
        if self._prompts:
            from p2pnode.telemetry.prompts import PromptLog

            works.append(PromptLog(role))
        return Tap(role, self.counts, works)


def role_of(machine: Machine) -> str:
    """What a machine's figures go by: ``router``, ``miner``, ``oracle``, ``peer`` and so on."""
    name = type(machine).__name__.removesuffix("Machine").lower()
    return "light" if name == "lightserver" else name


def log_span(span: Span) -> None:
    """One line for what is over, without a word of its text."""
    level = logging.INFO if span.name in LOGGED or span.code else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    told: dict[str, Attribute] = {"role": span.role, "session": span.session.hex(), "task": span.task}
    took: dict[str, Attribute] = {"took_ms": (span.end_ns - span.start_ns) // 1_000_000, "code": span.code or "ok"}
    trace: dict[str, Attribute] = {"trace_id": span.trace_id.hex()} if span.session else {}
    log.log(level, "%s.over", span.name, extra=fields({**told, **took, **span.attributes, **trace}))


@contextmanager
def open_instruments(
    section: TelemetrySection, name: str, roles: Sequence[str], node: NodeId = NOBODY, domain: Domain | None = None
) -> Iterator[Instruments]:
    """As the configuration has it; a light client learns its node id and its network later. Raises SpanFileError,
    OtlpError."""
    instruments = Instruments(node, domain, prompts=section.log_prompts)
    with ExitStack() as stack:
        if section.spans_file is not None:
            from p2pnode.telemetry.span_file import SpanFile

            file = SpanFile(section.spans_file)
            stack.callback(file.close)
            instruments.sinks.append(file.take)
        if section.otlp:
            from p2pnode.telemetry.otlp import OtlpSpans

            service = {"service.name": "p2pnode", "p2pnode.name": name, "p2pnode.roles": ",".join(roles)}
            known = {"service.instance.id": "0x" + node.hex()} if node != NOBODY else {}
            spans = OtlpSpans(section.otlp, {**service, **known})
            stack.callback(spans.close)
            instruments.sinks.append(spans.take)
        yield instruments

"""The light client: opens sessions, signs orders, verifies every frame, and shows nothing that is not signed."""

from protocol.roles.client.events import (
    AskTask,
    CancelAsk,
    CloseAsked,
    ConnectRouter,
    Deliver,
    Item,
    LaneReported,
    OpenAsked,
    RouterFound,
    RouterGone,
    RouterReady,
    RouterSought,
    SessionAssigned,
    SessionOver,
    TaskHead,
    TaskOver,
    TaskText,
)
from protocol.roles.client.machine import ClientMachine

__all__ = [
    "AskTask",
    "CancelAsk",
    "ClientMachine",
    "CloseAsked",
    "ConnectRouter",
    "Deliver",
    "Item",
    "LaneReported",
    "OpenAsked",
    "RouterFound",
    "RouterGone",
    "RouterReady",
    "RouterSought",
    "SessionAssigned",
    "SessionOver",
    "TaskHead",
    "TaskOver",
    "TaskText",
]

"""Names and values beside a log line's text, for whoever reads logs by machine."""

from collections.abc import Mapping
from typing import Any

FIELDS = "p2pnode_fields"


def fields(values: Mapping[str, str | int | bool]) -> dict[str, Any]:
    """What a call of a logger is given as ``extra``."""
    return {FIELDS: values}

"""Where a node keeps things when nobody says otherwise."""

from collections.abc import Mapping
from pathlib import Path


def home(env: Mapping[str, str]) -> Path:
    """The folder of all that p2pnode stores: ``$P2PNODE_HOME``, else by XDG, else ``~/.local/share/p2pnode``."""
    if env.get("P2PNODE_HOME"):
        return Path(env["P2PNODE_HOME"]).expanduser().absolute()
    data = env.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative path is invalid and to be ignored.
    root = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return root / "p2pnode"

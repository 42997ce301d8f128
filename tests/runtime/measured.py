"""What a command takes: ``python -m tests.runtime.measured FILE chat …``, in the place of ``p2pnode``.

It leaves in FILE, as JSON, the most memory that the process ever had (on Linux; what its parent had does not count),
and the modules that it loaded.
"""

import json
import sys
from pathlib import Path

from p2pnode.cli import entry

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024


if __name__ == "__main__":
    code = entry.main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps({"peak_bytes": peak_bytes(), "modules": sorted(sys.modules)}))
    sys.exit(code)

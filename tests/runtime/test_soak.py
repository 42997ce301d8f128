"""The short form of ``python -m tests.bench soak``: mixed load over HTTP while miners are killed and come back."""

from pathlib import Path

import pytest

from tests.bench.soak_load import Ending
from tests.bench.soak_run import SoakPlan, soak


@pytest.mark.spec("TASK-TERMINAL.1")
async def test_every_request_has_one_end_while_miners_die(tmp_path: Path) -> None:
    report = await soak(SoakPlan(tmp_path, seconds=15, kill_every_s=5, miners=2, oracles=0), print)
    assert report.kills
    assert report.count(Ending.BROKEN) == 0, report.broken
    assert report.endings["stream"][Ending.ANSWERED] > 0
    assert report.endings["stream"][Ending.FAILED] == 0, "another miner goes on with it"
    assert set(report.endings["nonsense"]) <= {Ending.REFUSED}

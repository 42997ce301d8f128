"""Commits before they are closed: whose lane each is for, and which one counts."""

from protocol.core.errors import RemoteProtocolError
from protocol.core.signing import Domain
from protocol.messages.evidence import ConflictingCommits
from protocol.messages.results import CommitMessage, SignedCommit
from protocol.results.bare_commits import BareCommits
from protocol.results.commitment import check_commit
from protocol.results.findings import Contradicted, Finding
from protocol.results.judging import place_of
from protocol.results.open_lanes import OpenLanes, OpenTask
from protocol.results.papers import Task, assigned, names


class Claims:
    """Of papers the highest assignment counts. Of one miner and generation the first commit counts, of two the one by
    the higher assignment. Spec: [COMMIT-FIRST.1]"""

    def __init__(self, domain: Domain, lanes: OpenLanes, bare: BareCommits) -> None:
        self._domain = domain
        self._open = lanes
        self._bare = bare

    def take(self, name: Task, task: OpenTask, message: CommitMessage) -> list[Finding]:
        """A commit and its papers, both of which hold. Those that came without papers came before it."""
        assignment = message.papers.assignment
        if task.papers is None or assignment.number > task.papers.assignment.number:
            task.papers = message.papers
            for lane in assigned(assignment):
                self._open.lane(name, lane)
        return [*self.adopt(name, task), *self._claim(name, task, message.signed, assignment.number)]

    def adopt(self, name: Task, task: OpenTask) -> list[Finding]:
        """Take up the commits without papers that are of those whom the papers name. Spec: [COMMIT-BARE.1]"""
        assert task.papers is not None, "there are papers"
        assignment = task.papers.assignment
        found: list[Finding] = []
        for signed in self._bare.of(name):
            if names(assignment, signed.commit) and self._is_signed(signed):
                found += self._claim(name, task, signed, assignment.number)
        return found

    def contradiction(self, first: SignedCommit, second: SignedCommit) -> list[Finding]:
        """What two commits of one place show, if they are two and their miner signed both."""
        if first.commit == second.commit or place_of(first.commit) != place_of(second.commit):
            return []
        if not (self._is_signed(first) and self._is_signed(second)):
            return []
        return [Contradicted(ConflictingCommits(first, second))]

    def _claim(self, name: Task, task: OpenTask, signed: SignedCommit, number: int) -> list[Finding]:
        lane = self._open.lane(name, signed.commit.lane)
        if task.closed or lane.value is not None:
            return []
        if lane.commit is not None and place_of(lane.commit.commit) == place_of(signed.commit):
            lane.number = max(lane.number, number)
            return self.contradiction(lane.commit, signed)
        if lane.commit is None or number > lane.number:
            lane.commit, lane.number, lane.committed = signed, number, None
            lane.sources.clear()
        return []

    def _is_signed(self, signed: SignedCommit) -> bool:
        try:
            check_commit(self._domain, signed)
        except RemoteProtocolError:
            return False
        return True

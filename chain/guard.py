"""Runs a program that is to end with whoever started it, and says where it listens.

``python -m chain.guard PROGRAM ARGUMENT…``: the program ends when this process' standard input does. Of all it prints
only the place where it listens is passed on, as ``listening HOST:PORT``.
"""

import os
import re
import signal
import subprocess
import sys
import threading

_LISTENING = re.compile(rb"Listening on ([0-9.]+:[0-9]+)")
STOP_TIMEOUT_S = 5.0


def main() -> int:
    """Run it; returns its status."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # this one ends when the other has

    def stop(*_: object) -> None:
        # anvil keeps its state when it is interrupted. From npm it comes with a process around it, so all are told.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def watch() -> None:
        sys.stdin.buffer.read()
        stop()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, stop)
    said = False
    for line in process.stdout:
        found = None if said else _LISTENING.search(line)
        if found is not None:
            sys.stdout.write(f"listening {found[1].decode()}\n")
            sys.stdout.flush()
            said = True
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())

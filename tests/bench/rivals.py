"""Other routers: installed into environments of their own, started before the fake engine, stopped again.

What is pinned in requirements.txt is installed when it is first needed, from prebuilt wheels, one environment a rival
under the cache folder, so that none decides what another runs with. Whoever cannot be installed or started is reported
with the reason and left out; that is never an error of the bench.

Each runs as its own guide would have it on a small machine: one process or replica, logs and telemetry off, power of
two choices where there is a choice, health checks each second in the chaos bench's favour of them.
"""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from tests.bench.http_stream import StreamBroken, chat
from tests.bench.path_contestants import family, log_tail, signal_family

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STARTUP_S = 120.0
TRY_S = 10.0
POLL_S = 0.5
STOP_S = 5.0
REASON_MAX = 200


class RivalMissing(Exception):
    """A rival could not be installed or started; the message says why."""


@dataclass(frozen=True)
class Site:
    """Where one is to run."""

    bin: Path
    folder: Path
    engines: Sequence[str]
    port: int


def _litellm(site: Site) -> list[str]:
    config = site.folder / "litellm.yaml"
    models = "".join(
        f"  - model_name: fake\n    litellm_params: {{model: openai/fake, api_base: {url}/v1, api_key: none}}\n"
        for url in site.engines
    )
    # Without a key, as vllm-router is: every request would have to be authorised otherwise.
    config.write_text(
        f"model_list:\n{models}litellm_settings: {{request_timeout: 600, set_verbose: false}}\n"
        "general_settings: {dangerously_permit_weak_or_unset_master_key: true}\n"
    )
    options = ["--host", "127.0.0.1", "--port", str(site.port), "--num_workers", "1", "--telemetry", "False"]
    return [str(site.bin / "litellm"), "--config", str(config), *options]


def _ray_serve(site: Site) -> list[str]:
    script = Path(__file__).with_name("rival_ray.py")
    return [str(site.bin / "python"), str(script), site.engines[0], str(site.port), str(site.folder / "ray")]


def _worker_router(program: str, *verb: str) -> Callable[[Site], list[str]]:
    def command(site: Site) -> list[str]:
        policy = "power_of_two" if len(site.engines) > 1 else "round_robin"
        options = {
            "--host": "127.0.0.1", "--port": site.port, "--policy": policy, "--log-level": "error",
            "--prometheus-port": free_port(), "--health-check-interval-secs": 1, "--health-check-timeout-secs": 1,
            "--health-failure-threshold": 2, "--health-success-threshold": 1, "--worker-startup-check-interval": 1,
        }  # fmt: skip
        parts = [str(part) for option in options.items() for part in option]
        return [str(site.bin / program), *verb, "--worker-urls", *site.engines, *parts]

    return command


@dataclass(frozen=True)
class Rival:
    """How one is run."""

    package: str
    """Its name in requirements.txt."""
    command: Callable[[Site], list[str]]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of its environment, beyond those of all."""


RIVALS: Mapping[str, Rival] = {
    "LiteLLM proxy": Rival("litellm", _litellm),
    "Ray Serve": Rival("ray", _ray_serve),
    # What Ray's guide to high throughput sets: HAProxy in C takes the place of the proxy in Python.
    "Ray Serve, HAProxy": Rival(
        "ray", _ray_serve, {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    ),
    "sglang-router": Rival("sglang-router", _worker_router("sglang-router", "launch")),
    "vllm-router": Rival("vllm-router", _worker_router("vllm-router")),
}
SETTINGS = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 otherwise: unfair where cores are shared
    "NO_PROXY": "127.0.0.1",
}


def cache_folder() -> Path:
    """Where rivals are kept unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "p2pnode-bench"


def requirements() -> dict[str, str]:
    """By name without extras: what pip is told."""
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return {re.split(r"[\[=]", line)[0]: line for line in lines if line}


async def install(package: str, cache: Path) -> Path:
    """The folder of a package's programs; installed if it was not. Raises RivalMissing."""
    requirement = requirements()[package]
    mark = hashlib.sha256(f"{requirement} {sys.version}".encode()).hexdigest()[:8]
    folder = cache / f"{package}-{mark}"
    done = folder / "installed"
    if not done.exists():
        print(f"installing {requirement} into {folder} ...", file=sys.stderr, flush=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [*pip, "--quiet", "--only-binary", ":all:", requirement],
        ):
            found = await trio.run_process(command, capture_stderr=True, stdout=subprocess.DEVNULL, check=False)
            if found.returncode:
                raise RivalMissing(f"could not be installed: {_error_line(found.stderr)}")
        done.touch()
    return folder / "bin"


def _error_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["pip said nothing"])[-1][:REASON_MAX]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A rival that answers."""

    name: str
    port: int
    process: psutil.Process


@asynccontextmanager
async def open_rival(name: str, engines: Sequence[str], cache: Path, scratch: Path) -> AsyncIterator[Running]:
    """Install, start and, at the end, stop a rival before some engines' URLs. Raises RivalMissing."""
    rival = RIVALS[name]
    programs = await install(rival.package, cache)
    folder = scratch / str(list(RIVALS).index(name))  # short: Ray makes sockets below it
    folder.mkdir()
    site = Site(programs, folder, engines, free_port())
    log = folder / "log.txt"
    environment = {**os.environ, **SETTINGS, **rival.settings, "PATH": f"{programs}:{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            rival.command(site),
            stdin=subprocess.PIPE,
            stdout=output.fileno(),
            stderr=output.fileno(),
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        await _await_answer(process, site.port, log)
        yield Running(name, site.port, psutil.Process(process.pid))
    finally:
        with trio.CancelScope(shield=True):
            await _stop(process)


async def _await_answer(process: trio.Process, port: int, log: Path) -> None:
    """It has started when a whole answer comes through."""
    last = "it does not listen"
    with trio.move_on_after(STARTUP_S):
        while process.poll() is None:
            try:
                with trio.fail_after(TRY_S):
                    async for said in chat(port, "Are you there?", 2):
                        if said.done:
                            return
                last = "its answer ended early"
            except trio.TooSlowError:
                last = f"no whole answer within {TRY_S:g} s"
            except (OSError, StreamBroken) as error:
                last = str(error)
            await trio.sleep(POLL_S)
        raise RivalMissing(f"stopped with status {process.returncode}: {log_tail(log)[:REASON_MAX]}")
    raise RivalMissing(f"gave no answer within {STARTUP_S:g} s: {last}; its log: {log_tail(log)[:REASON_MAX]}")


async def _stop(process: trio.Process) -> None:
    """Politely, then whatever of its processes is left by force."""
    everyone = []
    if process.poll() is None:
        everyone = family([psutil.Process(process.pid)])
        signal_family(everyone, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await process.wait()
    for left in everyone:
        with suppress(psutil.NoSuchProcess):
            left.kill()
    await process.wait()


@asynccontextmanager
async def open_rivals(
    names: Sequence[str], engines: Sequence[str], cache: Path, scratch: Path
) -> AsyncIterator[tuple[list[Running], dict[str, str]]]:
    """All that can be had, and for each of the others why not."""
    running, missing = [], {}
    async with AsyncExitStack() as stack:
        for name in names:
            print(f"starting {name} ...", file=sys.stderr, flush=True)
            try:
                running.append(await stack.enter_async_context(open_rival(name, engines, cache, scratch)))
            except RivalMissing as reason:
                missing[name] = str(reason)
        yield running, missing

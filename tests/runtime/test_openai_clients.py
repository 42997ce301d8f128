"""The unmodified `openai` packages, in Python and JavaScript, against a testnet's router and against a gateway."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from p2pnode.models.store import shipped
from p2pnode.testnet import Testnet, TestnetPlan
from tests.retemplated import retemplated
from tests.runtime.openai_checks import CHECKS, MESSAGES, Asked
from tests.runtime.served import served

SURFACES = ("router", "gateway")
JAVASCRIPT = Path(__file__).parents[1] / "openai_js"
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    folder = tmp_path_factory.mktemp("openai")
    tiny = next(model.path for model in shipped() if model.manifest.name == "tiny")
    model = retemplated(tiny, folder / "tiny-with-tools.gguf")
    with served(TestnetPlan(folder / "net", miners=2, slots=4, model=str(model), http="127.0.0.1:0")) as up:
        yield up.net


@pytest.fixture(scope="module")
def urls(net: Testnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Where each surface is."""
    command = [sys.executable, "-m", "p2pnode.cli.entry", "gateway", "--router", net.address, "--json"]
    folder = str(tmp_path_factory.mktemp("home"))
    gateway = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        env={**os.environ, "P2PNODE_HOME": folder},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert gateway.stdout is not None
    try:
        url = json.loads(gateway.stdout.readline())["http"]["urls"][0]
        yield {"router": f"{net.http_urls[0]}/v1", "gateway": f"{url}/v1"}
    finally:
        gateway.terminate()
        gateway.wait(20)
        gateway.stdout.close()


@pytest.fixture(scope="module")
def asked(urls: Mapping[str, str]) -> Iterator[Mapping[str, Asked]]:
    """Each surface, by OpenAI's client in Python."""
    made = {surface: Asked(url) for surface, url in urls.items()}
    yield made
    for each in made.values():
        each.client.close()


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("check", CHECKS)
def test_python(asked: Mapping[str, Asked], check: str, surface: str) -> None:
    CHECKS[check](asked[surface])


@cache
def without_javascript() -> str:
    """What there is not of what the client in JavaScript needs here; empty where it can be run."""
    if shutil.which("node") is None:
        return "no Node here"
    installed = JAVASCRIPT / "node_modules" / "openai" / "package.json"
    wanted = json.loads((JAVASCRIPT / "package.json").read_text())["dependencies"]["openai"]
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        return f"openai {wanted} is not installed: npm install --prefix tests/openai_js"
    return ""


@pytest.mark.skipif(bool(without_javascript()), reason=without_javascript())
@pytest.mark.parametrize("surface", SURFACES)
def test_javascript(urls: Mapping[str, str], surface: str) -> None:
    command = ["node", str(JAVASCRIPT / "checks.js"), urls[surface]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["name"] for each in told] == list(CHECKS)
    assert [each for each in told if each["fault"]] == []


@pytest.mark.parametrize("surface", SURFACES)
def test_langchain(urls: Mapping[str, str], asked: Mapping[str, Asked], surface: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model=asked[surface].model, base_url=urls[surface], api_key="none", max_retries=0, max_tokens=16, seed=1
    )
    answer = model.invoke([("user", MESSAGES[0]["content"])])
    assert answer.content == asked[surface].said()
    assert answer.usage_metadata is not None
    assert "".join(str(chunk.content) for chunk in model.stream(MESSAGES[0]["content"])) == answer.content


def test_the_readme_has_the_table_of_what_is_checked() -> None:
    shown = README.read_text()
    for row in table().splitlines():
        assert row in shown, "python -m tests.runtime.test_openai_clients prints the table"


def table() -> str:
    """What the tests above show, for the README."""
    head = "| | Python, router | Python, gateway | JavaScript, router | JavaScript, gateway |\n|---|---|---|---|---|"
    return "\n".join([head, *(f"| {name} | yes | yes | yes | yes |" for name in CHECKS)])


if __name__ == "__main__":
    print(table())

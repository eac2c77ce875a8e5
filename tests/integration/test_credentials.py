"""A secret that is given to ECIF comes out nowhere: not in files, messages, answers or tracebacks.

The keys are recognisable strings; moto accepts any. Every command is run undisturbed and into errors: refusals, cut
connections, options that no library knows, a bug. Then everything it left is searched.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from bench.matrix import World, on_server
from bench.places import Server
from bench.trial import Ended, Nursery
from tests.integration.faultproxy import Cut, Proxy, Rule, Status, proxied

pytestmark = [pytest.mark.integration, pytest.mark.smoke]

SECRET = "SECRETSECRETSECRETSECRET/+=given"
FROM_ENVIRONMENT = "SECRETSECRETSECRETSECRET/+=environment"
TOKEN = "SECRETTOKENSECRETTOKEN"
# As they are, as a URL or a signed request would hold them, as a header would.
WORDS = (SECRET, FROM_ENVIRONMENT, TOKEN, "SECRETSECRETSECRET")
TRACES = [
    form for word in WORDS for form in (word, quote(word, safe=""), base64.b64encode(word.encode()).decode()[:-4])
]
COMMANDS = ("lint", "inventory", "fit", "score", "plan", "apply", "verify", "export", "doctor")
FAULTS = (Status(403, "AccessDenied"), Status(500, "InternalError"), Cut(5))


@pytest.fixture
def proxy(moto: Server) -> Iterator[Proxy]:
    with proxied(moto.endpoint) as proxy:
        yield proxy


@pytest.fixture
def world(moto: Server, proxy: Proxy, nursery: Nursery, model: tuple[Path, Path]) -> World:
    return on_server(model, nursery, moto, f"secrets-{uuid.uuid4().hex[:8]}", 0, proxy.url)


def _run(world: World, name: str, endpoint: str, given: str, **more: object) -> Ended:
    """One command, with the secret on the command line, in ECIF's variable or in the storage library's own."""
    place = world.out.url.removesuffix("/out")
    arguments = ("doctor", place, "--json") if name == "doctor" else world.stages[name].arguments
    options = {"endpoint_url": endpoint, "key": "KEY", "secret": SECRET, "token": TOKEN, **more}
    environment = {"ECIF_PATIENCE": "0.2", "AWS_SECRET_ACCESS_KEY": FROM_ENVIRONMENT, "AWS_ACCESS_KEY_ID": "KEY"}
    if given == "environment":
        environment |= {"AWS_ENDPOINT_URL": endpoint, "ECIF_STORAGE_OPTIONS": json.dumps(more)}
    elif given == "variable" or name == "inventory":
        environment["ECIF_STORAGE_OPTIONS"] = json.dumps(options)
    else:
        arguments = (*arguments, "--storage-options", json.dumps(options))
    return world.nursery.run(arguments, environment)


def _search(text: str, where: str) -> None:
    for trace in TRACES:
        assert trace not in text, f"{where}: ...{text[max(0, text.index(trace) - 300) :][:600]}"


@pytest.mark.parametrize("given", ["option", "variable", "environment"])
def test_no_secret_comes_out(world: World, proxy: Proxy, given: str) -> None:
    for number, name in enumerate(COMMANDS if given == "option" else ("inventory", "lint")):
        proxy.rules[:] = [Rule(FAULTS[number % len(FAULTS)], skip=1)]
        ended = _run(world, name, proxy.url, given)
        _search(ended.out + ended.err, f"{name}, {FAULTS[number % len(FAULTS)]}")
        proxy.rules.clear()
        ended = _run(world, name, proxy.url, given)
        assert ended.code == 0, ended.err + ended.out
        _search(ended.out + ended.err, name)
    for path, data in world.out.read().items():
        _search(path, path)
        _search(data.decode("latin1"), path)


@pytest.mark.parametrize(
    "broken",
    [
        {"config_kwargs": {"no_such_option": 1}},
        {"client_kwargs": {"no_such_option": 1}},
        {"no_such_option": 1},
        {"config_kwargs": SECRET},
        {"endpoint_url": f"http://user:{SECRET}@127.0.0.1:9/"},
        {"endpoint_url": SECRET},
    ],
    ids=str,
)
def test_not_even_when_the_options_are_wrong(world: World, proxy: Proxy, broken: dict[str, object]) -> None:
    ended = _run(world, "lint", proxy.url, "option", **broken)
    assert ended.code != 0 or "no_such_option" in broken
    _search(ended.out + ended.err, str(broken))


def test_not_even_in_the_traceback_of_a_bug(world: World, proxy: Proxy) -> None:
    """Values of Python's own that no code expects, as a broken server could send them."""
    world.undisturbed(world.stages["apply"])
    damaged = world.out.read() | {"_ecif/decision/applied/key.json": b"[" * 100_000}
    manifest = next(name for name in damaged if name.startswith("_ecif/manifest/"))
    damaged[manifest] = b'{"shard": {"a": 1e999}}'
    world.out.reset(damaged)
    for name in ("plan", "apply", "verify", "export"):
        ended = _run(world, name, proxy.url, "option")
        _search(ended.out + ended.err, name)

"""What is secret is in no message, however it got there."""

from __future__ import annotations

import json
import pickle
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecif.errors import EcifError, InputError, MissingFileError, StorageError, UsageError
from ecif.storage import Storage, faults
from ecif.storage.secrets import redact

from .proxy import Proxy

if TYPE_CHECKING:
    from ..conftest import Bucket

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY"


@pytest.mark.parametrize(
    "options",
    [
        {"secret": SECRET},
        {"token": SECRET},
        {"password": SECRET},
        {"client_kwargs": {"aws_secret_access_key": SECRET}},
        {"client_kwargs": {"aws_session_token": SECRET}},
        {"s3": {"secret": SECRET}, "https": {}},
        {"account_key": SECRET},
        {"connection_string": SECRET},
        {"sas_token": SECRET},
        {"credential": SECRET},
        {"token": {"type": "service_account", "private_key": SECRET}},
        {"https": {"headers": {"Authorization": SECRET}}},
        {"https": {"client_kwargs": {"cookies": {"session-token": SECRET}}}},
        {"s3_additional_kwargs": {"SSECustomerKey": SECRET}},
        {"config_kwargs": {"proxies_config": {"proxy_password": [SECRET]}}},
    ],
    ids=lambda options: json.dumps(options).replace(SECRET, "..."),
)
def test_values_of_secret_options(options: dict[str, Any]) -> None:
    for form in (SECRET, quote(SECRET, safe=""), repr(SECRET), json.dumps({"x": SECRET})):
        assert SECRET not in redact(f"<{form}>", options)
        assert quote(SECRET, safe="") not in redact(f"<{form}>", options)
    assert redact("nothing of that kind", options) == "nothing of that kind"


_TEXT = st.text(st.characters(exclude_characters="*"))


@given(_TEXT.filter(lambda text: len(text) >= 4), _TEXT, _TEXT)
def test_whatever_the_secret_is(secret: str, before: str, after: str) -> None:
    assert secret not in redact(before + secret + after, {"secret": secret})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"])
def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redact(f"x{SECRET}y") == "x***y"


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    options = {
        "endpoint_url": "http://127.0.0.1:9000",
        "key": "pipeline",
        "client_kwargs": {"region_name": "eu-west-1"},
    }
    text = "s3://pipeline/raw/pipeline-1.tar at http://127.0.0.1:9000 in eu-west-1, see /var/run/token"
    assert redact(text, options) == text
    assert redact("the key 'pipeline' does not exist", options) == "the key '***' does not exist"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/a", "https://***@host/a"),
        ("s3://AKIA:xyz@bucket/k", "s3://***@bucket/k"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("s3://bucket/mail@example.org.txt", "s3://bucket/mail@example.org.txt"),
        ("https://h/k?X-Amz-Credential=A%2F1&X-Amz-Date=2&X-Amz-Signature=ab12", None),
        ("https://h/k?sv=2022&sig=ab%2B12&se=9", "https://h/k?sv=2022&sig=***&se=9"),
        ("https://h/k?token=abc", "https://h/k?token=***"),
        ("Authorization: Bearer abc.def.ghi-jkl", "Authorization: Bearer ***"),
    ],
)
def test_urls_and_headers(text: str, clean: str | None) -> None:
    assert redact(text) == (clean or "https://h/k?X-Amz-Credential=***&X-Amz-Date=2&X-Amz-Signature=***")


def test_neither_repr_nor_a_copy_shows_it() -> None:
    storage = Storage({"secret": SECRET}, ["s3://b"], patience=7)
    assert SECRET not in repr(storage) + str(storage) + f"{[storage]}"
    copy = pickle.loads(pickle.dumps(storage))
    assert repr(copy) == repr(storage)
    with pytest.raises(StorageError) as caught:
        faults.raise_translated(OSError(SECRET), "s3://b/k", "read", copy._options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [OSError(SECRET), PermissionError(SECRET), ValueError(SECRET), UsageError(SECRET), InputError(SECRET, url="u")],
)
@pytest.mark.parametrize("doing", ["read", "list", "write", "delete"])
def test_every_kind_of_error(error: Exception, doing: str) -> None:
    with pytest.raises(EcifError) as caught, faults.translated(f"https://h/?sig={SECRET}", doing, {"secret": SECRET}):
        raise error
    assert SECRET not in str(caught.value)
    assert not isinstance(error, EcifError) or type(caught.value) is type(error)


@pytest.mark.usefixtures("rushing")
@pytest.mark.parametrize("fault", [403, 500, "lost", (400, SECRET)], ids=["403", "500", "lost", "quoted"])
def test_no_error_of_a_server_shows_it(s3_bucket: Bucket, proxy: Proxy, fault: Any) -> None:
    """Servers quote what they were sent; ours is asked to quote the secret itself."""
    storage = Storage(s3_bucket.options | {"endpoint_url": proxy.url, "secret": SECRET}, patience=2)
    url = f"{s3_bucket.url}/a"
    storage.publish(url, b"x")
    proxy.on = lambda operation: fault
    calls = {
        "open": lambda: storage.open(url),
        "info": lambda: storage.info(url),
        "list": lambda: storage.list(s3_bucket.url),
        "glob": lambda: storage.glob(f"{s3_bucket.url}/*"),
        "publish": lambda: storage.publish(url, b"y"),
        "create": lambda: storage.create(url).finish(),
        "delete": lambda: storage.delete(url),
        "uploads": lambda: storage.uploads(s3_bucket.url),
    }
    for name, call in calls.items():
        try:
            call()
        except (StorageError, MissingFileError) as error:
            assert SECRET not in str(error), name
            assert "***" in str(error) or fault != (400, SECRET) or name in ("info", "publish", "create"), name
            assert SECRET not in redact("".join(traceback.format_exception(error)), {"secret": SECRET})
        else:
            assert name in ("delete", "uploads", "list", "glob", "create"), name


def test_a_url_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"ftp://me:{SECRET}@host/a", f"s3://me:{SECRET.replace('/', '')}@b/k", f"https:h?sig={SECRET}"):
        with pytest.raises(UsageError) as caught:
            Storage().check(url)
        assert "wJalr" not in str(caught.value)

"""Weights from the libraries' hubs. Without a network they fail at once, not after minutes of retries."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from layermask.errors import ModelError, import_optional

NETWORK_LIBRARIES = {"huggingface_hub", "httpx", "httpx2", "requests", "urllib3"}


def reachable(url: str, timeout: float = 3.0) -> bool:
    """Return whether the host of `url`, or its proxy, accepts a connection within `timeout` seconds."""
    host = urlsplit(url)
    proxy = getproxies().get(host.scheme)
    if proxy and not proxy_bypass(host.hostname or ""):
        host = urlsplit(proxy)
    try:
        port = host.port or (443 if host.scheme == "https" else 80)
        socket.create_connection((host.hostname or "", port), timeout).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def huggingface(name: str, local: bool = False) -> Iterator[None]:
    """Let timm and transformers fetch weights; without a network, or if `local`, only from this machine."""
    constants: Any = import_optional("huggingface_hub.constants", "timm")
    before = constants.HF_HUB_OFFLINE
    # The hub's own switch, read at each request: a missing file fails at once, not after five retries.
    constants.HF_HUB_OFFLINE = before or local or not reachable(constants.ENDPOINT)
    try:
        with _translated(name, offline=constants.HF_HUB_OFFLINE and not local):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def torch_hub(name: str, url: str) -> Iterator[None]:
    """Let torchvision fetch the file `url` into torch's cache."""
    from torch.hub import get_dir

    cached = Path(get_dir(), "checkpoints", url.rpartition("/")[2])
    if not cached.exists() and not reachable(url):
        raise _no_network(name)
    with _translated(name, offline=False):
        yield


@contextmanager
def _translated(name: str, offline: bool) -> Iterator[None]:
    """Turn the network errors of the hub libraries into one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if not any(map(_from_network, _chain(error))):
            raise
        if offline:
            raise _no_network(name) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{name}: the weights cannot be downloaded: {reason}") from error


def _no_network(name: str) -> ModelError:
    return ModelError(
        f"{name}: its weights are not in the local cache and the hub cannot be reached: run once with a "
        'network, or give a file with weights=FILE (--weights FILE), or use the embedded model "builtin"'
    )


def _from_network(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in NETWORK_LIBRARIES


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: Any = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__

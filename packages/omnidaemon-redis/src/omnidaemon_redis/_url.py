"""What a Redis URL says: which kind of server, where, and with which options."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from omnidaemon.model.errors import ConfigurationError
from omnidaemon.ports.event_bus import Scope

__all__ = ["DEFAULT_URL", "Address", "parse"]

DEFAULT_URL = "redis://127.0.0.1:6379/0"
Kind = Literal["single", "sentinel", "cluster"]

_SCHEMES: Mapping[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: Mapping[Kind, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_SSL = frozenset({
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
})  # fmt: skip
_PLAIN = frozenset({"username", "password", "db", "protocol", "client_name", "sentinel_username", "sentinel_password"})
_TRUE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL.

    Attributes:
        hosts: Host and port of the server, or of each sentinel or known cluster node.
        path: The unix socket.
        service: Sentinel only: the name of the monitored master.
        options: Arguments of a connection: credentials, database, TLS.
        sentinel_options: The same for the connections to sentinels.
    """

    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def location(self) -> str:
        """The address without secrets."""
        if self.path:
            return f"unix://{self.path}?db={self.db}"
        scheme = "rediss" if self.tls else "redis"
        hosts = ",".join(_host_port(host, port) for host, port in self.hosts)
        if self.kind == "sentinel":
            return f"{scheme}+sentinel://{hosts}/{self.service}/{self.db}"
        return f"{scheme}+cluster://{hosts}" if self.kind == "cluster" else f"{scheme}://{hosts}/{self.db}"

    @property
    def scope(self) -> Scope:
        """``machine`` for unix sockets and loopback, else ``network``."""
        return "machine" if self.path or all(_is_loopback(host) for host, _ in self.hosts) else "network"

    @property
    def where(self) -> str:
        """Host and port, or path, for messages about connecting."""
        return self.path or ", ".join(_host_port(host, port) for host, port in self.hosts)


def parse(url: str | None) -> Address:
    """Return what ``url`` says; None is a server on this machine.

    Raises:
        ConfigurationError: A scheme, port, database or option that does not exist.
    """
    url = url or DEFAULT_URL
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ConfigurationError(
            f"{scheme if separator else url!r} is no Redis URL: use {', '.join(f'{name}://' for name in _SCHEMES)},"
            f" for example REDIS_URL={DEFAULT_URL}"
        )
    kind, tls = _SCHEMES[scheme.lower()]
    # urlsplit reads one host only, and keeps the case of nothing: take the authority apart by hand.
    parts = urlsplit(f"redis:{url[len(scheme) + 1 :]}")
    options = _options(parts.query, tls=tls)
    credentials, _, hosts = parts.netloc.rpartition("@")
    if credentials:
        user, _, password = credentials.partition(":")
        for name, value in (("username", user), ("password", password)):
            if value:
                options[name] = unquote(value)
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    if scheme.lower() == "unix":
        return Address(kind, tls, path=unquote(parts.path), db=_db(options.pop("db", "0")), options=options)
    names = [segment for segment in parts.path.split("/") if segment]
    service = ""
    if kind == "sentinel":
        if not names:
            raise ConfigurationError(f"{_redacted(url)} names no service: use {scheme}://host:26379/SERVICE/0")
        service = unquote(names.pop(0))
    if len(names) > 1 or (kind == "cluster" and names not in ([], ["0"])):
        raise ConfigurationError(f"{_redacted(url)} has a path that means nothing: {parts.path!r}")
    db = _db(options.pop("db", names[0] if names else "0"))
    found = tuple(_host(text, _PORTS[kind], url) for text in (hosts or "127.0.0.1").split(","))
    if kind == "single" and len(found) > 1:
        raise ConfigurationError(f"{_redacted(url)} names several hosts: use redis+sentinel:// or redis+cluster://")
    return Address(kind, tls, found, service=service, db=db, options=options, sentinel_options=sentinel_options)


def _options(query: str, *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _PLAIN and not (tls and name in _SSL):
            known = ", ".join(sorted(_PLAIN | _SSL))
            raise ConfigurationError(
                f"unknown option {name!r} in the Redis URL; known: {known} (ssl_* with rediss:// only)"
            )
        options[name] = value
    if "ssl_check_hostname" in options:
        value = str(options["ssl_check_hostname"]).lower()
        if value not in _TRUE:
            raise ConfigurationError(f"ssl_check_hostname={value!r} in the Redis URL must be true or false")
        options["ssl_check_hostname"] = _TRUE[value]
    if options.get("protocol", "2") not in {"2", "3"}:
        raise ConfigurationError(f"protocol={options['protocol']!r} in the Redis URL must be 2 or 3")
    options.pop("protocol", None)  # one reply shape for all: scripts answer alike in both
    return options


def _db(text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"the Redis database {text!r} must be a number, such as 0")
    return int(text)


def _host(text: str, port: int, url: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        rest = rest.removeprefix(":")
    else:
        host, _, rest = text.partition(":")
    if not host or (rest and not (rest.isdecimal() and 0 < int(rest) < 65536)):
        raise ConfigurationError(f"{_redacted(url)} has the host {text!r}: use host or host:port")
    return unquote(host), int(rest) if rest else port


def _redacted(url: str) -> str:
    scheme, _, rest = url.partition("://")
    rest = rest.partition("?")[0]
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

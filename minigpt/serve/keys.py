"""API keys: who may ask, and how often. Each key has its own counts, so that one tenant cannot use up another's."""

import hashlib
import hmac
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.errors import UsageError
from minigpt.serve.refusals import Refused

SHORTEST = 16  # characters of a key


class Bucket:
    """`rate` a minute, all of which may come at once; it fills again evenly."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.clock = rate, clock
        self.level, self.seen = rate, clock()

    def wait(self, amount: float = 1) -> float:
        """Seconds until `amount` can be taken; 0 now. More than the rate can be taken when it is full."""
        now = self.clock()
        self.level, self.seen = min(self.rate, self.level + (now - self.seen) * self.rate / 60), now
        return max(0.0, (min(amount, self.rate) - self.level) * 60 / self.rate)

    def take(self, amount: float) -> None:
        """Count it; what was used beyond the level is paid back by waiting."""
        self.level -= amount


@dataclass
class Tenant:
    """Who has a key. None: no limit."""

    name: str
    requests: Bucket | None = None
    tokens: Bucket | None = None

    def admit(self) -> None:
        """Raises Refused when the tenant has used up its requests or tokens of this minute."""
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket is not None and (seconds := bucket.wait(1)) > 0:
                message = f"Rate limit reached for {self.name}: {bucket.rate:g} {what} per minute."
                raise Refused(429, message, "rate_limit_exceeded", retry_after=seconds)
        if self.requests is not None:
            self.requests.take(1)

    def used(self, tokens: int) -> None:
        if self.tokens is not None:
            self.tokens.take(tokens)


ANYONE = "anyone"


@dataclass
class Keys:
    """The tenants by the digest of their keys. Without any, everyone may ask."""

    tenants: dict[bytes, Tenant] = field(default_factory=dict)
    anyone: Tenant = field(default_factory=lambda: Tenant(ANYONE))

    def add(self, key: str, tenant: Tenant) -> None:
        """Raises UsageError for a key that could be guessed, or that is there already."""
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            hint = "For example: python -c 'import secrets; print(secrets.token_urlsafe())'"
            message = f"The API key of {tenant.name} must be {SHORTEST} or more printable ASCII characters."
            raise UsageError(message, hint)
        if _digest(key) in self.tenants:
            raise UsageError(f"The API key of {tenant.name} is also another one's.", "Give each a key of its own.")
        self.tenants[_digest(key)] = tenant

    def tenant(self, given: str | None) -> Tenant:
        """Who `given` belongs to. Every key is compared, in constant time. Raises Refused for an unknown one."""
        if not self.tenants:
            return self.anyone
        digest, found = _digest(given or ""), None
        for known, tenant in self.tenants.items():
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            words = "No API key was given." if given is None else "The API key is wrong."
            message = f"{words} Send it as `Authorization: Bearer KEY` or `x-api-key: KEY`."
            raise Refused(401, message, "invalid_api_key")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path) -> Keys:
    """The keys of a TOML file: `[NAME]` with `key`, and `requests_per_minute` or `tokens_per_minute` if limited.

    Raises UsageError for a file that has anything else.
    """
    keys = Keys()
    try:
        sections = tomllib.loads(path.read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The keys in {path} cannot be read: {error}.") from None
    for name, section in sections.items():
        known = {"key": str, "requests_per_minute": (int, float), "tokens_per_minute": (int, float)}
        if not isinstance(section, dict) or not isinstance(section.get("key"), str):
            raise UsageError(f"{path}: {name} is not a section with a key.", f'Write [{name}] and key = "…".')
        for field_name, value in section.items():
            kind = known.get(field_name)
            if kind is None or not isinstance(value, kind) or (kind is not str and not 0 < value < 1e9):
                raise UsageError(f"{path}: {name}.{field_name} = {value!r} is not known, or out of range.")
        limits = (section.get("requests_per_minute"), section.get("tokens_per_minute"))
        keys.add(section["key"], Tenant(name, *(None if rate is None else Bucket(float(rate)) for rate in limits)))
    if not keys.tenants:
        raise UsageError(f"{path} has no keys.", 'Write [NAME] and key = "…" for each.')
    return keys

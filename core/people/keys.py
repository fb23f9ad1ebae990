"""Who calls, for what is given once a person: keys that say nothing without our secret.

A key is an HMAC of the mailbox under a pepper that the database does not know, so that neither its
rows nor its backups tell whose they are. Networks and mail domains, by which grants are counted,
are hashed the same way.
"""

import hashlib
import hmac

import msgspec
from pydantic import SecretStr

from core.db import Connection, fetch_one
from core.networks import network_of
from core.people.mailboxes import MailHost, read_mailbox
from core.settings import PEPPER_MISSING, Settings, SettingsError

# Without people there is nobody to be told apart from: development and tests need no secret.
_NO_PEPPER = SecretStr("jewelshot without people")


class Caller(msgspec.Struct, frozen=True):
    """What app.caller() reads. Of the keys the first is written, and any of them is recognised."""

    person_keys: tuple[str, ...]
    network: str
    wide_network: str
    mail_domain: str
    mail_host: MailHost
    domains: tuple[str, ...]
    is_disposable: bool


def open_person_keys(settings: Settings) -> "PersonKeys":
    """Raises: SettingsError in production without a pepper."""
    if settings.person_key_pepper is None and settings.is_production:
        raise SettingsError(f"settings: PERSON_KEY_PEPPER {PEPPER_MISSING}")
    current = settings.person_key_pepper or _NO_PEPPER
    return PersonKeys(current, *settings.person_key_peppers_previous)


class PersonKeys:
    """Of several peppers the first one writes, and all of them recognise."""

    def __init__(self, *peppers: SecretStr) -> None:
        self._peppers = [pepper.get_secret_value().encode() for pepper in peppers]

    def caller(self, address: str, client_ip: str) -> Caller:
        mailbox = read_mailbox(address)
        plain = plain_key(address)
        narrow = network_of(client_ip, ipv4_prefix=24, ipv6_prefix=48)
        wide = network_of(client_ip, ipv4_prefix=16, ipv6_prefix=32)
        return Caller(
            person_keys=(
                *(self._key(pepper, "person", mailbox.address) for pepper in self._peppers),
                *(self._key(pepper, "wrapped", plain) for pepper in self._peppers),
                plain,
            ),
            network=self._current("network", narrow),
            wide_network=self._current("network", wide),
            mail_domain=self._current("domain", mailbox.domain),
            mail_host=mailbox.host,
            domains=mailbox.domains,
            is_disposable=mailbox.is_disposable,
        )

    def wrapped(self, plain: str) -> str:
        """What a row keeps instead of a key that was written without a pepper."""
        return self._current("wrapped", plain)

    def _current(self, what: str, value: str) -> str:
        return self._key(self._peppers[0], what, value)

    @staticmethod
    def _key(pepper: bytes, what: str, value: str) -> str:
        text = f"jewelshot {what}\0{value}".encode("utf-8", "surrogatepass")
        return f"{what}:{hmac.new(pepper, text, hashlib.sha256).hexdigest()}"


def plain_key(address: str) -> str:
    """The key as it was before there was a pepper; scripts/person_keys.py wraps what is left."""
    lowered = address.lower().split("@")
    name, domain = lowered[0].split("+")[0], lowered[1] if len(lowered) > 1 else ""
    if domain in {"gmail.com", "googlemail.com"}:
        name, domain = name.replace(".", ""), "gmail.com"
    return hashlib.sha256(f"{name}@{domain}".encode("utf-8", "surrogatepass")).hexdigest()


async def tell_who_calls(conn: Connection, keys: PersonKeys, client_ip: str) -> None:
    """For the rest of the transaction, in the person's scope, who that is by the verified address.

    Without one nothing is said, and what asks for it says so.
    """
    row = await fetch_one(conn, "select app.verified_address() as address")
    if row is not None and row["address"] is not None:
        caller = keys.caller(row["address"], client_ip)
        await conn.execute(
            "select set_config('app.caller', %s, true)", (msgspec.json.encode(caller).decode(),)
        )

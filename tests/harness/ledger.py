"""Money for tests: people, grants and moves through the real functions, and moved clocks."""

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row
from pydantic import SecretStr

from core.people.keys import Caller, PersonKeys
from migrations.runner.roles import API_ROLE
from tests.harness.database import LOCK_TIMEOUT, TestDatabase

Conn = psycopg.Connection[DictRow]
Figures = tuple[int, int, int]

KEYS = PersonKeys(SecretStr("the pepper of the tests"))


class Refusal(msgspec.Struct):
    """What a refused statement said, filled in when the block ends."""

    detail: dict[str, Any] = msgspec.field(default_factory=dict)


@contextlib.contextmanager
def refused(sqlstate: str) -> Iterator[Refusal]:
    refusal = Refusal()
    try:
        yield refusal
    except psycopg.Error as error:
        if error.sqlstate != sqlstate:
            raise
        if error.diag.message_detail and sqlstate.startswith("JS"):
            refusal.detail = msgspec.json.decode(error.diag.message_detail)
        return
    raise AssertionError(f"nothing was refused with {sqlstate}")


def connect(url: str) -> Conn:
    return psycopg.connect(
        url, autocommit=True, row_factory=dict_row, options=f"-c lock_timeout={LOCK_TIMEOUT}"
    )


@contextlib.contextmanager
def scoped(
    conn: Conn, role: str, claims: dict[str, Any], caller: Caller | None = None
) -> Iterator[Conn]:
    """One transaction as `role` with verified `claims`, as the API opens it. Unless the test says
    who calls, each user is a person of their own, at home, with an address at a large host.
    """
    known = caller or caller_of(f"{claims.get('sub')}@gmail.com")
    with conn.transaction():
        conn.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),"
            " set_config('app.caller', %s, true)",
            (role, msgspec.json.encode(claims).decode(), msgspec.json.encode(known).decode()),
        )
        yield conn


def caller_of(address: str, client_ip: str = "203.0.113.7") -> Caller:
    return KEYS.caller(address, client_ip)


def user_claims(user_id: uuid.UUID) -> dict[str, Any]:
    """Of a person whom `TestDatabase.sign_in` knows."""
    return {
        "sub": str(user_id),
        "role": "authenticated",
        "aal": "aal1",
        "session_id": str(user_id),
    }


def admin_claims(
    database: TestDatabase, admin_id: uuid.UUID | None = None, *, aal: str = "aal2"
) -> dict[str, Any]:
    """Of an admin, who signs in."""
    user_id = admin_id or uuid.uuid4()
    database.sign_in(user_id, aal=aal, role="admin")
    return {
        **user_claims(user_id),
        "aal": aal,
        "amr": database.proof_of_factor(),
        "app_metadata": {"role": "admin"},
    }


def race(url: str, works: Sequence[Callable[[Conn], Any]]) -> list[Any]:
    """Run all at the same moment, each on its own connection; results or the errors they raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[Conn], Any]) -> Any:
        with connect(url) as conn:
            barrier.wait(timeout=60)
            try:
                return work(conn)
            except psycopg.Error as error:
                return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def states(results: Sequence[Any]) -> list[str]:
    """SQLSTATE of each error, 'ok' for everything else."""
    return [
        (result.sqlstate or "none") if isinstance(result, psycopg.Error) else "ok"
        for result in results
    ]


def outcome_of(move: Callable[[], Any]) -> tuple[str, Any]:
    """('ok', what it returned), or the SQLSTATE it was refused with."""
    try:
        return "ok", move()
    except psycopg.Error as error:
        return error.sqlstate or "none", None


class Ledger:
    """The money functions of one database, called as a superuser: the definer's rights hold."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.url = database.superuser_url
        self.clock = database.clock

    # --- people and photos -------------------------------------------------------------------

    def user(self, amount: int = 0, **terms: Any) -> uuid.UUID:
        """Somebody with an account, and with one lot if `amount` is given."""
        user_id = uuid.uuid4()
        self.database.sign_in(user_id)
        self.database.rows("insert into app.users (id) values (%s)", (user_id,))
        self.database.rows("insert into app.credit_accounts (user_id) values (%s)", (user_id,))
        if amount:
            self.grant(user_id, amount, **terms)
        return user_id

    def verified(self, email: str, *, is_confirmed: bool = True) -> uuid.UUID:
        """Somebody that Supabase Auth knows, without an account."""
        user_id = uuid.uuid4()
        self.database.rows(
            "insert into auth.users (id, aud, role, email, email_confirmed_at, created_at)"
            " values (%s, 'authenticated', 'authenticated', %s, case when %s then now() end,"
            " now())",
            (user_id, email, is_confirmed),
        )
        self.database.sign_in(user_id)
        return user_id

    def open_account(self, user_id: uuid.UUID, client_ip: str = "203.0.113.7") -> dict[str, Any]:
        """As the API opens it at sign-in from `client_ip`."""
        return opening(self.caller_of(user_id, client_ip), user_id)(
            self.database.connection(API_ROLE)
        )

    def caller_of(self, user_id: uuid.UUID, client_ip: str = "203.0.113.7") -> Caller:
        email = self.value("select email from auth.users where id = %s", user_id)
        return caller_of(email, client_ip)

    def upload(self, user_id: uuid.UUID) -> uuid.UUID:
        upload_id = uuid.uuid4()
        self.database.rows(
            "insert into app.uploads"
            " (id, user_id, state, storage_key, normal_key, pixel_sha256, content_type)"
            " values (%s, %s, 'ready', 'in.jpg', 'normal.png', 'abc', 'image/png')",
            (upload_id, user_id),
        )
        return upload_id

    # --- moves -------------------------------------------------------------------------------

    def value(self, query: str, *params: Any) -> Any:
        (value,) = self.database.row(query, params).values()
        return value

    def grant(
        self,
        user_id: uuid.UUID,
        amount: int,
        *,
        source: str = "purchase",
        key: str | None = None,
        lives: str | None = None,
        reference: str | None = None,
    ) -> uuid.UUID:
        """`lives`: an interval, as in '3 days'. No reason is given, which the key says."""
        lot_id: uuid.UUID = self.value(
            "select app.grant_credits(%s, %s, %s, %s, app.now() + %s::interval, %s)",
            user_id,
            amount,
            source,
            f"test:{key or uuid.uuid4()}",
            lives,
            reference,
        )
        return lot_id

    def reserve(
        self, user_id: uuid.UUID, amount: int, subject_id: uuid.UUID | None = None
    ) -> uuid.UUID:
        """A reservation without a generation; its subject."""
        subject = subject_id or uuid.uuid4()
        self.value("select app.reserve(%s, %s, 'late_image', %s)", user_id, amount, subject)
        return subject

    def confirm(self, user_id: uuid.UUID, subject_id: uuid.UUID) -> bool:
        return bool(self.value("select app.confirm(%s, 'late_image', %s)", user_id, subject_id))

    def refund(self, user_id: uuid.UUID, subject_id: uuid.UUID) -> bool:
        return bool(self.value("select app.refund(%s, 'late_image', %s)", user_id, subject_id))

    def reverse(
        self, user_id: uuid.UUID, amount: int, key: str, reference: str | None = None
    ) -> int:
        return int(
            self.value(
                "select app.reverse_credits(%s, %s, %s, %s)", user_id, amount, key, reference
            )
        )

    def adjust(
        self, user_id: uuid.UUID, amount: int, key: str, reason: str = "goodwill"
    ) -> dict[str, int]:
        with scoped(
            self.database.connection(API_ROLE), "jewelshot_admin", admin_claims(self.database)
        ) as conn:
            row = conn.execute(
                "select app.adjust_credits(%s, %s, %s, %s) as balance",
                (user_id, amount, reason, key),
            ).fetchone()
        assert row is not None
        balance: dict[str, int] = row["balance"]
        return balance

    def code(self, *, credits_: int, uses_max: int, kind: str = "promo") -> tuple[uuid.UUID, bytes]:
        """One that an admin made: its id, and the hash by which it is redeemed."""
        code_id, digest = uuid.uuid4(), hashlib.sha256(uuid.uuid4().bytes).digest()
        listed = [{"id": str(code_id), "sha256": digest.hex(), "prefix": "JSG-0000"}]
        with scoped(
            self.database.connection(API_ROLE), "jewelshot_admin", admin_claims(self.database)
        ) as conn:
            conn.execute(
                "select app.create_codes(%s, %s, %s, %s, null, null, null, null, %s)",
                (uuid.uuid4(), kind, credits_, uses_max, msgspec.json.encode(listed).decode()),
            )
        return code_id, digest

    def redeem(self, user_id: uuid.UUID, digest: bytes) -> None:
        with scoped(
            self.database.connection(API_ROLE), "jewelshot_user", user_claims(user_id)
        ) as conn:
            conn.execute("select app.redeem_code(%s)", (digest,))

    def expire(self, accounts_max: int = 100) -> int:
        return int(self.value("select app.expire_credits(%s)", accounts_max))

    def start(
        self, user_id: uuid.UUID, upload_id: uuid.UUID, operation: str = "packshot"
    ) -> uuid.UUID:
        return start_generation(self.database.connection(API_ROLE), user_id, upload_id, operation)

    def finish(self, generation_id: uuid.UUID, outcome: str) -> dict[str, Any]:
        """The end of a generation that waits in the queue, without a provider call."""
        if outcome == "succeeded":
            self.database.rows(
                "update app.generations set state = 'collecting' where id = %s", (generation_id,)
            )
        change: dict[str, Any] = self.value(
            "select app.finish_generation(%s, null, %s, %s::jsonb)",
            generation_id,
            outcome,
            '{"result": {"storage_key": "out.png"}}'
            if outcome == "succeeded"
            else '{"ending": "provider_failed"}',
        )
        return change

    # --- looks -------------------------------------------------------------------------------

    def balance(self, user_id: uuid.UUID) -> Figures:
        row = self.database.row(
            "select available, reserved, debt from app.credit_accounts where user_id = %s",
            (user_id,),
        )
        return row["available"], row["reserved"], row["debt"]

    def remaining(self, lot_id: uuid.UUID) -> int:
        return int(self.value("select remaining from app.credit_lots where id = %s", lot_id))

    def transfers(self, user_id: uuid.UUID) -> list[tuple[str, str, str, int]]:
        """(kind, debit, credit, amount) of each line, oldest first."""
        return [
            (row["kind"], row["debit"], row["credit"], row["amount"])
            for row in self.database.rows(
                "select kind, debit, credit, amount from app.ledger_transfers"
                " where user_id = %s order by id",
                (user_id,),
            )
        ]


def opening(caller: Caller, user_id: uuid.UUID) -> Callable[[Conn], dict[str, Any]]:
    """What opens the account of a person. The connection signs in as the API."""

    def work(conn: Conn) -> dict[str, Any]:
        with scoped(conn, "jewelshot_user", user_claims(user_id), caller):
            row = conn.execute("select app.open_account() as opening").fetchone()
        assert row is not None
        opened: dict[str, Any] = row["opening"]
        return opened

    return work


def start_generation(
    conn: Conn,
    user_id: uuid.UUID,
    upload_id: uuid.UUID,
    operation: str = "packshot",
    generation_id: uuid.UUID | None = None,
) -> uuid.UUID:
    """Through the one door of users. `conn` signs in as the API."""
    new_id = generation_id or uuid.uuid4()
    with scoped(conn, "jewelshot_user", user_claims(user_id)):
        conn.execute(
            "select app.start_generation(%s, %s, %s, '{}')", (new_id, operation, upload_id)
        )
    return new_id

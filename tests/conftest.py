"""Fixtures of every test. The rules they enforce:

- sockets to anywhere but loopback are off;
- coroutine tests run on asyncio without a mark;
- a test that used a database ends with a reconciliation of its ledger.
"""

import inspect
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import hypothesis
import psycopg
import pytest
import redis
import stamina
from psycopg.rows import DictRow, dict_row
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from core.db import Database
from core.settings import Settings
from sandbox.stack import EmbeddedValkey, LocalStack
from tests.harness.database import PROOFS, TestDatabase, blank_database, cloned_database
from tests.harness.events import undocumented
from tests.harness.run import Run
from tests.harness.settings import build_settings

_RUN = pytest.StashKey[Run]()

# Each makes something dear once in a test process: a running product or stand-in, an API with
# something of everything in its database, the syntax trees of all files.
_TOGETHER = (
    "tests/acceptance/product/",
    "tests/acceptance/test_openapi.py",
    "tests/integration/payments_api/",
    "tests/integration/sandbox_fal/",
    "tests/unit/test_structure.py",
)

# How long a draw or an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "drift: the test breaks the ledger on purpose; no reconciliation after it"
    )
    # Calls that are repeated at once are repeated as often as ever, without a pause.
    stamina.set_testing(True, attempts=100, cap=True)
    # pytest-socket reads these when its own pytest_configure runs, which is after this one.
    config.option.allow_hosts = "127.0.0.1,::1,localhost"
    config.option.allow_unix_socket = True
    if not hasattr(config, "workerinput"):
        config.stash[_RUN] = Run.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is not None:
        run.end()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> None:
    """Coroutine tests run by the anyio plugin, as if each had its mark."""
    if not collector.istestfunction(obj, name):
        return
    hypothesis = getattr(obj, "hypothesis", None)
    if inspect.iscoroutinefunction(hypothesis.inner_test if hypothesis else obj):
        pytest.mark.anyio(obj)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What takes long begins first: the last test must not be one that the others wait for."""
    yield  # the others shuffle
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # the library has no types
    """Each test to whoever is free, but for those that share something dear: they go to one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((place for place in _TOGETHER if nodeid.startswith(place)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Scheduling:
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def test_run() -> Iterator[Run]:
    joined = Run.join()
    yield joined
    joined.close()


# --- PostgreSQL ------------------------------------------------------------------------------


@pytest.fixture
def database(test_run: Run, request: pytest.FixtureRequest) -> Iterator[TestDatabase]:
    """A migrated database of this test's own; its ledger must balance in the end."""
    with cloned_database(test_run) as made:
        yield made
        # Without people there is no money, and nothing happened to anybody: planning the proofs
        # takes 20 ms, which a test of the platform need not spend.
        if request.node.get_closest_marker("drift") is None and made.has_people():
            _assert_balanced(made.drift())
            assert undocumented(made) == [], "events that docs/events does not describe"


def _assert_balanced(drift: list[DictRow]) -> None:
    assert drift == [], f"the ledger does not balance: {drift}"


@pytest.fixture
def empty_database(test_run: Run) -> Iterator[TestDatabase]:
    """A database with nothing in it, for tests of the platform's objects and of migrations."""
    with blank_database(test_run) as made:
        yield made


@pytest.fixture
def database_url_superuser(database: TestDatabase) -> str:
    return database.superuser_url


@pytest.fixture
def database_url_migrations(database: TestDatabase) -> str:
    return database.migration_url


@pytest.fixture
def database_url_api(database: TestDatabase) -> str:
    return database.api_url


@pytest.fixture
def database_url_worker(database: TestDatabase) -> str:
    return database.worker_url


@pytest.fixture
async def db_api(database: TestDatabase) -> AsyncIterator[Database]:
    """As the API connects: jewelshot_api, which can do little until a scope is set."""
    pool = Database(database.api_url, pool_size=8, name="api")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def db_worker(database: TestDatabase) -> AsyncIterator[Database]:
    pool = Database(database.worker_url, pool_size=8, name="worker")
    await pool.open()
    yield pool
    await pool.close()


# --- Valkey ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _valkey(test_run: Run) -> Iterator[EmbeddedValkey]:
    """One for each test process, so that a test may flush all of it."""
    with EmbeddedValkey(test_run.new_folder("shared") / "valkey", durable=False) as server:
        yield server


@pytest.fixture
def redis_url(_valkey: EmbeddedValkey) -> Iterator[str]:
    """An empty Valkey database."""
    url = _valkey.url()
    with redis.Redis.from_url(url) as client:
        client.flushall()
        yield url
        client.flushall()


# --- both ------------------------------------------------------------------------------------


@pytest.fixture
def own_stack(test_run: Run, request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """Servers of this test's own, to be killed and restarted at will (1 s)."""
    with LocalStack(test_run.new_folder("own"), durable=False) as stack:
        yield stack
        if not stack.postgres.is_running():
            stack.postgres.start()
        if request.node.get_closest_marker("drift") is None:
            with psycopg.connect(stack.postgres.url(), row_factory=dict_row) as conn:
                _assert_balanced(conn.execute(PROOFS.encode()).fetchall())
    stack.remove()


@pytest.fixture
def make_settings(database: TestDatabase, redis_url: str) -> Callable[..., Settings]:
    """Build Settings for this test's servers; keyword arguments replace fields."""

    def make(**overrides: Any) -> Settings:
        servers = {
            "database_url": database.api_url,
            "worker_database_url": database.worker_url,
            "redis_url": redis_url,
            "redis_prefix": f"test-{secrets.token_hex(4)}",
        }
        return build_settings(**{**servers, **overrides})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()

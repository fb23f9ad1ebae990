"""The toy noun through the whole house: request, task, job, event, proof, figure, problem."""

from collections.abc import AsyncIterator

import httpx
import pytest

from core.db import Database
from core.health import list_samples
from core.nouns import NOUNS
from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.ledger import Ledger
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer
from tests.integration.tasks.conftest import open_context
from worker import runner


@pytest.fixture
def issuer(database: TestDatabase) -> TokenIssuer:
    return TokenIssuer(NOWHERE, database)


@pytest.fixture
async def client(settings: Settings, issuer: TokenIssuer) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(settings, transport=issuer.transport()) as started:
        yield started


@pytest.fixture
def databases(db_api: Database, db_worker: Database) -> tuple[Database, Database]:
    return db_api, db_worker


async def test_a_toy_is_polished(
    client: httpx.AsyncClient,
    issuer: TokenIssuer,
    database: TestDatabase,
    databases: tuple[Database, Database],
    *,
    settings: Settings,
) -> None:
    db_api, db_worker = databases
    ada = Ledger(database).user(1)
    answer = await client.post("/v1/toys", json={"shine": 3}, headers=issuer.headers(ada))
    assert answer.status_code == 201, answer.text
    task = database.row("select id from app.outbox where job = 'toy.polish'")
    async with open_context(settings, db_worker) as ctx:
        assert await runner.execute(ctx, task["id"]) == "done"
        assert await runner.execute(ctx, task["id"]) == "gone"
    event = database.row("select type, payload from app.events where type = 'toy.polished'")
    assert event == {"type": "toy.polished", "payload": {"shine": 4}}
    samples = await db_api.run(lambda conn: list_samples(conn, NOUNS))
    assert [sample.value for sample in samples if sample.name == "jewelshot_toys"] == [1]


@pytest.mark.drift
def test_the_proof_sees_a_dull_toy(database: TestDatabase) -> None:
    ada = Ledger(database).user(1)
    database.rows(
        "insert into app.toys (id, user_id, shine, polished_at)"
        " values (gen_random_uuid(), %s, 0, now())",
        (ada,),
    )
    assert [row["check_name"] for row in database.drift()] == ["toy_shine"]

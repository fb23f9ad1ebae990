"""The catalogue as it is seeded, and what a process remembers of it."""

from typing import get_args

import pytest
from jsonschema import Draft202012Validator

from core.catalog import service
from core.catalog.types import Lane, Operation
from core.db import ANONYMOUS, Connection, Database
from core.errors import InvalidInputError, NotFoundError
from core.generations.providers.fal.models import build_body
from core.generations.providers.fal.provider import NAME
from sandbox.fal.models import ENDPOINTS
from tests.harness.database import TestDatabase

URL = "https://example.com/ring.jpg"
MINIMAL = {"scene": {"preset": "marble"}, "scene_hd": {"prompt": "on a shell"}}


async def _operations(db: Database) -> dict[str, Operation]:
    found = await db.run(service.list_operations, scope=ANONYMOUS)
    return {operation.slug: operation for operation in found}


async def test_the_first_catalogue(db_api: Database) -> None:
    operations = await _operations(db_api)
    lanes = {slug: operation.lane for slug, operation in operations.items()}
    assert lanes == {
        "cutout": "locked",
        "packshot": "locked",
        "upscale": "reimagined",
        "scene": "reimagined",
        "scene_hd": "reimagined",
    }
    prices = [operation.cost_credits for operation in operations.values()]
    assert prices == sorted(prices)
    assert set(lanes.values()) == set(get_args(Lane))


async def test_every_step_makes_a_body_that_its_endpoint_takes(db_api: Database) -> None:
    for slug, operation in (await _operations(db_api)).items():
        Draft202012Validator.check_schema(operation.params_schema)
        params = service.check_params(operation, MINIMAL.get(slug, {}))
        for step in operation.steps:
            assert step.provider == NAME
            body = build_body(step=step, params=params, presets=operation.presets, image_url=URL)
            schema = ENDPOINTS[step.endpoint].schema
            assert set(body) <= set(schema.model_fields), (slug, step.endpoint)
            schema.model_validate(body)


async def test_each_preset_of_the_schema_has_its_words(db_api: Database) -> None:
    for operation in (await _operations(db_api)).values():
        rule = operation.params_schema["properties"].get("preset", {"enum": []})
        assert rule["enum"] == [preset.slug for preset in operation.presets]


async def test_an_unknown_operation(db_api: Database) -> None:
    async def work(conn: Connection) -> None:
        assert await service.find_operation(conn, "no-such") is None
        with pytest.raises(NotFoundError) as error:
            await service.get_operation(conn, "no-such")
        assert error.value.fields == {"kind": "operation"}

    await db_api.run(work, scope=ANONYMOUS)


async def test_a_new_version_is_seen_after_a_moment(
    db_api: Database, database: TestDatabase
) -> None:
    assert (await _operations(db_api))["packshot"].version == 1
    database.rows(
        "update app.operations set is_active = false where slug = 'packshot';"
        " insert into app.operations (slug, version, title, description, lane, cost_credits, steps,"
        "   output_rule, params_schema)"
        " select slug, 2, title, description, lane, 9, steps, output_rule, params_schema"
        " from app.operations where slug = 'packshot'"
    )
    assert (await _operations(db_api))["packshot"].version == 1
    service.invalidate_cache()
    packshot = (await _operations(db_api))["packshot"]
    assert (packshot.version, packshot.cost_credits) == (2, 9)


async def test_another_database_is_another_catalogue(
    db_api: Database, database: TestDatabase
) -> None:
    """What an earlier test's database taught this process is not believed of this one."""
    database.rows("update app.operations set is_active = false where slug = 'upscale'")
    assert "upscale" not in await _operations(db_api)


async def test_parameters_are_those_of_the_operation(db_api: Database) -> None:
    operations = await _operations(db_api)
    assert service.check_params(operations["packshot"], {"shadow": "soft"}) == {
        "margin_percent": 8,
        "aspect_ratio": "1:1",
        "size": 2000,
        "shadow": "soft",
    }
    with pytest.raises(InvalidInputError):
        service.check_params(operations["cutout"], {"shadow": "soft"})

"""What must fail is refused before it starts, in words with figures; and nothing else is."""

import math
import uuid
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.catalog.types import Operation
from core.generations.providers.fal import models
from core.pixels.faults import OutputFault
from core.pixels.limits import OUTPUT_PIXELS_MAX, PIXELS_MAX, SIDE_MAX, SIDE_MIN
from core.pixels.outputs import check_enlarged
from core.pixels.types import OutputRuleError
from migrations.runner.roles import API_ROLE
from sandbox.fal.models import ENDPOINTS
from sandbox.fal.outputs import INPUT_PIXELS_MAX, INPUT_SIDE_MIN, enlarged_size
from tests.harness.database import TestDatabase
from tests.harness.ledger import refused, scoped, user_claims
from tests.harness.pipeline import PhotoOwner, PipelineHarness

PHONE = (4032, 3024)
ENLARGING = "upscale"


async def _photo(pipeline: PipelineHarness, ada: PhotoOwner, size: tuple[int, int]) -> None:
    """Ada's photo has this size; nobody looks at its pixels."""
    pipeline.database.rows(
        "update app.uploads set width = %s, height = %s where id = %s", (*size, ada.upload_id)
    )


async def _refusals(ada: PhotoOwner, operation: str, **params: Any) -> dict[str, Any]:
    """The problem of an order, which is the same for an estimate."""
    created = await ada.create(operation, params=params)
    body = {"operation": operation, "upload_id": str(ada.upload_id), "params": params}
    estimated = await ada.post("/v1/estimates", body)
    assert (created.status_code, estimated.status_code) == (422, 422), created.text
    problem: dict[str, Any] = created.json()
    for changing in ("instance", "request_id"):
        assert problem.pop(changing)
    told = estimated.json()
    assert {name: told[name] for name in problem} == problem
    return problem


async def test_a_phone_photo_is_not_enlarged_by_the_default(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await _photo(pipeline, ada, PHONE)
    problem = await _refusals(ada, "upscale")
    assert (problem["field"], problem["reason"]) == ("upload_id", "photo_too_large_to_enlarge")
    assert problem["detail"] == (
        "The photo is 4032 x 3024 pixels, which is large already: this operation returns at most"
        " 16 megapixels, so even 1.5 times is too much. It enlarges photos of up to 7.111"
        " megapixels."
    )
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.database.rows("select from app.generations") == []


async def test_the_largest_factor_that_fits_is_named_and_taken(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await _photo(pipeline, ada, (1400, 1400))
    problem = await _refusals(ada, "upscale", factor=4)
    assert (problem["field"], problem["reason"]) == ("params", "factor_too_large")
    assert problem["factor_max"] == 2.85
    assert "The largest `factor` for this photo is 2.85." in problem["detail"]
    await _refusals(ada, "upscale", factor=2.86)
    answer = await ada.create("upscale", params={"factor": 2.85})
    assert answer.status_code == 202, answer.text


async def test_a_photo_that_a_step_does_not_take(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    limits = '{"input_side_min": 512, "input_side_max": 4000, "input_pixels_max": 9000000}'
    pipeline.database.rows(
        "update app.operations set steps = jsonb_set(steps, '{0,limits}',"
        " steps -> 0 -> 'limits' || %s::jsonb) where slug = 'cutout'",
        (limits,),
    )
    for size, reason, part in (
        ((511, 900), "photo_too_small_for_step", "at least 512 a side"),
        ((600, 4001), "photo_too_long_for_step", "at most 4000 a side"),
        ((3100, 3000), "photo_too_large_for_step", "at most 9 megapixels"),
    ):
        await _photo(pipeline, ada, size)
        problem = await _refusals(ada, "cutout")
        assert (problem["reason"], problem["width"]) == (reason, size[0])
        assert part in problem["detail"]


async def test_the_database_refuses_whatever_the_caller_sends(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await _photo(pipeline, ada, (1400, 1400))
    conn = pipeline.database.connection(API_ROLE)
    for params in ('{"factor": 4}', '{"factor": 1e200}', '{"factor": 3, "seed": 1}'):
        with refused("JS422"), scoped(conn, "jewelshot_user", user_claims(ada.id)):
            conn.execute(
                "select app.start_generation(%s, 'upscale', %s, %s)",
                (uuid.uuid4(), ada.upload_id, params),
            )
    assert pipeline.balance(ada) == (10, 0)


async def test_an_estimate_of_another_persons_photo(ada: PhotoOwner, bob: PhotoOwner) -> None:
    body = {"operation": "cutout", "upload_id": str(bob.upload_id)}
    answer = await ada.post("/v1/estimates", body)
    assert (answer.status_code, answer.json()["kind"]) == (404, "upload")
    assert (await bob.post("/v1/estimates", body)).status_code == 200


async def test_the_catalogue_says_what_it_takes(ada: PhotoOwner) -> None:
    shown = (await ada.get("/v1/operations/upscale")).json()
    assert shown["photo_limits"] == {
        "side_min": SIDE_MIN,
        "side_max": None,
        "pixels_max": PIXELS_MAX,
        "enlarged_by": "factor",
        "enlarged_pixels_max": 16_000_000,
    }


# --- sizes, factors, operations ---------------------------------------------------------------


def _operations(database: TestDatabase) -> list[Operation]:
    rows = database.rows("select * from app.operations where is_active order by slug")
    return msgspec.convert(rows, list[Operation], strict=False)


def test_no_limit_is_wider_than_what_we_and_the_model_take(database: TestDatabase) -> None:
    for operation in _operations(database):
        for step in operation.steps:
            limits = step.limits
            assert limits is not None, f"{operation.slug}: no limits"
            assert limits.source
            assert step.unit_price_usd == ENDPOINTS[step.endpoint].unit_price
            assert INPUT_SIDE_MIN <= (limits.input_side_min or 0) <= SIDE_MIN
            assert (limits.input_pixels_max or 0) <= INPUT_PIXELS_MAX
            assert (limits.output_pixels_max or 0) <= OUTPUT_PIXELS_MAX
            assert (step.adapter == ENLARGING) == (limits.enlarged_by is not None)


SIDES = st.integers(SIDE_MIN, SIDE_MAX) | st.integers(SIDE_MIN, 4000)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: size[0] * size[1] <= PIXELS_MAX)
FACTORS = st.none() | st.floats(1.5, 4).map(lambda factor: round(factor, 3))


def test_what_is_accepted_can_be_delivered(database: TestDatabase) -> None:
    """For every size that uploads take: accepted means that the model's answer passes our rule;
    refused names a factor, or a size of photo, that is accepted."""
    operations = _operations(database)
    conn = database.connection()

    def answer(slug: str, size: tuple[int, int], factor: float | None) -> dict[str, Any] | None:
        params = {} if factor is None else {"factor": factor}
        try:
            conn.execute(
                "select app.require_possible(operations, %s, %s, %s) from app.operations"
                " where slug = %s and is_active",
                (*size, msgspec.json.encode(params).decode(), slug),
            )
        except psycopg.Error as error:
            if error.sqlstate != "JS422":
                raise
            refusal: dict[str, Any] = msgspec.json.decode(error.diag.message_detail or "")
            return refusal
        return None

    @settings(max_examples=150, database=None)
    @example(size=PHONE, factor=None)
    @example(size=(7000, 7000), factor=None)
    @example(size=(1400, 1400), factor=4)
    @example(size=(64, 30_000), factor=2)
    @given(size=SIZES, factor=FACTORS)
    def each(size: tuple[int, int], factor: float | None) -> None:
        for operation in operations:
            refusal = answer(operation.slug, size, factor)
            if operation.steps[0].adapter != ENLARGING:
                assert refusal is None, "no other operation depends on the photo's size"
                continue
            ordered = factor or 2
            fits = size[0] * size[1] * ordered**2 <= 16_000_000
            if refusal is None:
                made = enlarged_size(size, {"upscale_factor": ordered})
                check_enlarged((made[0] / size[0], made[1] / size[1]), ordered)
                assert made[0] * made[1] <= OUTPUT_PIXELS_MAX
                assert math.isclose(made[0] / size[0], ordered, abs_tol=0.51 / size[0])
            elif refusal["reason"] == "factor_too_large":
                assert not fits
                largest = refusal["factor_max"]
                assert answer(operation.slug, size, largest) is None
                assert answer(operation.slug, size, largest + 0.02) is not None
            else:
                assert refusal["reason"] == "photo_too_large_to_enlarge"
                assert answer(operation.slug, size, 1.5) is not None
                assert size[0] * size[1] > refusal["limit_pixels"]

    each()


def test_what_is_not_refused_was_not_delivered_before() -> None:
    """The rule that a capped model breaks: what the refusals above are for."""
    made = enlarged_size(PHONE, {"upscale_factor": 2})
    with pytest.raises(OutputRuleError) as broken:
        check_enlarged((made[0] / PHONE[0], made[1] / PHONE[1]), 2)
    assert broken.value.reason == OutputFault.NOT_ENLARGED


def _choices(rule: dict[str, Any]) -> st.SearchStrategy[Any]:
    """The values that a parameter's rule allows."""
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    if rule["type"] == "string":
        words = st.text(st.characters(categories=["L", "N"]), min_size=rule["minLength"])
        return words.map(lambda text: text[: rule["maxLength"]])
    if rule["type"] == "integer":
        return st.integers(rule["minimum"], rule["maximum"])
    return st.floats(rule["minimum"], rule["maximum"])


@pytest.mark.parametrize("slug", ["cutout", "packshot", "scene", "scene_hd", "upscale"])
def test_no_step_refuses_parameters_that_the_catalogue_allows(
    database: TestDatabase, slug: str
) -> None:
    """By the schemas of the models' own pages, as the stand-in has them."""
    (operation,) = (each for each in _operations(database) if each.slug == slug)
    rules = operation.params_schema["properties"]
    required = {"preset": _choices(rules["preset"])} if "preset" in rules else {}
    optional = {name: _choices(rule) for name, rule in rules.items() if name not in required}

    @settings(max_examples=40, database=None)
    @given(st.fixed_dictionaries(required, optional=optional))
    def each(params: dict[str, Any]) -> None:
        for step in operation.steps:
            body = models.build_body(
                step=step, params=params, presets=operation.presets, image_url="https://x.test/a"
            )
            ENDPOINTS[step.endpoint].schema.model_validate(body)

    each()

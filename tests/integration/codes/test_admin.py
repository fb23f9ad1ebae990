"""Codes as admins make, find and withdraw them; what is kept of them; and who may."""

import re
import uuid
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import httpx

from core.codes.types import CodeKind, digest_of, new_code_text
from core.credits.types import Source
from core.settings import Settings
from tests.harness.codes import CodesHarness, problem
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.ledger import Ledger, admin_claims, connect, refused, scoped
from tests.harness.tokens import TokenIssuer


def audit(database: TestDatabase) -> list[tuple[str, str, str, dict[str, Any]]]:
    rows = database.rows(
        "select actor, action, target, detail from app.audit_log"
        " join app.audit_details on audit_id = id order by id"
    )
    return [(row["actor"], row["action"], row["target"], row["detail"]) for row in rows]


def as_admin(database: TestDatabase, statement: str, *, aal: str) -> None:
    with (
        connect(database.api_url) as conn,
        scoped(conn, "jewelshot_admin", admin_claims(database, aal=aal)),
    ):
        conn.execute(statement.encode())


def test_enums_equal_their_constraint(database: TestDatabase) -> None:
    enums: dict[str, type[StrEnum]] = {"codes_kind": CodeKind}
    for constraint, enum in enums.items():
        row = database.row(
            "select pg_get_constraintdef(oid) as text from pg_constraint where conname = %s",
            (constraint,),
        )
        assert set(re.findall(r"'([\w.]+)'", row["text"])) == {member.value for member in enum}
    assert {kind.value for kind in CodeKind} < {source.value for source in Source}


async def test_an_issue_is_shown_once_and_kept_as_hashes(
    codes: CodesHarness, database: TestDatabase
) -> None:
    answer = await codes.create(
        count=3, uses_max=5, campaign="fair", note="at the stand", credits_expire_after_days=90
    )
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    texts = [code["code"] for code in body["codes"]]
    assert len(set(texts)) == 3
    kept = str(database.rows("select * from app.codes, app.audit_log, app.audit_details"))
    for text in texts:
        assert digest_of(text) in {
            row["code_sha256"] for row in database.rows("select code_sha256 from app.codes")
        }
        assert text not in kept
        assert text[4:].replace("-", "") not in kept
    listed = (await codes.list(issue_id=body["issue_id"]))["items"]
    assert {row["id"] for row in listed} == {code["id"] for code in body["codes"]}
    assert {row["prefix"] for row in listed} == {text[:8] for text in texts}
    assert {tuple(row[name] for name in ("kind", "status", "credits", "uses", "uses_max",
        "campaign", "note", "created_by", "credits_expire_after_days")) for row in listed} == {
        ("promo", "active", 25, 0, 5, "fair", "at the stand", str(codes.admin_id), 90)
    }  # fmt: skip
    ((actor, action, target, detail),) = audit(database)
    assert (actor, action, target) == (str(codes.admin_id), "codes.create", body["issue_id"])
    assert detail["codes"] == 3


async def test_a_key_makes_one_issue(
    codes: CodesHarness, database: TestDatabase, ledger: Ledger
) -> None:
    first = (await codes.create(key="k", count=2)).json()
    again = await codes.create(key="k", count=2)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == {
        "issue_id": first["issue_id"],
        "codes": [{**code, "code": None} for code in first["codes"]],
    }
    assert [database.tables_with(code["code"]) for code in first["codes"]] == [[], []]
    three = await codes.create(key="k", count=3)
    assert problem(three) == (422, "idempotency-mismatch")
    assert ledger.value("select count(*) from app.codes") == 2

    database.rows("delete from app.idempotency_keys")  # as a day later
    late = await codes.create(key="k", count=2)
    assert problem(late) == (409, "conflict")
    assert late.json()["reason"] == "codes_shown_once"
    assert late.json()["issue_id"] == first["issue_id"]
    assert ledger.value("select count(*) from app.codes") == 2
    other = codes.other_admin()
    assert (await other.create(key="k")).status_code == 201
    answer = await codes.disable(f"code-issues/{first['issue_id']}")
    assert answer.json() == {"issue_id": first["issue_id"], "disabled": 2}
    answer = await codes.disable(f"code-issues/{first['issue_id']}")
    assert answer.json()["disabled"] == 0
    assert [(action, detail["codes"]) for _, action, _, detail in audit(database)] == [
        ("codes.create", 2), ("codes.create", 1), ("codes.disable", 2),
    ]  # fmt: skip


def test_a_repeated_transaction_keeps_the_same_codes(
    database: TestDatabase, ledger: Ledger
) -> None:
    """What a lost COMMIT leads to: the same issue with the same codes once more."""
    issue_id, code_id = uuid.uuid4(), uuid.uuid4()
    digest = digest_of(new_code_text())
    assert digest is not None
    with connect(database.api_url) as conn:
        for _ in range(2):
            with scoped(conn, "jewelshot_admin", admin_claims(database)):
                conn.execute(
                    "select app.create_codes(%s, 'gift', 5, 1, null, null, null, null,"
                    " jsonb_build_array(jsonb_build_object('id', %s::uuid, 'sha256', %s::text,"
                    " 'prefix', 'JSG-0000')))",
                    (issue_id, code_id, digest.hex()),
                )
    assert ledger.value("select count(*) from app.codes") == 1
    assert len(audit(database)) == 1


async def test_lists_are_filtered_and_paged(codes: CodesHarness, database: TestDatabase) -> None:
    made = [
        await codes.code(kind=kind, campaign=campaign, expires_at=expires_at)
        for kind, campaign, expires_at in [
            ("promo", "a", None),
            ("gift", "a", None),
            ("gift", "b", None),
            ("promo", None, codes.tomorrow()),
        ]
    ]
    ids = [code["id"] for code in reversed(made)]
    database.clock.advance(days=2)
    await codes.disable(f"codes/{ids[1]}")

    async def found(**filters: str) -> list[str]:
        return [row["id"] for row in (await codes.list(**filters))["items"]]

    page = await codes.list(limit=3)
    rest = await codes.list(limit=3, cursor=page["next_cursor"])
    assert [row["id"] for row in page["items"] + rest["items"]] == ids
    assert rest["next_cursor"] is None
    assert await found(kind="gift") == ids[1:3]
    assert await found(campaign="a") == ids[2:]
    assert await found(status="expired") == ids[:1]
    assert await found(status="disabled") == ids[1:2]
    assert await found(status="active", kind="promo") == ids[3:]
    assert await found(status="used_up") == []
    assert await found(prefix=made[0]["prefix"].lower()) == ids[3:]


async def test_one_code_with_those_who_redeemed_it(codes: CodesHarness, ledger: Ledger) -> None:
    code = await codes.code(uses_max=3)
    people = [ledger.user() for _ in range(3)]
    for person in people:
        await codes.redeem(person, code["code"])
    shown = await codes.read(code["id"])
    assert (shown["status"], shown["uses"], shown["prefix"]) == ("used_up", 3, code["prefix"])
    assert "code" not in shown
    first = await codes.redemptions(code["id"], limit=2)
    rest = await codes.redemptions(code["id"], limit=2, cursor=first["next_cursor"])
    rows = first["items"] + rest["items"]
    assert [row["user_id"] for row in rows] == [str(person) for person in reversed(people)]
    assert {(row["credits"], row["paid_debt"], row["credits_expire_at"]) for row in rows} == {
        (25, 0, None)
    }
    assert rest["next_cursor"] is None


async def test_disabling_is_audited_once(codes: CodesHarness, database: TestDatabase) -> None:
    code = await codes.code()
    first = await codes.disable(f"codes/{code['id']}")
    again = await codes.disable(f"codes/{code['id']}")
    assert first.json() == again.json()
    assert first.json()["status"] == "disabled"
    assert [(action, target) for _, action, target, _ in audit(database)][1:] == [
        ("codes.disable", code["id"])
    ]


async def test_what_is_not_there_is_404(codes: CodesHarness, client: httpx.AsyncClient) -> None:
    unknown = uuid.uuid4()
    answers = [
        await client.get(f"/v1/admin/codes/{unknown}", headers=codes.admin),
        await client.get(f"/v1/admin/codes/{unknown}/redemptions", headers=codes.admin),
        await codes.disable(f"codes/{unknown}"),
        await codes.disable(f"code-issues/{unknown}"),
    ]
    assert [problem(answer) for answer in answers] == [(404, "not-found")] * 4
    kinds = [answer.json()["kind"] for answer in answers]
    assert kinds == ["code", "code", "code", "code_issue"]


async def test_wrong_terms_say_so(codes: CodesHarness, database: TestDatabase) -> None:
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"kind": "purchase"}, 400),
        ({"credits": 0}, 400),
        ({"credits": 10_001}, 400),
        ({"uses_max": 0}, 400),
        ({"count": 501}, 400),
        ({"credits_expire_after_days": 0}, 400),
        ({"campaign": ""}, 400),
        ({"expires_at": "2999-01-01T00:00:00"}, 400),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 422),
        ({"note": "nul \x00"}, 400),
        ({"code": "JSG-0000-0000-0000-0000"}, 400),
    ]
    for terms, status in wrong:
        answer = await codes.create(**terms)
        assert answer.status_code == status, (terms, answer.text)
    assert database.rows("select id from app.codes") == []
    assert audit(database) == []


def test_the_function_checks_its_terms(database: TestDatabase) -> None:
    for field, terms in {
        "kind": "'purchase', 1, 1, null, null",
        "credits": "'gift', 0, 1, null, null",
        "uses_max": "'gift', 1, null, null, null",
        "expires_at": "'gift', 1, 1, now(), null",
        "credits_expire_after_days": "'gift', 1, 1, null, -1",
        "count": "'gift', 1, 1, null, null",
    }.items():
        statement = f"select app.create_codes(gen_random_uuid(), {terms}, null, null, '[]')"
        with refused("JS422") as refusal:
            as_admin(database, statement, aal="aal2")
        assert refusal.detail["field"] == field


async def test_only_admins_with_a_second_factor(
    client: httpx.AsyncClient, codes: CodesHarness, issuer: TokenIssuer, ledger: Ledger
) -> None:
    code = await codes.code()
    path = f"/v1/admin/codes/{code['id']}"
    lesser: list[dict[str, Any]] = [
        {},
        {"app_metadata": {"role": "admin"}, "aal": "aal1"},
        {"aal": "aal2"},
    ]
    for claims in lesser:
        headers = issuer.headers(ledger.user(), **claims)
        answers = [
            await client.get("/v1/admin/codes", headers=headers),
            await client.get(path, headers=headers),
            await client.post(f"{path}/disable", headers=headers),
            await client.post(
                "/v1/admin/codes", json={"kind": "gift", "credits": 1}, headers=headers
            ),
            await client.post(f"/v1/admin/code-issues/{uuid.uuid4()}/disable", headers=headers),
        ]
        assert [answer.status_code for answer in answers] == [403] * 5
    assert (await codes.read(code["id"]))["status"] == "active"


def test_the_database_asks_for_the_second_factor_again(database: TestDatabase) -> None:
    for statement in (
        "select app.create_codes(gen_random_uuid(), 'gift', 1, 1, null, null, null, null, '[]')",
        "select app.disable_codes(gen_random_uuid(), null)",
    ):
        with refused("JS403"):
            as_admin(database, statement, aal="aal1")


def test_not_even_an_admin_reads_the_hashes(database: TestDatabase) -> None:
    with refused("42501"):
        as_admin(database, "select code_sha256 from app.codes", aal="aal2")


async def test_the_break_glass_key_leaves_its_name(
    make_settings: Callable[..., Settings], issuer: TokenIssuer, database: TestDatabase
) -> None:
    key = "b" * 40
    settings = make_settings(admin_dashboard_key=key)
    async with api_client(settings, transport=issuer.transport()) as client:
        answer = await client.post(
            "/v1/admin/codes",
            json={"kind": "gift", "credits": 1},
            headers={"X-Admin-Key": key},
        )
        assert answer.status_code == 201, answer.text
    assert database.row("select created_by from app.codes")["created_by"] == "break-glass"
    assert [actor for actor, *_ in audit(database)] == ["break-glass"]

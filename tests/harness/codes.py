"""The two sides of the codes: an admin who makes codes and people who redeem them."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.harness.tokens import TokenIssuer

ADMIN: dict[str, Any] = {"app_metadata": {"role": "admin"}, "aal": "aal2"}


class CodesHarness:
    def __init__(self, client: httpx.AsyncClient, issuer: TokenIssuer) -> None:
        self._client = client
        self._issuer = issuer
        self.admin_id = uuid.uuid4()
        self.admin = issuer.headers(self.admin_id, **ADMIN)

    def other_admin(self) -> "CodesHarness":
        return CodesHarness(self._client, self._issuer)

    def of(self, user_id: uuid.UUID) -> dict[str, str]:
        return self._issuer.headers(user_id)

    @staticmethod
    def tomorrow() -> str:
        """When a code may expire."""
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        return at.isoformat().replace("+00:00", "Z")

    async def create(self, *, key: str | None = None, **terms: Any) -> httpx.Response:
        headers = {**self.admin, **({"Idempotency-Key": key} if key else {})}
        body = {"kind": "promo", "credits": 25, **terms}
        return await self._client.post("/v1/admin/codes", json=body, headers=headers)

    async def code(self, **terms: Any) -> dict[str, Any]:
        """One new code: its id, its text and its prefix."""
        answer = await self.create(**terms)
        assert answer.status_code == 201, answer.text
        (code,) = answer.json()["codes"]
        return dict(code)

    async def redeem(self, user_id: uuid.UUID, code: str) -> httpx.Response:
        return await self.redeem_as(self.of(user_id), code)

    async def redeem_as(self, headers: dict[str, str], code: str) -> httpx.Response:
        """With a token from before."""
        return await self._client.post("/v1/codes/redeem", json={"code": code}, headers=headers)

    async def read(self, code_id: str) -> dict[str, Any]:
        answer = await self._client.get(f"/v1/admin/codes/{code_id}", headers=self.admin)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def redemptions(self, code_id: str, **params: Any) -> dict[str, Any]:
        answer = await self._client.get(
            f"/v1/admin/codes/{code_id}/redemptions", headers=self.admin, params=params
        )
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def list(self, **params: Any) -> dict[str, Any]:
        answer = await self._client.get("/v1/admin/codes", headers=self.admin, params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def disable(self, path: str) -> httpx.Response:
        return await self._client.post(f"/v1/admin/{path}/disable", headers=self.admin)

    async def events(self, user_id: uuid.UUID, **params: Any) -> dict[str, Any]:
        answer = await self._client.get("/v1/me/events", headers=self.of(user_id), params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def problem(answer: httpx.Response) -> tuple[int, str]:
    """(status, slug) of a problem document."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, str(answer.json()["type"]).rpartition("/")[2]

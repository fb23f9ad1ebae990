"""An application whose database and Redis are never there: what the frame does by itself."""

from collections.abc import Callable

import pytest

from core.settings import Settings
from tests.harness.settings import NOWHERE, build_settings
from tests.harness.tokens import TokenIssuer


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer(NOWHERE)


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    def make(**overrides: object) -> Settings:
        nowhere = "postgresql://nobody@127.0.0.1:9/none"
        return build_settings(
            database_url=nowhere,
            worker_database_url=nowhere,
            redis_url="redis://127.0.0.1:9/0",
            redis_prefix="unit",
            **overrides,
        )

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()

"""One application, opened with other settings each time, keeps nothing of the time before."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from api.app import configure, create_app, install
from core.settings import Settings
from tests.harness.http import client_of

ORIGIN = "https://shop.example.com"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}


async def test_an_application_follows_the_settings_of_its_opening(
    make_settings: Callable[..., Settings],
) -> None:
    first = make_settings(
        public_base_url="https://first.example.com",
        cors_allowed_origins=(ORIGIN,),
        rate_limit_ip="1/minute",
        metrics_token="first-token",
    )
    second = make_settings(
        public_base_url="http://second.example.com", rate_limits_enabled=False, metrics_token=None
    )
    app = create_app(first)
    for settings in (first, second, first):
        configure(app, settings)
        resources = install(app)
        async with client_of(app) as client:
            missing = await client.get("/problems/nothing")
            refused = await client.get("/problems/nothing")
            preflight = await client.options("/v1/me", headers=PREFLIGHT)
            metrics = await client.get("/metrics", headers={"Authorization": "Bearer wrong"})
        await resources.http.aclose()
        await resources.redis.aclose()
        is_first = settings is first
        assert missing.status_code == 404
        assert missing.json()["type"].startswith(settings.public_base_url)
        assert ("strict-transport-security" in missing.headers) == is_first
        assert (refused.status_code == 429) == is_first
        assert ("access-control-allow-origin" in preflight.headers) == is_first
        assert (metrics.status_code == 401) == is_first
        assert _requests(resources.metrics.registry) == 4


def _requests(registry: CollectorRegistry) -> float:
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "jewelshot_http_requests_total"
    )

"""The process's clients and what else is made of Settings: built, opened and closed with the
application, and read from `app.state.resources` by each request."""

import dataclasses
import uuid
from collections import Counter
from typing import Any, TypeAlias

import httpx
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.params import SkipValidation
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.http.even import EvenAnswers
from api.limits import RateLimits
from api.metrics import HttpMetrics
from api.middleware.clients import ClientAddress
from core import keepalive
from core.changes import ChangeHub, ChangePublisher
from core.db import Database
from core.errors import NotSetUpError
from core.generations.providers.fal.webhook import WebhookVerifier
from core.identity.auth_settings import AuthSettings
from core.identity.supabase_auth import SupabaseAuth
from core.identity.tokens import TokenVerifier
from core.identity.turnstile import Turnstile
from core.nouns import queue_of
from core.payments.context import CheckoutContext
from core.payments.deadline import CLICK_SECONDS, Deadline
from core.payments.provider import PaymentProvider
from core.payments.stripe.client import StripeClient
from core.people.keys import PersonKeys, open_person_keys
from core.ratelimit import RateLimiter
from core.settings import Settings
from core.storage.supabase import SupabaseStorage
from core.storage.types import Storage
from core.tasks.wakeups import TaskQueue
from core.uploads.places import UploadPlaces

REDIS_TIMEOUT_SECONDS = 0.25
HTTP_TIMEOUT_SECONDS = 10.0
_START_SECONDS = 30.0


class AccountHolders:
    """People of whom this process knows that their accounts are open. Accounts stay open."""

    _PEOPLE_MAX = 100_000

    def __init__(self) -> None:
        self._ids: set[uuid.UUID] = set()

    def __contains__(self, user_id: uuid.UUID) -> bool:
        return user_id in self._ids

    def add(self, user_id: uuid.UUID) -> None:
        if len(self._ids) >= self._PEOPLE_MAX:
            self._ids.clear()  # for each of them the next request costs one short transaction
        self._ids.add(user_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    settings: Settings
    db: Database
    redis: Redis
    http: httpx.AsyncClient
    tokens: TokenVerifier
    limits: RateLimits
    auth: SupabaseAuth
    turnstile: Turnstile
    auth_settings: AuthSettings
    person_keys: PersonKeys
    storage: Storage
    queue: TaskQueue
    changes: ChangePublisher
    hub: ChangeHub
    fal_webhooks: WebhookVerifier
    payments: StripeClient | None
    """None: nothing is for sale, because there is no STRIPE_SECRET_KEY."""
    metrics: HttpMetrics
    upload_places: UploadPlaces
    clients: ClientAddress
    even: EvenAnswers
    account_holders: AccountHolders = dataclasses.field(default_factory=AccountHolders)
    streams: Counter[uuid.UUID] = dataclasses.field(default_factory=Counter)
    """Event streams that each person holds open here."""

    def require_payments(self) -> PaymentProvider:
        """Raises: NotSetUpError where nothing is for sale."""
        if self.payments is None:
            raise NotSetUpError(what="payments")
        return self.payments

    def checkout_context(self) -> CheckoutContext:
        """Raises: NotSetUpError where nothing is for sale."""
        return CheckoutContext(
            self.db, self.require_payments(), self.settings.landing_url, Deadline(CLICK_SECONDS)
        )

    async def open(self) -> None:
        await self.db.open(timeout_seconds=_START_SECONDS)
        await self.hub.open()

    async def close(self) -> None:
        await self.even.close()
        await self.hub.close()
        await self.tokens.close()
        if self.payments is not None:
            await self.payments.close()
        await self.queue.close()
        await self.http.aclose()
        await self.redis.aclose()
        await self.db.close()


def build_resources(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Resources:
    """`transport` lets a test serve the outside services in its own process."""
    http = httpx.AsyncClient(
        transport=transport,
        timeout=httpx.Timeout(HTTP_TIMEOUT_SECONDS, connect=3.0),
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20),
        follow_redirects=False,
    )
    redis = _build_redis(settings)
    queue = TaskQueue(settings, queue_of)
    return Resources(
        settings=settings,
        db=Database(
            settings.database_url.get_secret_value(),
            pool_size=settings.database_pool_size,
            name="api",
            wake=queue.wake,
        ),
        redis=redis,
        http=http,
        tokens=TokenVerifier(settings, http),
        limits=RateLimits(RateLimiter(redis, prefix=settings.redis_prefix), settings),
        auth=SupabaseAuth(settings, http),
        turnstile=Turnstile(settings, http),
        auth_settings=AuthSettings(settings, http),
        person_keys=open_person_keys(settings),
        storage=SupabaseStorage(settings, http),
        queue=queue,
        changes=ChangePublisher(settings, redis),
        hub=ChangeHub(settings, redis),
        fal_webhooks=WebhookVerifier(settings, http),
        metrics=HttpMetrics(),
        clients=ClientAddress(settings.trusted_proxies),
        upload_places=UploadPlaces(
            together=settings.uploads_in_hand_max, each=settings.uploads_in_hand_max_person
        ),
        even=EvenAnswers(settings.auth_answer_seconds),
        payments=None
        if settings.stripe_secret_key is None
        else StripeClient(settings, transport=transport),
    )


def resources_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Resources:
    resources: Resources = connection.app.state.resources
    return resources


def _build_redis(settings: Settings) -> Redis:
    """Redis is disposable: a request never waits for it longer than a quarter of a second."""
    client: Redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        **keepalive.REDIS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        client_name="jewelshot-api",
    )
    return client


# What a handler may ask for; the names are those of the parameters, and nothing is validated again.
AppResources: TypeAlias = NamedDependency[SkipValidation[Resources]]  # resources
Db: TypeAlias = NamedDependency[SkipValidation[Database]]  # db
AppSettings: TypeAlias = NamedDependency[SkipValidation[Settings]]  # settings
Limits: TypeAlias = NamedDependency[SkipValidation[RateLimits]]  # limits


def provide_resources(request: Request[Any, Any, Any]) -> Resources:
    return resources_of(request)


def provide_db(request: Request[Any, Any, Any]) -> Database:
    return resources_of(request).db


def provide_settings(request: Request[Any, Any, Any]) -> Settings:
    return resources_of(request).settings


def provide_limits(request: Request[Any, Any, Any]) -> RateLimits:
    return resources_of(request).limits


DEPENDENCIES = {
    "resources": Provide(provide_resources, sync_to_thread=False),
    "db": Provide(provide_db, sync_to_thread=False),
    "settings": Provide(provide_settings, sync_to_thread=False),
    "limits": Provide(provide_limits, sync_to_thread=False),
}

"""Rate limits: what is counted, and for whom.

A caller is a person who has signed in, and a network (core/networks.py). A token replaces the
network's count only on routes that need one: who has used a network up gets no further on public
routes by attaching tokens. All limits that a route names are counted in one round trip to Redis.

Guessing is counted by whom is guessed at *and* the network that guesses, so that a stranger locks
out himself and not the owner; over all networks together only failures count, far higher, and
networks from which this person has signed in before pass.
"""

import contextlib
import hmac
from collections.abc import AsyncIterator
from enum import StrEnum

import msgspec

from core.errors import InvalidInputError, RateLimitedError
from core.identity.errors import BadCredentialsError
from core.networks import network_of
from core.ratelimit import Decision, Limit, RateLimiter, parse_limit
from core.settings import Settings

# Every open tab refreshes about once an hour; a whole office may share one network. With sign-in it
# stays below what Supabase Auth takes from one address: 150 in 5 minutes, 30 at once.
_REFRESH = Limit("refresh", 120, 300)
_SESSIONS = Limit("sessions", 30, 60)
# Each try counts, right or wrong, before the code is read: many at once get no further.
_CODES = Limit("codes", 10, 3600)
# Enough for a buyer in an hour, and too few for trying out stolen cards. People who try these out
# use many accounts, and an office or a fair shares one network.
_CHECKOUT = Limit("checkout", 20, 3600)
_PORTAL = Limit("portal", 20, 3600)
# Genuine deliveries are never counted.
_FORGED = Limit("forged-webhooks", 60, 60)
# More to one address are not sent: each voids the link before, which its owner may be opening.
_MAILS_TO_ONE = Limit("mails-to-one", 6, 3600)

KNOWN_NETWORK_SECONDS = 60 * 86_400


class Per(StrEnum):
    """Whose count a rule looks at."""

    CALLER = "caller"
    """The person; the network where nobody has signed in."""
    NETWORK = "network"
    BOTH = "both"


class Rule(msgspec.Struct, frozen=True):
    """One limit of a route. Routes of the same name count together unless `by_route`."""

    limit: Limit
    per: Per
    by_route: bool = False


class Guess(msgspec.Struct, frozen=True):
    """What may be guessed. `pair` is for one network at one person, `alone` for failures at one
    person from anywhere."""

    pair: Limit
    alone: Limit


# A network has 30 tries in an hour, so it takes seventeen of them to reach the second figure.
PASSWORD = Guess(Limit("guess", 30, 3600), Limit("guess-anywhere", 500, 3600))
# Of 8 digits, valid for an hour: 20 tries are one in five million. The link in the same mail works
# all the same.
MAILED_CODE = Guess(Limit("code", 5, 900), Limit("code-anywhere", 20, 3600))
# Of 6 digits, three of which are right at a time.
FACTOR_CODE = Guess(Limit("factor", 5, 300), Limit("factor-anywhere", 50, 3600))


class RateLimits:
    """The limits of this process. RATE_LIMITS_ENABLED turns all off but `check_always`."""

    def __init__(self, limiter: RateLimiter, settings: Settings) -> None:
        self._limiter = limiter
        self._is_enabled = settings.rate_limits_enabled
        self._user = parse_limit("user", settings.rate_limit_user)
        self._ip = parse_limit("ip", settings.rate_limit_ip)
        self._mails = parse_limit("mails", settings.rate_limit_mails)
        self._mails_of_site = Limit(
            "mails-of-site", 2 * self._mails.amount, self._mails.window_seconds
        )
        # Keyed, so that who reads Redis cannot look up whose addresses these are.
        self._key = settings.supabase_secret_key.get_secret_value().encode()
        auth = Rule(parse_limit("auth", settings.rate_limit_auth), Per.BOTH, by_route=True)
        sessions = Rule(_SESSIONS, Per.NETWORK)
        self._named: dict[str, tuple[Rule, ...]] = {
            "auth": (auth,),
            "sign_in": (auth, sessions),
            "refresh": (Rule(_REFRESH, Per.NETWORK), sessions),
            "codes": (Rule(_CODES, Per.CALLER), Rule(Limit("codes-ip", 60, 3600), Per.NETWORK)),
            "checkout": (
                Rule(_CHECKOUT, Per.CALLER, by_route=True),
                Rule(Limit("checkout-ip", 60, 3600), Per.NETWORK),
            ),
            "portal": (Rule(_PORTAL, Per.CALLER), Rule(Limit("portal-ip", 60, 3600), Per.NETWORK)),
        }

    async def count_request(
        self,
        *,
        user_id: object | None,
        client_ip: str,
        named: str | None,
        route: str,
        is_public: bool,
    ) -> Decision | None:
        """Count one request against the limits of all routes and those that its route names.
        None while the limits are off."""
        if not self._is_enabled:
            return None
        network = f"ip:{network_of(client_ip)}"
        user = None if user_id is None else f"user:{user_id}"
        checks = [] if user is None else [(self._user, user)]
        if user is None or is_public:
            checks.append((self._ip, network))
        for rule in self._named[named] if named is not None else ():
            subjects = [network] if rule.per is not Per.CALLER or user is None else []
            if user is not None and rule.per is not Per.NETWORK:
                subjects.append(user)
            suffix = f":{route}" if rule.by_route else ""
            checks += [(rule.limit, subject + suffix) for subject in subjects]
        return await self._limiter.hit(checks)

    @contextlib.asynccontextmanager
    async def guessing(self, guess: Guess, whom: str, client_ip: str) -> AsyncIterator[None]:
        """Around what checks a password or a code; its BadCredentialsError is a wrong guess.

        Raises: RateLimitedError.
        """
        if not self._is_enabled:
            yield
            return
        person = self._digest(whom)
        pair = self._pair(whom, client_ip)
        await self._check_guess(guess, person, pair)
        try:
            yield
        except BadCredentialsError:
            await self._limiter.hit([(guess.alone, person)])
            raise
        await self._settle(guess, pair)

    async def remember_network(self, email: str, client_ip: str) -> None:
        """This person signed in from this network without a guess, by a mailed link."""
        if self._is_enabled:
            await self._settle(PASSWORD, self._pair(email, client_ip))

    async def _settle(self, guess: Guess, pair: str) -> None:
        await self._limiter.settle(guess.pair, pair, remember=pair, seconds=KNOWN_NETWORK_SECONDS)

    async def _check_guess(self, guess: Guess, person: str, pair: str) -> None:
        counted = (guess.pair, pair)
        decision = await self._limiter.hit([counted], looks=[(guess.alone, person)])
        if not decision.allowed and decision.limit == guess.alone:
            if not await self._limiter.remembers(pair):
                refuse_unless_allowed(decision)
            decision = await self._limiter.hit([counted])
        refuse_unless_allowed(decision)

    @contextlib.asynccontextmanager
    async def mailing(self, kind: str, email: str, client_ip: str) -> AsyncIterator[bool]:
        """Around what makes the sign-in service send a mail. False: this address has had enough of
        them, so send none, and do not tell the caller. What is refused for its form sent none.

        The mails of one network count by /24 and /64, because the project's are few; and, twice as
        many, by the /48 that one household of IPv6 may own.

        Raises: RateLimitedError, for the network only.
        """
        if not self._is_enabled:
            yield True
            return
        by_network = [
            (self._mails, network_of(client_ip, ipv4_prefix=24)),
            (self._mails_of_site, network_of(client_ip, ipv4_prefix=24, ipv6_prefix=48)),
        ]
        refuse_unless_allowed(await self._limiter.hit(by_network))
        to_one = (_MAILS_TO_ONE, f"{self._digest(email)}:{kind}")
        may_send = (await self._limiter.hit([to_one])).allowed
        try:
            yield may_send
        except InvalidInputError:
            await self._limiter.give_back([*by_network, to_one] if may_send else by_network)
            raise

    async def count_forged_webhook(self, client_ip: str) -> None:
        """Raises: RateLimitedError."""
        if self._is_enabled:
            await self.check_always(_FORGED, client_ip)

    async def check_always(self, limit: Limit, client_ip: str) -> None:
        """Also while the limits are off.  Raises: RateLimitedError."""
        subject = f"ip:{network_of(client_ip)}"
        refuse_unless_allowed(await self._limiter.hit([(limit, subject)]))

    def _pair(self, whom: str, client_ip: str) -> str:
        """Whoever guesses at one person has all networks of the /48 that a household may own."""
        return f"{self._digest(whom)}:{network_of(client_ip, ipv6_prefix=48)}"

    def _digest(self, whom: str) -> str:
        # The one letter that we and the sign-in service would make small in two ways.
        name = whom.strip().replace("\u0130", "i").lower()
        return hmac.digest(self._key, name.encode(), "sha256").hex()[:32]


def refuse_unless_allowed(decision: Decision) -> None:
    """Raises: RateLimitedError."""
    if not decision.allowed:
        raise RateLimitedError(
            retry_after_seconds=decision.retry_after_seconds, policy=decision.limit.name
        )

"""The account of the key, which a check at start-up reads."""

import stripe

from sandbox.stripe.common import Params
from sandbox.stripe.engine import Cause, Sandbox, blank
from sandbox.stripe.store import Obj

ACCOUNT = "acct_sandbox"


def retrieve(_box: Sandbox, _cause: Cause, _params: Params) -> Obj:
    return blank(stripe.Account, "account", ACCOUNT) | {
        "charges_enabled": True,
        "country": "DE",
        "created": 1_700_000_000,
        "default_currency": "usd",
        "details_submitted": True,
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }

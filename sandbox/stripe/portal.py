"""Customer portal sessions; the page is in `pages`."""

import stripe

from sandbox.stripe.common import Params, named
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.store import Obj


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    if "customer" not in params:
        raise invalid(
            "Missing required param: customer.", code="parameter_missing", param="customer"
        )
    customer = named(box, "customer", params["customer"], "customer")
    session = blank(stripe.billing_portal.Session, "billing_portal.session", new_id("bps_1"))
    session |= {
        "configuration": params.get("configuration", "bpc_sandbox"),
        "created": box.now(),
        "customer": customer["id"],
        "livemode": False,
        "locale": params.get("locale"),
        "return_url": params.get("return_url"),
        # The id is in every log of the API; what opens the page is not.
        "url": f"{cause.base_url}/p/session/{new_id('test_', 48)}",
    }
    box.store.save(session)
    box.emit(cause, "billing_portal.session.created", session)
    return public(session)


def find_by_url(box: Sandbox, token: str) -> Obj | None:
    for session in box.store.all("billing_portal.session"):
        if session["url"].endswith(f"/{token}"):
            return session
    return None

"""The customer portal: its configurations and sessions; the page is in `pages`."""

from typing import Any

import stripe

from sandbox.stripe.common import Params, copy_fields, get, named, new_metadata, update_fields
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

CONFIGURATION = "billing_portal.configuration"
_FEATURES = (
    "customer_update",
    "invoice_history",
    "payment_method_update",
    "subscription_cancel",
    "subscription_update",
)


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    if "customer" not in params:
        raise invalid(
            "Missing required param: customer.", code="parameter_missing", param="customer"
        )
    customer = named(box, "customer", params["customer"], "customer")
    session = blank(stripe.billing_portal.Session, "billing_portal.session", new_id("bps_1"))
    session |= {
        "configuration": _configuration(box, params),
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


def create_configuration(box: Sandbox, cause: Cause, params: Params) -> Obj:
    features = params.get("features", {})
    if not any(feature.get("enabled") for feature in features.values()):
        raise invalid("At least one feature must be enabled.", param="features")
    made = blank(stripe.billing_portal.Configuration, CONFIGURATION, new_id("bpc_1"))
    made |= {
        "active": True,
        "business_profile": {
            "headline": None,
            "privacy_policy_url": None,
            "terms_of_service_url": None,
        }
        | (params.get("business_profile") or {}),
        "created": box.now(),
        "features": {name: {"enabled": False, **features.get(name, {})} for name in _FEATURES},
        # Only what is saved in the Dashboard is the default.
        "is_default": False,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": new_metadata(params),
        "updated": box.now(),
    }
    copy_fields(made, params, ("default_return_url", "name"))
    box.store.save(made)
    box.emit(cause, "billing_portal.configuration.created", made)
    return public(made)


def retrieve_configuration(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, CONFIGURATION, id_))


def update_configuration(box: Sandbox, _cause: Cause, params: Params, id_: str) -> Obj:
    found = get(box, CONFIGURATION, id_)
    update_fields(found, params, ("active", "default_return_url", "name"))
    for name, change in params.get("features", {}).items():
        found["features"][name] |= change
    return public(box.store.save(found))


def list_configurations(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    url = "/v1/billing_portal/configurations"
    return list_kind(box, CONFIGURATION, params, url, by=("active", "is_default"))


def _configuration(box: Sandbox, params: Params) -> Any:
    if "configuration" in params:
        named(box, CONFIGURATION, params["configuration"], "configuration")
        return params["configuration"]
    if box.tuning.portal_saved:
        return "bpc_saved_in_the_dashboard"
    raise invalid(
        "No configuration provided and your test mode default configuration has not been created. "
        "Provide a configuration or create your default by saving your customer portal settings in "
        "test mode at https://dashboard.stripe.com/test/settings/billing/portal."
    )

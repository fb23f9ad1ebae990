"""Webhook endpoints. The secret is shown once, when the endpoint is made."""

import time

from sandbox.stripe.common import Params, copy_fields, get, new_metadata, update_fields
from sandbox.stripe.config import API_VERSION
from sandbox.stripe.engine import Cause, Sandbox, new_id, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import PRIVATE, Obj

ENDPOINTS_MAX = 16  # https://docs.stripe.com/webhooks


def create(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    if box.store.count("webhook_endpoint") >= ENDPOINTS_MAX:
        raise invalid(
            f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints.",
            param="url",
        )
    _require_url(params["url"])
    secret = new_id("whsec_", 32)
    endpoint: Obj = {
        "id": new_id("we_1"),
        "object": "webhook_endpoint",
        "api_version": params.get("api_version") or API_VERSION,
        "application": None,
        "created": box.now(),
        "description": params.get("description") or None,
        "enabled_events": _events(params),
        "livemode": False,
        "metadata": new_metadata(params),
        "status": "enabled",
        "url": params["url"],
        PRIVATE: {"secrets": [{"secret": secret, "expires_at": None}]},
    }
    box.store.save(endpoint)
    return {**public(endpoint), "secret": secret}


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "webhook_endpoint", id_))


def update(box: Sandbox, _cause: Cause, params: Params, id_: str) -> Obj:
    """Its `api_version` stays as it was made."""
    endpoint = get(box, "webhook_endpoint", id_)
    if "url" in params:
        _require_url(params["url"])
    if "enabled_events" in params:
        endpoint["enabled_events"] = _events(params)
    if "disabled" in params:
        endpoint["status"] = "disabled" if params["disabled"] else "enabled"
    update_fields(endpoint, params, ())
    copy_fields(endpoint, params, ("description", "url"))
    return public(box.store.save(endpoint))


def delete(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    get(box, "webhook_endpoint", id_)
    box.store.remove("webhook_endpoint", id_)
    return {"id": id_, "object": "webhook_endpoint", "deleted": True}


def list_endpoints(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, "webhook_endpoint", params, "/v1/webhook_endpoints")


def roll(box: Sandbox, endpoint: Obj, old_lives_seconds: float) -> str:
    """A new secret; the old ones sign for a while yet, as the Dashboard lets one choose."""
    secret = new_id("whsec_", 32)
    until = time.time() + old_lives_seconds
    for old in endpoint[PRIVATE]["secrets"]:
        old["expires_at"] = until if old["expires_at"] is None else min(old["expires_at"], until)
    endpoint[PRIVATE]["secrets"].insert(0, {"secret": secret, "expires_at": None})
    box.store.save(endpoint)
    return secret


def _events(params: Params) -> list[str]:
    events: list[str] = params["enabled_events"]
    if not events:
        raise invalid("Invalid array: must not be empty", param="enabled_events")
    if "*" in events and len(events) > 1:
        raise invalid(
            "You cannot mix `*` with other events in `enabled_events`.", param="enabled_events"
        )
    return list(dict.fromkeys(events))


def _require_url(url: str) -> None:
    """Any address can be registered; events are sent to allowed ones only (`is_allowed`)."""
    if not url.startswith(("http://", "https://")):
        raise invalid("Not a valid URL", code="url_invalid", param="url")

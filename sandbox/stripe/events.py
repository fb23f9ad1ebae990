"""Events as the API shows them; `engine` makes them and `webhooks` sends them."""

from fnmatch import fnmatchcase

from sandbox.stripe.common import Params, get
from sandbox.stripe.engine import Cause, Sandbox, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

TYPES_MAX = 20
KEPT_SECONDS = 30 * 86_400  # https://docs.stripe.com/api/events


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, "event", id_))


def list_events(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    types = params.get("types")
    if types is not None:
        _require_types(params, types)
    pattern = params.get("type", "*")
    success = params.get("delivery_success")
    oldest = box.now() - KEPT_SECONDS

    def keep(event: Obj) -> bool:
        return (
            event["created"] >= oldest
            and (types is None or event["type"] in types)
            and fnmatchcase(event["type"], pattern)
            and (success is None or success == (event["pending_webhooks"] == 0))
        )

    shown = {name: value for name, value in params.items() if name not in {"type", "types"}}
    return list_kind(box, "event", shown, "/v1/events", keep=keep)


def _require_types(params: Params, types: list[str]) -> None:
    if "type" in params:
        raise invalid("You may only specify one of these parameters: type, types.")
    if len(types) > TYPES_MAX:
        raise invalid(f"You may only specify up to {TYPES_MAX} types.", param="types")
    for name in types:
        if "*" in name:
            # Documented as "specific event names"; `type` is the one that takes a group.
            raise invalid(f"Invalid event type: {name}", param="types")

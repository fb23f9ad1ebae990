"""What stands in the way of an order from the catalogue."""

from core.errors import Reason


class CatalogReason(Reason):
    PARAMS_DO_NOT_FIT = "params_do_not_fit"

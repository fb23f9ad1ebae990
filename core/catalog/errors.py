"""Why a run of an operation of the catalogue is refused."""

from core.errors import Reason


class CatalogReason(Reason):
    PARAMS_DO_NOT_FIT = "params_do_not_fit"

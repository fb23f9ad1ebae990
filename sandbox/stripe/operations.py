"""The table of what the API can do: method and path, the parameters' type, the handler."""

from collections.abc import Callable
from typing import Any, NamedTuple

from stripe import params as p
from stripe.params import billing_portal, checkout, radar

from sandbox.stripe import (
    account,
    catalog,
    credit_notes,
    customers,
    discounts,
    disputes,
    endpoints,
    events,
    fraud_warnings,
    invoices,
    payments,
    portal,
    refunds,
    sessions,
)
from sandbox.stripe.store import Obj

Handler = Callable[..., Obj]


class Operation(NamedTuple):
    params: Any  # a TypedDict of the SDK
    handle: Handler


_TABLE: tuple[tuple[str, str, Any, Handler], ...] = (
    ("GET", "account", p.AccountRetrieveCurrentParams, account.retrieve),
    (
        "GET",
        "billing_portal/configurations",
        billing_portal.ConfigurationListParams,
        portal.list_configurations,
    ),
    (
        "POST",
        "billing_portal/configurations",
        billing_portal.ConfigurationCreateParams,
        portal.create_configuration,
    ),
    (
        "GET",
        "billing_portal/configurations/*",
        billing_portal.ConfigurationRetrieveParams,
        portal.retrieve_configuration,
    ),
    (
        "POST",
        "billing_portal/configurations/*",
        billing_portal.ConfigurationUpdateParams,
        portal.update_configuration,
    ),
    ("POST", "billing_portal/sessions", billing_portal.SessionCreateParams, portal.create),
    ("GET", "charges", p.ChargeListParams, payments.list_charges),
    ("GET", "charges/*", p.ChargeRetrieveParams, payments.retrieve_charge),
    ("POST", "charges/*", p.ChargeUpdateParams, payments.update_charge),
    ("GET", "checkout/sessions", checkout.SessionListParams, sessions.list_sessions),
    ("POST", "checkout/sessions", checkout.SessionCreateParams, sessions.create),
    ("GET", "checkout/sessions/*", checkout.SessionRetrieveParams, sessions.retrieve),
    ("POST", "checkout/sessions/*", checkout.SessionUpdateParams, sessions.update),
    ("POST", "checkout/sessions/*/expire", checkout.SessionExpireParams, sessions.expire),
    (
        "GET",
        "checkout/sessions/*/line_items",
        checkout.SessionLineItemListParams,
        sessions.list_line_items,
    ),
    ("GET", "coupons", p.CouponListParams, discounts.list_coupons),
    ("POST", "coupons", p.CouponCreateParams, discounts.create_coupon),
    ("GET", "coupons/*", p.CouponRetrieveParams, discounts.retrieve_coupon),
    ("POST", "coupons/*", p.CouponUpdateParams, discounts.update_coupon),
    ("DELETE", "coupons/*", p.CouponDeleteParams, discounts.delete_coupon),
    ("GET", "credit_notes", p.CreditNoteListParams, credit_notes.list_notes),
    ("POST", "credit_notes", p.CreditNoteCreateParams, credit_notes.create),
    ("GET", "credit_notes/*", p.CreditNoteRetrieveParams, credit_notes.retrieve),
    ("GET", "customers", p.CustomerListParams, customers.list_customers),
    ("POST", "customers", p.CustomerCreateParams, customers.create),
    ("GET", "customers/*", p.CustomerRetrieveParams, customers.retrieve),
    ("POST", "customers/*", p.CustomerUpdateParams, customers.update),
    ("DELETE", "customers/*", p.CustomerDeleteParams, customers.delete),
    ("GET", "disputes", p.DisputeListParams, disputes.list_disputes),
    ("GET", "disputes/*", p.DisputeRetrieveParams, disputes.retrieve),
    ("POST", "disputes/*", p.DisputeUpdateParams, disputes.update),
    ("POST", "disputes/*/close", p.DisputeCloseParams, disputes.close),
    ("GET", "events", p.EventListParams, events.list_events),
    ("GET", "events/*", p.EventRetrieveParams, events.retrieve),
    ("GET", "invoice_payments", p.InvoicePaymentListParams, invoices.list_payments),
    ("GET", "invoice_payments/*", p.InvoicePaymentRetrieveParams, invoices.retrieve_payment),
    ("GET", "invoices", p.InvoiceListParams, invoices.list_invoices),
    ("GET", "invoices/*", p.InvoiceRetrieveParams, invoices.retrieve),
    ("GET", "payment_intents", p.PaymentIntentListParams, payments.list_intents),
    ("POST", "payment_intents", p.PaymentIntentCreateParams, payments.create),
    ("GET", "payment_intents/*", p.PaymentIntentRetrieveParams, payments.retrieve),
    ("POST", "payment_intents/*", p.PaymentIntentUpdateParams, payments.update),
    ("POST", "payment_intents/*/cancel", p.PaymentIntentCancelParams, payments.cancel),
    ("POST", "payment_intents/*/confirm", p.PaymentIntentConfirmParams, payments.confirm),
    ("GET", "prices", p.PriceListParams, catalog.list_prices),
    ("POST", "prices", p.PriceCreateParams, catalog.create_price),
    ("GET", "prices/*", p.PriceRetrieveParams, catalog.retrieve_price),
    ("POST", "prices/*", p.PriceUpdateParams, catalog.update_price),
    ("GET", "products", p.ProductListParams, catalog.list_products),
    ("POST", "products", p.ProductCreateParams, catalog.create_product),
    ("GET", "products/*", p.ProductRetrieveParams, catalog.retrieve_product),
    ("POST", "products/*", p.ProductUpdateParams, catalog.update_product),
    ("DELETE", "products/*", p.ProductDeleteParams, catalog.delete_product),
    ("GET", "promotion_codes", p.PromotionCodeListParams, discounts.list_codes),
    ("POST", "promotion_codes", p.PromotionCodeCreateParams, discounts.create_code),
    ("GET", "promotion_codes/*", p.PromotionCodeRetrieveParams, discounts.retrieve_code),
    ("POST", "promotion_codes/*", p.PromotionCodeUpdateParams, discounts.update_code),
    (
        "GET",
        "radar/early_fraud_warnings",
        radar.EarlyFraudWarningListParams,
        fraud_warnings.list_warnings,
    ),
    (
        "GET",
        "radar/early_fraud_warnings/*",
        radar.EarlyFraudWarningRetrieveParams,
        fraud_warnings.retrieve,
    ),
    ("GET", "refunds", p.RefundListParams, refunds.list_refunds),
    ("POST", "refunds", p.RefundCreateParams, refunds.create),
    ("GET", "refunds/*", p.RefundRetrieveParams, refunds.retrieve),
    ("POST", "refunds/*", p.RefundUpdateParams, refunds.update),
    ("POST", "refunds/*/cancel", p.RefundCancelParams, refunds.cancel),
    ("GET", "webhook_endpoints", p.WebhookEndpointListParams, endpoints.list_endpoints),
    ("POST", "webhook_endpoints", p.WebhookEndpointCreateParams, endpoints.create),
    ("GET", "webhook_endpoints/*", p.WebhookEndpointRetrieveParams, endpoints.retrieve),
    ("POST", "webhook_endpoints/*", p.WebhookEndpointUpdateParams, endpoints.update),
    ("DELETE", "webhook_endpoints/*", p.WebhookEndpointDeleteParams, endpoints.delete),
)
_OPERATIONS = {(method, path): Operation(params, handle) for method, path, params, handle in _TABLE}
_NOUNS = frozenset(
    {
        "billing_portal/configurations",
        "billing_portal/sessions",
        "checkout/sessions",
        "radar/early_fraud_warnings",
    }
)


def find_operation(method: str, path: str) -> tuple[Operation, tuple[str, ...]] | None:
    """`path` without `/v1/`: `refunds/re_1/cancel` is `refunds/*/cancel` of `re_1`."""
    segments = path.split("/")
    size = 2 if "/".join(segments[:2]) in _NOUNS else 1
    noun, rest = segments[:size], segments[size:]
    pattern = "/".join([*noun, *("*" if place == 0 else verb for place, verb in enumerate(rest))])
    operation = _OPERATIONS.get((method, pattern))
    return None if operation is None else (operation, tuple(rest[:1]))

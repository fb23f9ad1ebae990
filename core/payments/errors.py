"""Why an order is not created, paid again or returned."""

from core.errors import ConflictError, InJobs, InvalidInputError, QuotaError, Reason


class PaymentReason(Reason):
    BUYING_STOPPED = "buying_stopped"
    FROM_TO_OR_TYPES_NEEDED = "from_to_or_types_needed"
    NOT_RETRYABLE = "not_retryable"
    ORDER_ENDED = "order_ended"
    NOT_IN_REVIEW = "not_in_review"
    PAYMENT_ARRIVED = "payment_arrived"
    PRICE_CHANGED = "price_changed"
    RETURN_IT_INSTEAD = "return_it_instead"
    UNPAID_ORDERS = "unpaid_orders"


class ReturnReason(Reason):
    """Why money of an order is not returned."""

    ALL_RETURNED = "all_returned"
    ALL_SPENT = "all_spent"
    DISPUTED = "disputed"
    IN_REVIEW = "in_review"
    MORE_THAN_LEFT = "more_than_left"
    MORE_THAN_UNUSED = "more_than_unused"
    NOT_PAID = "not_paid"
    RETURNS_PER_MONTH = "returns_per_month"
    NOTHING_PAID = "nothing_paid"
    TIME_OVER = "time_over"
    WORTH_NOTHING = "worth_nothing"


class ReturnTooLateError(ConflictError):
    in_jobs = InJobs.NEVER
    for_reasons = (ReturnReason.TIME_OVER,)

    refund_days: int


class ReturnTooLargeError(InvalidInputError):
    """`left` is what can be returned: unused credits, or money in the smallest unit."""

    in_jobs = InJobs.NEVER
    for_reasons = (ReturnReason.MORE_THAN_UNUSED, ReturnReason.MORE_THAN_LEFT)

    left: int


class ReturnsPerMonthError(QuotaError):
    """The buyer has had as many returns within 30 days as there may be."""

    in_jobs = InJobs.NEVER
    for_reasons = (ReturnReason.RETURNS_PER_MONTH,)

    retry_after_seconds: int

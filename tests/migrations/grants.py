"""Who may do what: the whole list. What is not named here must not be possible.

A migration that makes a table or a function, or grants anything, changes this file in the same
commit; that is the point of it. Owners are not listed, they may do everything with what is theirs.
"""

# Everyone who could sign in or be acted as, but for the owner of the tables and superusers.
ROLES = (
    "anon",
    "authenticated",
    "service_role",
    "authenticator",
    "jewelshot_api",
    "jewelshot_admin",
    "jewelshot_worker",
    "jewelshot_ledger",
)

# table | role | verbs, columns in parentheses where not all
TABLES = """
account_events     | authenticated    | select
account_events     | jewelshot_admin  | select
account_events     | jewelshot_ledger | select, insert
audit_log          | jewelshot_admin  | select
audit_log          | jewelshot_ledger | select, insert
balance_terms      | jewelshot_admin  | select
balance_terms      | jewelshot_ledger | select
code_redemptions   | jewelshot_admin  | \
select(code_id credits credits_expire_at lot_id paid_debt redeemed_at user_id)
code_redemptions   | jewelshot_ledger | select, insert
codes              | jewelshot_admin  | \
select(batch_id campaign created_at created_by credits credits_expire_after_days disabled_at \
expires_at id kind note prefix uses uses_max)
codes              | jewelshot_ledger | select, insert, update(disabled_at uses)
credit_accounts    | authenticated    | select
credit_accounts    | jewelshot_admin  | select
credit_accounts    | jewelshot_ledger | select, insert, update(available debt reserved updated_at)
credit_accounts    | jewelshot_worker | select
credit_lots        | authenticated    | select
credit_lots        | jewelshot_admin  | select
credit_lots        | jewelshot_ledger | select, insert, update(expires_at remaining)
credit_lots        | jewelshot_worker | select
dead_letters       | jewelshot_admin  | select
dead_letters       | jewelshot_ledger | select, insert, update(replayed_at)
dead_letters       | jewelshot_worker | select
generation_events  | authenticated    | select
generation_events  | jewelshot_admin  | select
generation_events  | jewelshot_ledger | select, insert
generation_events  | jewelshot_worker | select
generations        | authenticated    | select
generations        | jewelshot_admin  | select
generations        | jewelshot_ledger | select, insert, update
generations        | jewelshot_worker | select
idempotency_keys   | jewelshot_ledger | select, insert, delete
idempotency_keys   | jewelshot_worker | select, delete
late_images        | authenticated    | select
late_images        | jewelshot_admin  | select
late_images        | jewelshot_ledger | select, insert, update
late_images        | jewelshot_worker | select, delete
ledger_transfers   | authenticated    | select
ledger_transfers   | jewelshot_admin  | select
ledger_transfers   | jewelshot_ledger | select, insert
ledger_transfers   | jewelshot_worker | select
metric_counters    | jewelshot_ledger | select
metric_counters    | jewelshot_worker | select, insert, update(value)
operations         | anon             | select
operations         | authenticated    | select
operations         | jewelshot_admin  | select
operations         | jewelshot_api    | select
operations         | jewelshot_ledger | select
operations         | jewelshot_worker | select
outbox             | jewelshot_admin  | select
outbox             | jewelshot_ledger | select, insert, update, delete
outbox             | jewelshot_worker | select, insert, delete, \
update(attempts due_at last_error lease_token lease_until)
provider_accounts  | jewelshot_admin  | select
provider_accounts  | jewelshot_ledger | select, insert, update
provider_accounts  | jewelshot_worker | select, \
update(breaker_failures breaker_reason breaker_state breaker_until cooldown_until)
provider_calls     | authenticated    | \
select(accepted_at attempt billable_units created_at ended_at endpoint error_type generation_id \
http_status id is_resubmission state step user_id)
provider_calls     | jewelshot_admin  | select
provider_calls     | jewelshot_ledger | select, insert, update
provider_calls     | jewelshot_worker | select, update(next_poll_at polls)
provider_keys      | jewelshot_admin  | select
provider_keys      | jewelshot_ledger | select, insert, update
provider_keys      | jewelshot_worker | select
reservation_lots   | authenticated    | select
reservation_lots   | jewelshot_admin  | select
reservation_lots   | jewelshot_ledger | select, insert
reservation_lots   | jewelshot_worker | select
reservations       | authenticated    | select
reservations       | jewelshot_admin  | select
reservations       | jewelshot_ledger | select, insert, update(resolved_at state)
reservations       | jewelshot_worker | select
schedules          | jewelshot_admin  | select
schedules          | jewelshot_ledger | select, update(last_issued_at next_due_at)
schedules          | jewelshot_worker | select
signup_grants      | jewelshot_admin  | select
signup_grants      | jewelshot_ledger | select, insert
signup_terms       | jewelshot_admin  | select
signup_terms       | jewelshot_ledger | select
uploads            | authenticated    | select
uploads            | jewelshot_admin  | select
uploads            | jewelshot_ledger | select, insert, update, delete
uploads            | jewelshot_worker | select
user_turns         | jewelshot_admin  | select
user_turns         | jewelshot_ledger | select, insert, update
user_turns         | jewelshot_worker | select
users              | authenticated    | select
users              | jewelshot_admin  | select
users              | jewelshot_ledger | select, insert
users              | jewelshot_worker | select
worker_heartbeats  | jewelshot_admin  | select
worker_heartbeats  | jewelshot_ledger | select
worker_heartbeats  | jewelshot_worker | select, insert, delete, update(in_flight seen_at)
packs              | anon             | select
packs              | authenticated    | select
packs              | jewelshot_admin  | select
packs              | jewelshot_api    | select
packs              | jewelshot_ledger | select
packs              | jewelshot_worker | select
payment_terms      | authenticated    | select
payment_terms      | jewelshot_admin  | select
payment_terms      | jewelshot_ledger | select
stripe_customers   | authenticated    | select
stripe_customers   | jewelshot_admin  | select
stripe_customers   | jewelshot_ledger | select, insert, update
stripe_customers   | jewelshot_worker | select
orders             | authenticated    | select
orders             | jewelshot_admin  | select
orders             | jewelshot_ledger | select, insert, update
orders             | jewelshot_worker | select
payment_refunds    | authenticated    | select
payment_refunds    | jewelshot_admin  | select
payment_refunds    | jewelshot_ledger | select, insert, update
payment_refunds    | jewelshot_worker | select
payment_disputes   | authenticated    | select
payment_disputes   | jewelshot_admin  | select
payment_disputes   | jewelshot_ledger | select, insert, update
payment_disputes   | jewelshot_worker | select
order_sessions     | jewelshot_admin  | select
order_sessions     | jewelshot_ledger | select, insert
order_sessions     | jewelshot_worker | select
stripe_events      | jewelshot_admin  | select
stripe_events      | jewelshot_ledger | select, insert, update, delete
stripe_events      | jewelshot_worker | select
payment_days       | jewelshot_admin  | select
payment_days       | jewelshot_ledger | select, insert, update
payment_days       | jewelshot_worker | select
"""

# Tables of which every user may see every row.
PUBLIC_TABLES = frozenset({"operations", "packs", "payment_terms"})

# function | callers; `-` is nobody but its owner, which for all here is jewelshot_ledger: these
# run with its rights (security definer) and are the only way to money, state and outbox.
DEFINER_FUNCTIONS = """
add_task              | -
adjust_credits        | jewelshot_admin
advance_generation    | jewelshot_worker
begin_collect         | jewelshot_worker
bury_task             | jewelshot_worker
buy_late_image        | authenticated
cancel_generation     | authenticated
close_call            | jewelshot_worker
complete_task         | -
complete_upload       | authenticated
confirm               | -
create_codes          | jewelshot_admin
delete_upload         | authenticated
disable_codes         | jewelshot_admin
discard_upload        | authenticated
end_call              | -
ensure_collect        | jewelshot_worker
erase_upload          | -
expire_credits        | jewelshot_worker
expire_due_lots       | -
expire_uploads        | jewelshot_worker
fair_queue            | -
finish_generation     | jewelshot_worker
grant_credits         | jewelshot_worker
health                | jewelshot_api
idempotency_begin     | authenticated
idempotency_store     | authenticated
issue_scheduled_tasks | jewelshot_worker
lock_account          | -
metrics               | jewelshot_api
move_balance          | -
note_low_balance      | -
note_running          | -
open_account          | authenticated
open_call             | -
prepare_upload        | authenticated
receive_fal_webhook   | jewelshot_api
record_accepted       | jewelshot_worker
record_ambiguous      | jewelshot_worker
record_not_accepted   | jewelshot_worker
redeem_code           | authenticated
refund                | -
replay_dead_letter    | jewelshot_admin
requeue_generation    | jewelshot_worker
reserve               | -
resume_running        | jewelshot_worker
reverse_credits       | jewelshot_worker
settle_upload         | jewelshot_worker
start_generation      | authenticated
sweep_calls           | jewelshot_worker
sweep_deadlines       | jewelshot_worker
sync_provider_keys    | jewelshot_worker
take_back             | -
take_from_lots        | -
take_tickets          | jewelshot_worker
ticket                | -
write_audit           | -
admin_refund          | jewelshot_admin
finish_stripe_event   | jewelshot_worker
mirror_refunds        | -
next_attempt          | jewelshot_api
next_refund_attempt   | jewelshot_worker
open_refund           | -
payments_health       | jewelshot_api
payments_metrics      | jewelshot_api
prune_stripe_events   | jewelshot_worker
receive_stripe_event  | jewelshot_api jewelshot_worker
record_customer       | jewelshot_api
record_payment_day    | jewelshot_worker
record_session        | jewelshot_api
refundable_order      | -
refuse_refund         | jewelshot_worker
replay_stripe_events  | jewelshot_admin
request_order_sync    | authenticated
request_refund        | authenticated
retry_order           | authenticated
settle_order          | -
start_order           | authenticated
sync_order            | jewelshot_worker
"""

# function | callers; run with the rights of the migrating role, which sees every row: they only
# read, and are few.
OWNER_DEFINER_FUNCTIONS = """
reconcile             | jewelshot_worker
schema_version        | jewelshot_api jewelshot_worker
verified_email        | jewelshot_ledger
reconcile_ledger      | -
reconcile_payments    | -
"""

# function | callers; run with the rights of whoever calls them.
INVOKER_FUNCTIONS = """
claims                  | anon authenticated jewelshot_admin jewelshot_api jewelshot_ledger
current_user_id         | anon authenticated jewelshot_admin jewelshot_api jewelshot_ledger
generation_change       | jewelshot_ledger
guard_generation_state  | -
is_admin                | anon authenticated jewelshot_admin jewelshot_api jewelshot_ledger
person_key              | jewelshot_ledger
record_generation_event | -
refuse_change           | -
require_positive        | -
seal_transfer           | -
start_answer            | jewelshot_ledger
"""

# Whom each of our roles may act as.
MEMBERSHIPS = {
    "jewelshot_api": {"anon", "authenticated", "jewelshot_admin"},
    "jewelshot_worker": set[str](),
    "jewelshot_admin": set[str](),
    "jewelshot_ledger": set[str](),
}


def lines(text: str) -> list[list[str]]:
    """The cells of each line of one of the tables above."""
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def table_grants() -> set[str]:
    """`table role verb` or `table role verb(columns)`, one for each grant."""
    return {
        f"{table} {role} {verb.strip()}"
        for table, role, verbs in lines(TABLES)
        for verb in verbs.split(", ")
    }


def function_grants(*texts: str) -> set[str]:
    """`function role`, one for each grant, and `function -` for one that nobody is given."""
    return {
        f"{function} {role}"
        for text in texts
        for function, roles in lines(text)
        for role in roles.split()
    }

insert into app.unpaid_terms (credits_per_day, buyer_credits_per_day)
values (10, 100);

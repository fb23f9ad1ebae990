insert into app.balance_terms (low_credits)
values (5);

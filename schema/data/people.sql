insert into app.signup_terms (credits, expires_after, grants_per_network_per_day)
values (10, interval '90 days', 20);

drop function app.prune_stripe_events;
drop function app.replay_stripe_events;
drop function app.finish_stripe_event;
drop function app.receive_stripe_event;
drop table app.stripe_events;

drop function app.emit;
drop function app.rotate_events;
drop table app.events_default;
drop table app.events;

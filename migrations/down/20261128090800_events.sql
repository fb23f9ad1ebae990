delete from app.schedules
where name in (
  'events.rotate');
drop function app.emit;
drop function app.rotate_events;
drop table app.events_default;
drop table app.events;

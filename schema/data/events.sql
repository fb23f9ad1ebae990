insert into app.schedules (name, job, every_seconds)
values ('events.rotate', 'events.rotate', 86400);

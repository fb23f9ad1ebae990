drop function app.tasks_figures;
drop function app.tasks_health;
drop table app.metric_counters;
drop table app.worker_heartbeats;

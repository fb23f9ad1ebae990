drop table app.metric_counters;
drop table app.worker_heartbeats;

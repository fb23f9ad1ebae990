drop trigger audit_details_no_truncate on app.audit_details;
drop trigger audit_details_no_change on app.audit_details;
drop trigger audit_log_no_truncate on app.audit_log;
drop trigger audit_log_append_only on app.audit_log;
drop function app.write_audit;
drop table app.audit_details;
drop table app.audit_log;

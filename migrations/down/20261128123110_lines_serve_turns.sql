drop function app.end_turn;
drop function app.take_turn;
drop function app.join_line;
alter table app.lines drop column last_no, drop column first_no;

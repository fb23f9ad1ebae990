drop table app.lines;

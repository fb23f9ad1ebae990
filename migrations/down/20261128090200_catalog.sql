drop table app.operations;

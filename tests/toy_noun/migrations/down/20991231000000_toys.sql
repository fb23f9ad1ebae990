drop function app.prove_toys();
drop function app.toys_figures();
drop function app.polish_toy(uuid);
drop function app.start_toy(uuid, integer);
drop table app.toys;

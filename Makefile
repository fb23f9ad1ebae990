# `make help` lists the targets. Each makes .venv from the lock first, if it is missing or outdated.

PYTHON ?= python3
RUN := .venv/bin/python -m
# Twice the two cores that it is measured on: a test waits for servers half of its time.
WORKERS ?= 4

# Compiled modules are kept, whatever the shell says: processes of the product start all the time.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv demo run test race lint fmt migrate migration reconcile bench chaos

help:  ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv:  ## .venv, exactly as locked
	@$(PYTHON) scripts/venv.py

demo: venv  ## the main job on a real photo, into demo-output/ (PHOTO=path)
	@$(RUN) scripts.demo $${PHOTO:+--photo "$$PHOTO"}

run: venv  ## the same stack, left running, with a demo user and an admin
	@$(RUN) scripts.run

test: venv  ## every test, on real PostgreSQL and Valkey (ARGS="-k name", WORKERS=2)
	@$(RUN) pytest -n $(WORKERS) $(ARGS)

race: venv  ## the concurrency tests only
	@$(RUN) pytest -m race $(ARGS)

lint: venv  ## ruff, formatting and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

fmt: venv  ## format, and fix what ruff can fix
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

migration: venv  ## write the migration that leads to schema/ (NAME=add_invoices)
	@$(RUN) migrations new $(NAME)

migrate: venv  ## apply pending migrations (MIGRATION_DATABASE_URL)
	@$(RUN) migrations up

reconcile: venv  ## prove that every credit is accounted for
	@$(RUN) scripts.reconcile

bench: venv  ## the budgets, measured
	@$(RUN) scripts.bench

chaos: venv  ## kills, flushes, restarts and provider faults (N=500, SEED=number)
	@$(RUN) scripts.chaos $${N:+--n "$$N"} $${SEED:+--seed "$$SEED"}

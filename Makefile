# Two commands: `make demo` and `make test`. The others are for those who change the code.
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
WORDNET := $(foreach part,noun verb adj adv,index.$(part) $(part).exc)
LABELS := $(wildcard ../shared/data/quality/majority_data.jsonl ../shared/data/quality/agreement_data.jsonl)

# Bytecode is kept whatever the caller's environment says: tests and commands start many processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: ambient-images cluster-local demo rehearsal test venv test-fast check format docs soak bench clean help

help:
	@echo "make demo       three benchmarks at tiny scale: pools, datasets, models, scores, the board"
	@echo "make test       every test that needs no GPU"
	@echo "make test-fast  the quick tests, in under a minute"
	@echo "make check      format, lint, types, the documentation as a site"
	@echo "make docs       write the generated pages again"
	@echo "make ambient-images  draw the images of docs/ambient.md again, about two minutes"
	@echo "make bench      measure against peers (installs them into an environment of their own)"
	@echo "make rehearsal  every stage at real scale with little data: S3, Ray, kills, a running board"
	@echo "make soak       long runs: many seeds, many kills"
	@echo "make cluster-local  a Ray head and two workers on this machine, until Ctrl-C"
	@echo "make clean      remove build/ (the downloads in the user's cache stay)"

venv: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'installing into .venv: a few minutes the first time'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[text,text-reference,extract,image,train,ambient,leaderboard,cluster,hub,dev]'
	@$(BIN)/pipelines assets fetch lid.176.ftz gpt-neox-20b.json
	@$(BIN)/pipelines assets fetch $(WORDNET) || echo 'without WordNet, text_based cannot run here'
	@touch $@

demo: venv
	$(BIN)/dclm pool --scale tiny --workspace $(DEMO)
	$(BIN)/dclm train-quality --scale tiny --workspace $(DEMO)
	$(BIN)/dclm run --scale tiny --pipeline no_filter --pipeline random_same_size --pipeline tiny_baseline --workspace $(DEMO)
	$(BIN)/datacomp pool --scale tiny --workspace $(DEMO)
	$(BIN)/datacomp train-scorer --scale tiny --workspace $(DEMO)
	$(BIN)/datacomp run --scale tiny --pipeline no_filter --pipeline random_same_size --pipeline tiny_baseline --workspace $(DEMO)
	$(BIN)/ambient run --scale tiny --pipeline clean_only --pipeline everything_as_clean --pipeline mix --workspace $(DEMO)
	$(BIN)/leaderboard export $(DEMO)/board --submissions $(DEMO)/submissions

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile --quick -m "not soak and not slow and not browser and not s3 and not ray and not postgres"

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mkdocs build --strict -q

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster-local: venv
	$(BIN)/python deploy/local_cluster.py

docs: venv
	$(BIN)/python docs/generate.py

ambient-images: venv
	$(BIN)/python -m tests.soak.ambient_images

TASKS ?= ../shared/fixtures/dclm-eval/local_data
rehearsal: venv
	$(BIN)/python tests/soak/rehearse.py --data $(TASKS)

soak: rehearsal
	$(BIN)/python tests/soak/claim.py --benchmark dclm --workspace build/soak $(foreach file,$(LABELS),--labels $(file))
	$(BIN)/python tests/soak/claim.py --benchmark datacomp --workspace build/soak
	$(BIN)/python tests/soak/decision_table.py --benchmark dclm --workspace build/soak
	$(BIN)/python tests/soak/decision_table.py --benchmark datacomp --workspace build/soak
	$(BIN)/python -m pytest -m soak --timeout 7200 -s tests/soak tests/ambient tests/dclm/training/test_train.py

bench: venv
	$(BIN)/python benches/run_all.py
	$(BIN)/python benches/tables.py

clean:
	rm -rf build

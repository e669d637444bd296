# Tillroll: what people and CI run. Each target says what it does: `make help`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
# The lock file decides what is built; a change to it is a commit, not an accident.
LOCKED := --locked

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: deps
deps: ## Install what Tillroll needs to run (apt; root or sudo)
	@scripts/install-deps run

.PHONY: lint
lint: ## Formatting, lints, documentation: warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	@# With private items: what contributors read is checked too.
	RUSTDOCFLAGS='-Dwarnings -Arustdoc::private_intra_doc_links' \
		$(CARGO) doc $(LOCKED) --no-deps --document-private-items

.PHONY: test
test: ## Everything that CI runs; installs what the tests need
	@scripts/install-deps test
	@$(MAKE) --no-print-directory lint
	$(CARGO) build $(LOCKED) --benches
	$(CARGO) test $(LOCKED) --doc --quiet
	@# The queue's transitions on an older Redis as well: 6.2.
	TILLROLL_TEST_REDIS_SERVER=$(CURDIR)/target/test-venv/bin/redis-server-6.2 \
		$(CARGO) test $(LOCKED) --quiet --test it -- queue:: --skip queue::worker --test-threads 6
	@# The runner comes last, so that its summary does.
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo '$(CARGO) nextest run'; \
		$(CARGO) nextest run $(LOCKED) --no-fail-fast; \
	else \
		echo '$(CARGO) test'; \
		$(CARGO) test $(LOCKED) --no-fail-fast --lib --bins --tests; \
	fi

.PHONY: chaos
chaos: ## Eight minutes of kills, stops, cuts and wrong clocks; prints what was lost
	@scripts/install-deps test
	@# One after another: each section prints its figures, and they should be its own.
	TILLROLL_CHAOS_SECONDS=$${TILLROLL_CHAOS_SECONDS:-300} \
		$(CARGO) test $(LOCKED) --test chaos -- --nocapture --test-threads 1

.PHONY: fuzz
fuzz: ## A minute of fuzzing for each parser (FUZZ_SECONDS=60); needs cargo-fuzz and g++
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'first: cargo install cargo-fuzz'; exit 1; }
	@# What is found new goes into a directory of its own; the corpus is kept small by hand.
	cd fuzz && for target in $$($(CARGO) fuzz list --fuzz-dir .); do \
		mkdir -p "target/found/$$target"; \
		$(CARGO) fuzz run --sanitizer none --fuzz-dir . "$$target" "target/found/$$target" "corpus/$$target" \
			-- -max_total_time=$${FUZZ_SECONDS:-60} -timeout=10 -print_final_stats=1; \
	done

.PHONY: leaks
leaks: ## 2,000 jobs that end in every way there is; a table of what is held after each wave
	@scripts/install-deps test
	TILLROLL_LEAK_JOBS=$${TILLROLL_LEAK_JOBS:-2000} \
		$(CARGO) test $(LOCKED) --test e2e leaks:: -- --nocapture

.PHONY: build
build: ## The release binary: target/release/tillroll
	$(CARGO) build $(LOCKED) --release

.PHONY: demo
demo: ## Render the fixtures of three tenants through a queue: target/demo/
	@scripts/install-deps demo
	$(CARGO) build $(LOCKED) --release
	scripts/demo

.PHONY: bench
bench: ## Twelve minutes: throughput, latency, memory beside their goals and what others do: target/bench/
	@scripts/install-deps bench
	$(CARGO) bench $(LOCKED) --bench speed

.PHONY: demo-survive
demo-survive: ## A flood inside 1 GiB and 512 MiB, beside what others do (root or sudo; at most 25 minutes)
	@scripts/install-deps demo
	scripts/demo-survive

# Two commands to know: `make up` (a cluster with a sample application) and `make test` (everything that is checked).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
BINARY := target/$(TARGET)/release/klynge
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help up down build test unit e2e lint bench setup guest clean
help: ## Say what there is to make
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 14

setup: ## Install the system packages that building and testing need (Debian), and say which
	@SUDO="$(SUDO)" scripts/setup

build: setup ## Build the static release binary
	$(CARGO) build --release --locked -p klynge
	@ls -l $(BINARY) | awk '{ printf "built %s, %.1f MB\n", $$9, $$5 / 1e6 }'

up: build ## Bring up a cluster on this machine with the sample application behind one address
	$(SUDO) BINARY=$(BINARY) scripts/sample up

down: ## Remove the cluster and everything that it made
	$(SUDO) $(BINARY) down --purge

lint: setup ## Format, clippy and the project's own rules
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

unit: setup ## Tests that need no running cluster
	$(CARGO) test --workspace --locked

e2e: build ## Tests of a real cluster with real clients
	@SUDO="$(SUDO)" scripts/setup e2e
	$(SUDO) env "PATH=$$PATH" BINARY=$(abspath $(BINARY)) tests/e2e/run

test: lint unit e2e ## Everything that continuous integration checks

guest: build ## Try a real Debian 12 in QEMU: firewalld, ufw, Docker, restarts, a reboot, joining, klynge dev (half an hour, not part of test)
	@SUDO="$(SUDO)" scripts/setup guest
	$(SUDO) env "PATH=$$PATH" BINARY=$(abspath $(BINARY)) tests/guest/run
	$(SUDO) env "PATH=$$PATH" BINARY=$(abspath $(BINARY)) KLYNGE_GUEST_CHECKS=tests/guest/machines-checks tests/guest/run

bench: build ## Measure everything that SPEC.md promises
	$(CARGO) xtask bench all

clean: ## Remove what was built
	$(CARGO) clean

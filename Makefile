# One word for each thing. Each word first sets up what is missing, which takes a second when nothing is; .ci/run uses the same words.
.PHONY: help setup demo example test lint bench fuzz sanitize lock clean
.DEFAULT_GOAL := help

python := .venv/bin/python
# What the commands need in their environment; a line of a recipe is a shell of its own.
env := . scripts/env.sh &&
mix := $(env) cd elixir_client && mix

help: ## what the words are
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## .venv, Elixir and Erlang, the compiled client: what is missing of them
	@scripts/setup

demo: setup ## the main job, from Elixir; ARGS="--lm ollama_chat/..." for another model
	@$(mix) erl_bridge.demo $(ARGS)

example: setup ## NAME=agent_with_tools for another program of examples/, LM=openai/gpt-4o-mini for another model
	@$(mix) run ../examples/$(or $(NAME),question_and_answer).exs

test: setup ## all tests of both languages, ending with how many passed
	@$(env) $(python) scripts/test

lint: setup ## style, types and warnings, of both languages
	@scripts/lint

bench: setup ## each program of bench/ answers one question; the codecs to compare with are installed first
	@$(python) -m pip install --quiet --disable-pip-version-check --group bench
	@$(env) for program in bench/*.py; do $(python) "$$program" || exit; done

fuzz: setup ## look for bytes that break the codec, FUZZ_SECONDS=60, then the property tests with FUZZ_EXAMPLES=20000 each
	@$(env) $(python) scripts/fuzz

sanitize: setup ## the tests of the codec with a compiled core that checks its memory and arithmetic
	@$(env) $(python) scripts/sanitize

lock: setup ## requirements.lock anew from pyproject.toml; ARGS=--upgrade takes the newest versions
	@scripts/lock $(ARGS)

clean: ## remove all that the other words made
	rm -rf .venv build dist *.egg-info .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache elixir_client/_build erl_bridge/*.so erl_bridge/*/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

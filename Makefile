.PHONY: check test golden docs bench zoo FORCE

check:
	ruff check .
	ruff format --check .
	mypy -p advbench

test:
	pytest

# Rewrites the golden numbers of the attacks; review the difference and raise versions.
golden:
	python -m tests.golden

# Writes the tables of docs/attacks.md again.
docs:
	python -m advbench.attack_facts

bench:
	python -m advbench.benchmarks.peers
	python -m advbench.benchmarks.minimal
	python -m advbench.benchmarks.speed
	python -m advbench.benchmarks.stickers
	python -m advbench.benchmarks.renderer

# Trains every net again; one alone: make advbench/models/weights/digits/cnn.safetensors
zoo: $(patsubst configs/zoo/%.toml,advbench/models/weights/%.safetensors,$(wildcard configs/zoo/*/*.toml))

advbench/models/weights/%.safetensors: configs/zoo/%.toml FORCE
	advbench train $< --out results/zoo/$(notdir $(@D))
	cp results/zoo/$(notdir $(@D))/$(notdir $*).json results/zoo/$(notdir $(@D))/$(@F) $(@D)

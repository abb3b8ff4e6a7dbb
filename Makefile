.PHONY: check test bench zoo FORCE

check:
	ruff check .
	ruff format --check .
	mypy -p advbench

test:
	pytest

bench:
	python -m advbench.benchmarks.peers

# Trains every net again; one alone: make advbench/models/weights/digits/cnn.safetensors
zoo: $(patsubst configs/zoo/%.toml,advbench/models/weights/%.safetensors,$(wildcard configs/zoo/*/*.toml))

advbench/models/weights/%.safetensors: configs/zoo/%.toml FORCE
	advbench train $< --out $(@D)

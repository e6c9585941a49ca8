# `make demo`: see it learn and write. `make test`: everything CI runs but lint. `make lint`: the same lint as CI.
# `make bench`: measure beside torch.nn (ARGS=--quick: only see that it works). `make wheel`: into dist/, tried in a clean environment.
# `make sanitize`: the native tests under the address and undefined-behaviour sanitizers; `make narrow`: those of the AVX-512 code
# without such a processor. `make symbols`: no function or type of one instruction set can stand in for another's. They need cmake and
# g++; `make tidy`, csrc/ read by clang-tidy and compiled by clang++, needs those. In all four a compiler's warning is an error.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint format bench wheel sanitize narrow symbols tidy clean

# The stamp is newer than what it was made from, so an unchanged checkout installs nothing twice.
.venv/installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/throughtime demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed
	$(BIN)/python -m benchmarks.run $(ARGS)

# The environment is new, so that nothing of this checkout can stand in for what the wheel lacks.
wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/throughtime-*.whl
	cd build/wheel && bin/python -I -c "import throughtime as tt; r = tt.backends(); print(r); \
	  assert ('native', True) in [row[:2] for row in r.rows], 'the wheel has no native library that runs here'"

# Leaks are not looked for: Python keeps much until it ends. Memory is watched by tests/kernels/test_abi.py instead, which
# under the sanitizer would see what it holds back on purpose.
SANITIZED = $(CURDIR)/build/sanitize/libthroughtime_native.so
NATIVE_TESTS = tests/kernels/test_native.py tests/kernels/test_native_options.py tests/kernels/test_native_layer_norm.py \
  tests/kernels/test_native_bf16.py tests/kernels/test_products.py tests/kernels/test_abi.py tests/kernels/generator tests/sessions/test_stream.py \
  tests/models/test_native_decoder.py
sanitize: .venv/installed
	cmake -S . -B build/sanitize -DTHROUGHTIME_SANITIZE=ON -DTHROUGHTIME_WERROR=ON
	cmake --build build/sanitize
	LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  THROUGHTIME_LIBRARY=$(SANITIZED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -k "not memory" $(NATIVE_TESTS)

# The AVX-512 code, compiled for AVX2.
narrow: .venv/installed
	cmake -S . -B build/narrow -DTHROUGHTIME_NARROW=ON -DTHROUGHTIME_WERROR=ON
	cmake --build build/narrow -j2
	THROUGHTIME_LIBRARY=$(CURDIR)/build/narrow/libthroughtime_native.so THROUGHTIME_ISA=avx512 \
	  $(BIN)/python -m pytest -n 2 $(NATIVE_TESTS)

# Weak symbols in the objects as they are shipped; then types of one name that differ, which the linker sees with -flto alone.
symbols: .venv/installed
	cmake -S . -B build/symbols -DTHROUGHTIME_WERROR=ON
	cmake --build build/symbols -j2
	THROUGHTIME_OBJECTS=$(CURDIR)/build/symbols $(BIN)/python -m pytest tests/kernels/test_symbols.py
	cmake -S . -B build/odr -DCMAKE_CXX_FLAGS=-flto=auto -DTHROUGHTIME_OPTIMIZE=-O1 -DTHROUGHTIME_WERROR=ON
	cmake --build build/odr -j2

tidy:
	cmake -S . -B build/tidy -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DTHROUGHTIME_WERROR=ON
	cmake --build build/tidy -j2
	run-clang-tidy -quiet -p build/tidy

clean:
	rm -rf .venv build dist

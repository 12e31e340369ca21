# One line a target; what they do is in xtask/ (Rust) and printed while it runs.
.PHONY: build up down test check bench bench-full soak dependencies

dependencies: ; @cargo xtask dependencies
build: dependencies ; @cargo xtask build
up: build ; @target/release/borealis up
down: ; @target/release/borealis down
check: dependencies ; @cargo xtask check
test: dependencies ; @cargo xtask test
bench: build ; @cargo xtask bench
bench-full: build ; @cargo xtask bench --full
soak: build ; @cargo xtask soak

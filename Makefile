# One line a target; what they do is in xtask/ (Rust) and printed while it runs.
.PHONY: build up down test check dependencies

dependencies: ; @cargo xtask dependencies
build: dependencies ; @cargo xtask build
up: dependencies ; @cargo xtask up
down: ; @cargo xtask down
check: dependencies ; @cargo xtask check
test: dependencies ; @cargo xtask test

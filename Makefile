# One line a target; what they do is in xtask/ (Rust) and printed while it runs.
.PHONY: build up down test sim mistakes oracle check bench bench-redo bench-repair bench-full soak chaos fuzz regression extensions metrics dependencies

dependencies: ; @cargo xtask dependencies
build: dependencies ; @cargo xtask build
up: dependencies ; @cargo xtask up
down: ; @cargo xtask down
check: dependencies ; @cargo xtask check
test: dependencies ; @cargo xtask test
sim: ; @cargo xtask sim $(if $(SEEDS),--seeds $(SEEDS)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGUMENTS)
mistakes: ; @cargo xtask sim mistakes $(ARGUMENTS)
oracle: dependencies ; @cargo xtask oracle $(ARGUMENTS)
bench: dependencies ; @cargo xtask bench $(ARGUMENTS)
bench-redo: dependencies ; @cargo xtask bench-redo
bench-repair: dependencies ; @cargo xtask bench-repair $(ARGUMENTS)
bench-full: dependencies ; @cargo xtask bench-full
soak: dependencies ; @cargo xtask soak $(ARGUMENTS)
chaos: dependencies ; @cargo xtask chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(ARGUMENTS)
fuzz: ; @cargo xtask fuzz $(ARGUMENTS)
regression: dependencies ; @cargo xtask regression $(ARGUMENTS)
extensions: dependencies ; @cargo xtask extensions $(ARGUMENTS)
metrics: dependencies ; @cargo xtask metrics

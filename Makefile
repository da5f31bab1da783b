# Each target does all that it needs on a fresh machine; see README.md.

GROUND = go run ./helpers/cmd/ground

.PHONY: verify test unit lint bench down

verify: ## bring the environment up, prove the platform, report
	$(GROUND) verify

test: unit ## all that CI runs; the mesh is left to verify: on two cores its figures are not steady enough for a gate
	$(GROUND) up docuthinker
	$(GROUND) verify policy

unit: ## what needs no cluster; the race detector wants a C compiler
	@command -v gcc >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends gcc libc6-dev; }
	go vet ./...
	cd fixtures/docuthinker/app && go vet ./... && go test ./...
	cd fixtures/platform/litmus/src && go vet ./... && go test ./...
	go test -race -count=1 ./helpers/...

lint: ## formatting and the rules of .golangci.yml; builds the linter at the first run
	go tool -modfile=tools.mod gofumpt -l -d $$(git ls-files '*.go')
	go tool -modfile=tools.mod golangci-lint run ./...

bench: ## the figures of docs/performance.md; wants the environment up
	go test -tags cluster -run '^$$' -bench . -benchtime 1x ./helpers/... ./suites/perf

down: ## delete the environment; images and the container engine stay
	$(GROUND) down

# Each target does all that it needs on a fresh machine (bench wants the environment up, sonar a scanner, checker python3-venv); see README.md.

GROUND = go run ./helpers/cmd/ground

.PHONY: verify test unit lint fuzz bench down build checker check-files sonar scan vulnerabilities package deploy prove look nightly certify gate release

verify: ## bring the environment up, prove SUITES with their counter-proofs, report; SUITES=all for every suite
	$(GROUND) verify $(filter-out all,$(or $(SUITES),policy))

test: unit ## what .ci/run runs; the mesh is left to verify: on two cores its figures are not steady enough for a gate
	$(GROUND) up docuthinker
	$(GROUND) verify policy

unit: ## what needs no cluster; the race detector wants a C compiler
	@command -v gcc >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends gcc libc6-dev; }
	go vet ./...
	cd fixtures/docuthinker/app && go vet ./... && go test ./...
	cd fixtures/platform/litmus/src && go vet ./... && go test ./...
	go test -race -count=1 ./helpers/... ./suites/perf/autoscale ./suites/perf/slo ./suites/infra/rules

lint: ## formatting and the rules of .golangci.yml; builds the linter at the first run
	go tool -modfile=tools.mod gofumpt -l -d $$(git ls-files '*.go')
	go tool -modfile=tools.mod golangci-lint run ./...

# Of each fuzz test; what one finds stays in its testdata, to be mended and kept. Without a
# bound what is new to it is made smaller for a minute, and nothing else is tried.
FUZZTIME ?= 10s

fuzz: ## every fuzz test there is, one after the other, for FUZZTIME each
	@set -e; for file in $$(git ls-files 'helpers/*_test.go' 'suites/*_test.go'); do \
		for test in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "$$file $$test"; \
			go test -run '^$$' -fuzz "^$$test\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./$$(dirname $$file); \
		done; \
	done

bench: ## what docs/performance.md has with a baseline beside it: waits, and k6; wants the environment up
	go test -tags cluster -run '^$$' -bench . -benchtime 1x ./helpers/... ./suites/perf

down: ## delete the environment; images and the container engine stay
	$(GROUND) down

# What .gitlab-ci.yml calls, each job one target, to be tried at one's own machine.
PROFILE ?= staging
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

build: ## all of it compiles, suites included
	go build ./...
	go vet ./...

checker: ## the pinned wheel that checks files, and brings the schemas that are published
	@test -x .cache/check/bin/check-jsonschema || { python3 -m venv .cache/check && .cache/check/bin/pip install -q --require-hashes -r .ci/requirements.txt; }

check-files: checker ## the pipeline, and the bot that renews pins
	.cache/check/bin/check-jsonschema --builtin-schema vendor.gitlab-ci .gitlab-ci.yml
	.cache/check/bin/check-jsonschema --builtin-schema vendor.renovate renovate.json

scan: ## Trivy's own checks of configuration, as trivy.yaml says; it is compiled from its pin at the first run
	go -C fixtures/platform/trivy build -tags goexperiment.jsonv2 -o $(CURDIR)/.cache/trivy github.com/aquasecurity/trivy/cmd/trivy
	.cache/trivy config --skip-version-check --disable-telemetry --quiet --exit-code 1 fixtures

sonar: ## SonarQube's scanner, by sonar-project.properties; wants SONAR_HOST_URL and SONAR_TOKEN
	sonar-scanner

vulnerabilities: ## of what our modules call; asks Go's database of vulnerabilities, or a copy of it: VULNDB=file:///…
	go run $(GOVULNCHECK) $(if $(VULNDB),-db $(VULNDB)) -test -tags cluster ./...
	cd fixtures/docuthinker/app && go run $(GOVULNCHECK) $(if $(VULNDB),-db $(VULNDB)) -test ./...

package: ## all images from their pins, and nothing else than images.lock says; into REGISTRY, where one is given
	$(GROUND) images --build
	git diff --exit-code images.lock
	$(if $(REGISTRY),$(GROUND) images --push $(REGISTRY))

deploy: ## ENVIRONMENT=dev|staging|production, on the cluster that GROUND_KUBECONFIG leads to
	$(GROUND) deploy $(ENVIRONMENT) -p $(PROFILE)

prove: ## SUITES on the cluster that GROUND_KUBECONFIG leads to, by PROFILE
	$(GROUND) verify -p $(PROFILE) $(SUITES)

look: ## on production: what looking alone proves of it; all else is above its ceiling
	$(GROUND) verify -p production policy dr perf -- -timeout 30m -run '^(TestInventory|TestSchedules|TestServiceLevels|TestHPA)$$/^levels$$'

# Evidence of the run before it in the recipe, whatever that came to, and then its exit code: a red night that left no statement
# could be run again until it is green. It follows PREVIOUS or, without it, the newest statement of reports/.
STATED = code=$$?; $(GROUND) evidence $(if $(SIGNING_KEY),--key $(SIGNING_KEY)) $(if $(PREVIOUS),--previous $(PREVIOUS)) && exit $$code

nightly: ## all that the profile's ceiling allows, at full length, and the evidence of it
	$(GROUND) verify -p $(PROFILE) --counterproof -- -timeout 10h; $(STATED)

certify: ## each quarter: disaster recovery with counter-proofs, evidence, and its certificate; on a cluster of ours, for DR-005 loses one
	$(GROUND) verify -p kind --counterproof dr; $(STATED)
	$(GROUND) certify $(if $(SIGNING_KEY),--key $(SIGNING_KEY))

gate: ## may this commit be released? EVIDENCE are statements; VERIFYING_KEY who signed them; CLUSTER the UID of staging's kube-system
	$(GROUND) gate $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(VERIFYING_KEY),--key $(VERIFYING_KEY)) $(EVIDENCE)

release: gate ## what the gate lets through
	$(GROUND) deploy production -p $(PROFILE)

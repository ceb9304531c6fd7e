// Package suite runs the conformance suite of the Gateway API Inference Extension as it is published, on base manifests of ours.
//
// `MANIFESTS` names the directory with them, `base.yaml`. Flags are those of the suite.
package suite

import (
	"os"
	"testing"

	"sigs.k8s.io/gateway-api-inference-extension/conformance"
)

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.BaseManifests = "base.yaml"
	options.ManifestFS = append(options.ManifestFS, os.DirFS(os.Getenv("MANIFESTS")))
	// Nothing here takes its time to become consistent. By default three requests in a row must succeed, and the warming up of two
	// pools, of which one is reached three times in ten, takes minutes.
	options.TimeoutConfig.RequiredConsecutiveSuccesses = 1
	conformance.RunConformanceWithOptions(t, options)
}

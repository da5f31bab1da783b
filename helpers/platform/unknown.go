package platform

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/proving-ground/proving-ground/helpers/strictyaml"
)

// unknownValues are keys that a chart has no default for, at any depth, each
// with the nearest one that it has: Helm would take a misspelt value and do
// nothing. Where the default is empty or no map, any key may stand, and below
// resources, which the API server knows.
func unknownValues(at string, given, defaults map[string]any) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(given)) {
		byDefault, known := defaults[key]
		if !known && key != "global" {
			errs = append(errs, fmt.Errorf("the chart has no value %q%s", at+key, strictyaml.DidYouMean(key, slices.Sorted(maps.Keys(defaults)))))
			continue
		}
		inner, isMap := given[key].(map[string]any)
		below, wasMap := byDefault.(map[string]any)
		if isMap && wasMap && len(below) > 0 && key != "resources" {
			errs = append(errs, unknownValues(at+key+".", inner, below))
		}
	}
	return errors.Join(errs...)
}

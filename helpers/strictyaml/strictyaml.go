// Package strictyaml reads the files that people write: one YAML document, no
// unknown and no doubled key, and an error that names the nearest right word.
// It is a leaf: it imports no other room.
package strictyaml

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"sigs.k8s.io/yaml"
)

// Unmarshal decodes one YAML document into v, a pointer to a struct with json
// tags. Keys are compared exactly, where a decoder of JSON would take
// riskceiling for riskCeiling. All unknown keys are said at once, each with its
// place and the nearest key that there is. A type that decodes itself, and a
// map, may hold any key.
func Unmarshal(data []byte, v any) error {
	if err := oneDocument(data); err != nil {
		return err
	}
	var tree any
	if err := yaml.UnmarshalStrict(data, &tree); err != nil {
		return plain(err)
	}
	if err := knownKeys("", tree, reflect.TypeOf(v)); err != nil {
		return err
	}
	return plain(yaml.UnmarshalStrict(data, v))
}

// wrappers are what the library says before what is wrong: how it goes about it.
var wrappers = []string{"error converting YAML to JSON: ", "yaml: unmarshal errors:\n  ", "yaml: ", "error unmarshaling JSON: while decoding JSON: "}

// plain says what is wrong in words of YAML, where the decoder speaks of Go's types.
func plain(err error) error {
	if err == nil {
		return nil
	}
	if wrong, is := errors.AsType[*json.UnmarshalTypeError](err); is {
		is := strings.NewReplacer("array", "a list", "object", "keys with values", "string", "a text", "number", "a number", "bool", "true or false").Replace(wrong.Value)
		return fmt.Errorf("%s is %s; want %s", cmp.Or(wrong.Field, "the document"), is, kindOf(wrong.Type))
	}
	text := err.Error()
	for _, w := range wrappers {
		text = strings.TrimPrefix(text, w)
	}
	return errors.New(text)
}

func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "keys with values"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	default:
		return "a number"
	}
}

// oneDocument refuses a second document, which the decoder would drop without a
// word.
func oneDocument(data []byte) error {
	content := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, " \t\r\n")
		marker := line == "---" || line == "..." || strings.HasPrefix(line, "--- ")
		if marker && content {
			return errors.New("more than one YAML document; want one")
		}
		content = content || (line != "" && !marker && !strings.HasPrefix(line, "#"))
	}
	return nil
}

var decodesItself = reflect.TypeFor[json.Unmarshaler]()

func knownKeys(at string, tree any, of reflect.Type) error {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Implements(decodesItself) || reflect.PointerTo(of).Implements(decodesItself) {
		return nil
	}
	var errs []error
	switch node := tree.(type) {
	case []any:
		if of.Kind() == reflect.Slice {
			for i, item := range node {
				errs = append(errs, knownKeys(fmt.Sprintf("%s[%d]", at, i), item, of.Elem()))
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			place := strings.TrimPrefix(at+"."+key, ".")
			switch of.Kind() {
			case reflect.Map:
				errs = append(errs, knownKeys(place, node[key], of.Elem()))
			case reflect.Struct:
				fields := fieldsOf(of)
				if field, ok := fields[key]; ok {
					errs = append(errs, knownKeys(place, node[key], field))
					continue
				}
				errs = append(errs, fmt.Errorf("unknown key %q%s", place, DidYouMean(key, slices.Sorted(maps.Keys(fields)))))
			}
		}
	}
	return errors.Join(errs...)
}

// fieldsOf are the keys of a struct, those of embedded ones too.
func fieldsOf(of reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && f.Anonymous && f.Type.Kind() == reflect.Struct:
			maps.Copy(fields, fieldsOf(f.Type))
		default:
			fields[name] = f.Type
		}
	}
	return fields
}

// DidYouMean is `, did you mean "x"?` for the word nearest to the given one, or
// nothing when none is near.
func DidYouMean(word string, words []string) string {
	best, distance := "", len(word)/2+2
	for _, w := range words {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(w)); d < distance {
			best, distance = w, d
		}
	}
	if best == "" || word == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

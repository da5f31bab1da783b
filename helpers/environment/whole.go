package environment

import (
	"errors"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// within is what a scope did in a namespace that it made, and that goes with it.
type within struct {
	undo
	namespace int // entry of its creation
}

// parted is what Close is to undo, and apart from it what goes with namespaces of the
// scope's own, where it is to be left to them.
func (s *Scope) parted(todo []undo) (each []undo, gone []within, l *ledger) {
	if !s.Whole {
		return todo, nil, nil
	}
	l, err := openLedger(s.env.cache, s.env.RunID)
	if err != nil { // who undoes each by itself says why that cannot be
		return todo, nil, nil
	}
	made := map[string]int{}
	for _, u := range todo {
		e, ok := l.get(u.entry)
		if ok && e.Op == opCreate && e.GVK.GroupKind() == (schema.GroupKind{Kind: "Namespace"}) {
			made[e.Name] = u.entry
		}
	}
	for _, u := range todo {
		e, ok := l.get(u.entry)
		if namespace, is := made[e.Namespace]; ok && is {
			gone = append(gone, within{u, namespace})
			continue
		}
		each = append(each, u)
	}
	return each, gone, l
}

// swept notes that what was in a namespace went with it, and gives what is in one that stands.
func swept(l *ledger, gone []within) (left []undo, errs error) {
	for _, u := range gone {
		_, stands := l.get(u.namespace)
		var err error
		if !stands {
			err = l.undone(u.entry, "")
		}
		if stands || err != nil {
			left, errs = append(left, u.undo), errors.Join(errs, err)
		}
	}
	return left, errs
}

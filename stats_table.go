package grid

import (
	"cmp"
	"slices"
)

// handlerTable collects the statistics of handlers over connections.
type handlerTable struct {
	served []HandlerStats        // by number of the target
	called map[int]*HandlerStats // the same
	method func(number int) string
}

// newHandlerTable returns a table of registered handlers, and of the methods called from here, of
// which method returns the names.
func newHandlerTable(registered []registration, method func(number int) string) *handlerTable {
	t := &handlerTable{called: make(map[int]*HandlerStats), method: method}
	for _, h := range registered {
		t.served = append(t.served, HandlerStats{Role: RoleServer, ID: h.id, Name: h.String(), Subroute: h.subroute(), Stream: h.stream})
	}
	return t
}

// client returns the statistics of what is called with a number.
func (t *handlerTable) client(number int) *HandlerStats {
	h := t.called[number]
	if h == nil {
		h = &HandlerStats{Role: RoleClient}
		if number < handlerIDs {
			h.ID = HandlerID(number)
			h.Name = h.ID.String()
		} else {
			h.ID, h.Name = HandlerNamed, t.method(number)
		}
		t.called[number] = h
	}
	return h
}

// addConnection adds what was counted of the calls over a connection, and those that are open on it.
func (t *handlerTable) addConnection(l *link, open []OpenCall) {
	t.add(l.served.all(), l.called.all())
	t.addOpen(open)
}

// add adds what was counted of calls: of those that came in, and of those that went out, by number
// of the target.
func (t *handlerTable) add(served, called []*handlerCounters) {
	for i, counters := range served {
		if counters != nil && i < len(t.served) {
			counters.addTo(&t.served[i])
		}
	}
	for i, counters := range called {
		if counters != nil {
			counters.addTo(t.client(i))
		}
	}
}

// addOpen adds calls that are open.
func (t *handlerTable) addOpen(open []OpenCall) {
	for _, o := range open {
		var h *HandlerStats
		switch {
		case o.Role == RoleClient:
			h = t.client(o.number)
		case o.number < len(t.served):
			h = &t.served[o.number]
		default:
			continue
		}
		h.InFlight++
		if o.Stream {
			h.Streams++
		}
	}
}

// stats returns the handlers by ID, name, subroute and role.
func (t *handlerTable) stats() []HandlerStats {
	all := t.served
	for _, h := range t.called {
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b HandlerStats) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Subroute, b.Subroute), cmp.Compare(a.Role, b.Role))
	})
	return all
}

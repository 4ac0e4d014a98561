package grid

import (
	"cmp"
	"slices"
)

// handlerTable collects the statistics of handlers over connections.
type handlerTable struct {
	served []HandlerStats // by number of the registration
	called [256]*HandlerStats
}

func newHandlerTable(names []registration) *handlerTable {
	t := new(handlerTable)
	for _, h := range names {
		t.served = append(t.served, HandlerStats{Role: RoleServer, ID: h.id, Name: h.id.String(), Subroute: h.subroute})
	}
	return t
}

func (t *handlerTable) client(id HandlerID) *HandlerStats {
	if t.called[id] == nil {
		t.called[id] = &HandlerStats{Role: RoleClient, ID: id, Name: id.String()}
	}
	return t.called[id]
}

// add adds what was counted of the calls over a connection, and those that are open on it.
func (t *handlerTable) add(l *link, open []OpenCall) {
	for i, counters := range l.served.all() {
		if counters != nil && i < len(t.served) {
			counters.addTo(&t.served[i])
		}
	}
	for i, counters := range l.called.all() {
		if counters != nil {
			counters.addTo(t.client(HandlerID(i)))
		}
	}
	for _, o := range open {
		var h *HandlerStats
		switch {
		case o.Role == RoleClient:
			h = t.client(o.Handler)
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

// stats returns the handlers by ID, subroute and role.
func (t *handlerTable) stats() []HandlerStats {
	all := t.served
	for _, h := range t.called {
		if h != nil {
			all = append(all, *h)
		}
	}
	slices.SortFunc(all, func(a, b HandlerStats) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Subroute, b.Subroute), cmp.Compare(a.Role, b.Role))
	})
	return all
}
